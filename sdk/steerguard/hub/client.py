"""The Hub, as this package uses it: heads, trees, files, commits, tags. The only module that calls `huggingface_hub`.

Every call that reads files names a full commit. No call follows a branch or a tag except `head` and `tags`, whose answers
are hints: what they lead to is compared with a signed index or a lock file.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast
from urllib.parse import quote

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import silent_tqdm

from steerguard.errors import (
    ArtifactFormatError,
    ArtifactNotFoundError,
    PublishRefusedError,
    RegistryUnavailableError,
)
from steerguard.hub.bounded import BoundedFile
from steerguard.hub.failures import asking, offline_error

RepoType = Literal["model", "dataset"]

DEFAULT_ENDPOINT: Final = "https://huggingface.co"
TIMEOUT_SECONDS: Final = 30.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a commit, as the Hub describes it: a claim, not a proof."""

    path: str
    size: int
    """Bytes."""
    git_sha1: str
    """Git's own digest of the blob, or of the pointer of a large file."""
    sha256: str | None
    """Hexadecimal SHA-256 where the Hub stores the file apart from Git."""


class HubClient:
    """Calls one Hub on behalf of one user.

    Args:
        endpoint: URL of the Hub; by default the environment's HF_ENDPOINT, else the public Hub.
        token: access token; by default HF_TOKEN or the one that `hf auth login` stored.
        timeout: seconds to wait for an answer to a question; a download waits HF_HUB_DOWNLOAD_TIMEOUT between two parts.
        offline: refuse every call; HF_HUB_OFFLINE does the same.
        progress: show a bar for each file of an artifact where standard error is a terminal.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        *,
        offline: bool = False,
        progress: bool = True,
    ) -> None:
        self._url = (endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
        # For messages: without the user and password of a proxy, should the address have them.
        self.endpoint = re.sub(r"//[^/]*@", "//", self._url)
        self._given = token
        self._timeout = timeout
        self._offline = offline
        self._progress = progress

    def __repr__(self) -> str:
        return f"HubClient({self.endpoint!r})"

    @property
    def offline(self) -> bool:
        """Whether every call is refused."""
        return self._offline or constants.is_offline_mode()

    def head(self, repo: str, *, repo_type: RepoType = "model") -> str:
        """Return the full id of the newest commit of `main`.

        Raises:
            RegistryUnavailableError, RegistryAccessError, ArtifactNotFoundError: as `asking` says.
        """
        doing, where = "looking for the newest commit", self._where(repo)
        with self._asking(doing, where=where):
            commit = self._api().repo_info(repo, repo_type=repo_type, timeout=self._timeout).sha
        return _full_commit(commit, where=where)

    def head_or_none(self, repo: str, *, repo_type: RepoType = "model") -> str | None:
        """Return the full id of the newest commit of `main`; None when the repository does not exist.

        Raises:
            RegistryUnavailableError, RegistryAccessError: as `asking` says.
        """
        try:
            return self.head(repo, repo_type=repo_type)
        except ArtifactNotFoundError:
            return None

    def tags(self, repo: str) -> dict[str, str]:
        """Return the commit of every tag of a model repository, by name.

        Raises:
            RegistryUnavailableError, RegistryAccessError, ArtifactNotFoundError: as `asking` says.
        """
        where = self._where(repo)
        with self._asking("listing tags", where=where):
            refs = self._api().list_repo_refs(repo, repo_type="model")
            found = {str(tag.name): str(tag.target_commit) for tag in refs.tags}
        return {name: _full_commit(commit, where=f"{where}: tag {name[:50]}") for name, commit in found.items()}

    def tree(self, repo: str, commit: str, *, repo_type: RepoType = "model", max_files: int) -> dict[str, RemoteFile]:
        """Return every file of a commit by path, in all folders.

        Args:
            repo: `organisation/name`.
            commit: full commit id.
            repo_type: kind of repository.
            max_files: a commit with more files is refused.

        Raises:
            ArtifactFormatError: too many files.
            RegistryUnavailableError, RegistryAccessError, ArtifactNotFoundError: as `asking` says.
        """
        where = self._where(repo, commit)
        files: dict[str, RemoteFile] = {}
        listed = folders = 0
        with self._asking("listing files", where=where):
            for entry in self._api().list_repo_tree(repo, recursive=True, revision=commit, repo_type=repo_type):
                if isinstance(entry, RepoFile):
                    listed += 1
                    sha256 = None if entry.lfs is None else str(entry.lfs.sha256)
                    size = int(entry.size if entry.lfs is None else entry.lfs.size)
                    path = str(entry.path)
                    files[path] = RemoteFile(path=path, size=size, git_sha1=str(entry.blob_id), sha256=sha256)
                else:
                    folders += 1
                if listed > max_files or folders > max_files:
                    raise ArtifactFormatError(
                        "The commit has too many files.", where=where, expected=f"at most {max_files}", found="more"
                    )
        return files

    def read(self, repo: str, commit: str, path: str, *, repo_type: RepoType = "model", max_bytes: int) -> bytes:
        """Return the content of one file of bounded size.

        Raises:
            ArtifactIntegrityError: the Hub sends more bytes.
            RegistryUnavailableError, RegistryAccessError, ArtifactNotFoundError: as `asking` says.
        """
        stream = io.BytesIO()
        self._transfer(repo, commit, path, stream, repo_type=repo_type, limit=max_bytes, size=None, stop=None)
        return stream.getvalue()

    def download(
        self, repo: str, commit: str, path: str, file: Path, *, size: int, stop: threading.Event | None = None
    ) -> None:
        """Write one file of a model repository, and go on where an earlier download of it ended.

        Args:
            repo: `organisation/name`.
            commit: full commit id.
            path: path in the repository.
            file: where to write; what it holds already is taken for the beginning.
            size: bytes that the file must have; no more is written.
            stop: ends the download when set.

        Raises:
            ArtifactIntegrityError: the Hub sends more bytes.
            TransferStoppedError: `stop` was set.
            RegistryUnavailableError, RegistryAccessError, ArtifactNotFoundError: as `asking` says.
            OSError: the operating system refuses.
        """
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        with os.fdopen(descriptor, "r+b") as stream:
            if stream.seek(0, io.SEEK_END) >= size:
                stream.seek(0)
                stream.truncate()
            self._transfer(repo, commit, path, stream, repo_type="model", limit=size, size=size, stop=stop)

    def create_repository(self, repo: str, *, repo_type: RepoType = "model", private: bool | None = None) -> None:
        """Make a repository unless it exists.

        Args:
            repo: `organisation/name`.
            repo_type: kind of repository.
            private: visibility of a new one; None leaves it to the organisation's settings. True refuses one that
                exists and is public.

        Raises:
            PublishRefusedError: it shall be private and is not.
            RegistryUnavailableError, RegistryAccessError, PublishRefusedError: as `asking` says.
        """
        where = self._where(repo)
        with self._asking("making a repository", where=where, writing=True):
            self._api().create_repo(repo, repo_type=repo_type, private=private, exist_ok=True)
            is_private = (
                self._api().repo_info(repo, repo_type=repo_type, timeout=self._timeout).private if private else None
            )
        if private and not is_private:
            raise PublishRefusedError(
                "What shall be private would go into a repository that others can read.",
                where=where,
                expected="a private repository",
                found="a public one, which was there before",
                next_step="Make the repository private on its page, or publish without --private.",
            )

    def commit(
        self,
        repo: str,
        *,
        additions: Mapping[str, bytes | Path],
        deletions: Iterable[str] = (),
        parent: str,
        message: str,
        repo_type: RepoType = "model",
    ) -> str:
        """Make one commit on `main` on top of its parent, all of it or nothing, and return its full id.

        Args:
            repo: `organisation/name`.
            additions: content, or the file that holds it, by path.
            deletions: paths to remove.
            parent: the commit that must be the newest one.
            message: first line of the commit's message.
            repo_type: kind of repository.

        Raises:
            PublishConflictError: the parent is not the newest commit any more.
            PublishRefusedError: the Hub does not accept the content.
            RegistryUnavailableError, RegistryAccessError, ArtifactNotFoundError: as `asking` says.
        """
        where = self._where(repo)
        operations: list[Any] = [
            CommitOperationAdd(path, str(content) if isinstance(content, Path) else content)
            for path, content in sorted(additions.items())
        ]
        operations += [CommitOperationDelete(path, is_folder=False) for path in sorted(deletions)]
        with self._asking("making a commit", where=where, writing=True):
            made = self._api().create_commit(
                repo, operations, commit_message=message, parent_commit=parent, repo_type=repo_type
            )
        return _full_commit(made.oid, where=where)

    def tag(self, repo: str, name: str, commit: str) -> None:
        """Make a tag in a model repository.

        Raises:
            PublishConflictError: the tag exists.
            RegistryUnavailableError, RegistryAccessError, ArtifactNotFoundError: as `asking` says.
        """
        with self._asking(f"making the tag {name}", where=self._where(repo), writing=True):
            self._api().create_tag(repo, tag=name, revision=commit, repo_type="model")

    def _transfer(
        self,
        repo: str,
        commit: str,
        path: str,
        stream: BinaryIO,
        *,
        repo_type: RepoType,
        limit: int,
        size: int | None,
        stop: threading.Event | None,
    ) -> None:
        where = f"{self._where(repo, commit)}/{path}"
        bounded = BoundedFile(stream, limit=limit, where=where, stop=stop)
        with self._asking(f"downloading {path}", where=where):
            kind = "datasets/" if repo_type == "dataset" else ""
            url = f"{self._url}/{kind}{repo}/resolve/{commit}/{quote(path)}"
            headers = build_hf_headers(token=self._given, library_name="steerguard")
            http_get(
                url,
                cast("BinaryIO", bounded),
                resume_size=stream.tell(),
                headers={**headers, "Accept-Encoding": "identity"},
                expected_size=size,
                displayed_filename=path,
                tqdm_class=None if self._progress and size is not None else silent_tqdm,
            )

    def _api(self) -> HfApi:
        return HfApi(endpoint=self._url, token=self._given, library_name="steerguard")

    def _asking(self, doing: str, *, where: str, writing: bool = False) -> Any:
        if self.offline:
            raise offline_error(doing, where=where)
        return asking(doing, where=where, token=self._token(), writing=writing)

    def _token(self) -> str | None:
        return self._given or get_token()

    def _where(self, repo: str, commit: str | None = None) -> str:
        return f"{self.endpoint}/{repo}" + (f" at {commit}" if commit else "")


def _full_commit(commit: object, *, where: str) -> str:
    """Return a commit id that the Hub named.

    Raises:
        RegistryUnavailableError: it is none.
    """
    if isinstance(commit, str) and _COMMIT.fullmatch(commit):
        return commit
    raise RegistryUnavailableError(
        "The registry's answer makes no sense.",
        where=where,
        expected="a full commit id",
        found=repr(commit)[:100],
        next_step="Check that HF_ENDPOINT names a Hub, then try again.",
    )
