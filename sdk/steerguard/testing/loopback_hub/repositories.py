"""All repositories of a hub: each an inspectable handle on its history, changed one whole value at a time."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from steerguard.errors import ArtifactNotFoundError
from steerguard.testing.loopback_hub.blobs import Blobs
from steerguard.testing.loopback_hub.history import (
    DEFAULT_BRANCH,
    Commit,
    Gated,
    History,
    RepoType,
    now_text,
    with_commit,
)
from steerguard.testing.loopback_hub.objects import StoredFile, large_file, regular_file
from steerguard.testing.loopback_hub.records import Records
from steerguard.testing.loopback_hub.refusals import Refusal, bad_request, conflict, no_repository
from steerguard.testing.loopback_hub.uploads import FIRST_ATTRIBUTES, is_large

REPOSITORY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class Repository:
    """One repository, to look into and to change as somebody with power over the hub could."""

    def __init__(self, history: History, blobs: Blobs, records: Records, lock: threading.RLock) -> None:
        self._history = history
        self._blobs = blobs
        self._records = records
        self._lock = lock
        self._gone = False

    @property
    def history(self) -> History:
        """Everything about the repository at this moment."""
        return self._history

    @property
    def commits(self) -> tuple[Commit, ...]:
        """Every commit, oldest first, also those that no branch reaches."""
        return tuple(self._history.commits.values())

    @property
    def head(self) -> str:
        """Id of the newest commit of the default branch."""
        return self._history.branches[DEFAULT_BRANCH]

    @property
    def tags(self) -> Mapping[str, str]:
        """Commit ids by tag."""
        return dict(self._history.tags)

    @property
    def branches(self) -> Mapping[str, str]:
        """Commit ids by branch."""
        return dict(self._history.branches)

    def files(self, revision: str = DEFAULT_BRANCH) -> Mapping[str, bytes]:
        """The bytes of every file by path.

        Raises:
            ArtifactNotFoundError: there is no such branch, tag or commit.
        """
        files = self._at(revision).files
        return {path: self.read(file) for path, file in files.items()}

    def read(self, file: StoredFile) -> bytes:
        """The bytes of one file of a commit."""
        return self._blobs.read(file.sha256)

    def change(self, step: Callable[[History], History]) -> History:
        """Replace the history by what `step` makes of it: kept first, then shown.

        Raises:
            Refusal: from `step`; nothing has changed.
            OSError: it could not be kept; nothing has changed.
        """
        with self._lock:
            if self._gone:
                raise no_repository(self._history.id)
            history = step(self._history)
            self._records.save(history)
            self._history = history
            return history

    def plant(
        self,
        files: Mapping[str, bytes],
        *,
        delete: Iterable[str] = (),
        branch: str = DEFAULT_BRANCH,
        message: str = "changed behind the owner's back",
    ) -> str:
        """Commit without any check of names, tokens or parents, and return the commit id.

        Args:
            files: bytes by path; a path may be one that no client would send.
            delete: paths to remove.
            branch: an existing branch.
            message: title of the commit.

        Raises:
            ArtifactNotFoundError: there is no such branch.
        """
        gone = set(delete)

        def step(history: History) -> History:
            kept = {path: file for path, file in self._at(branch).files.items() if path not in gone}
            new = {path: self._stored(path, content) for path, content in files.items()}
            return with_commit(history, {**kept, **new}, branch=branch, title=message, author="someone")

        return self.change(step).branches[branch]

    def move_tag(self, tag: str, commit: str) -> None:
        """Point a tag, new or not, at another commit (id, branch or tag).

        Raises:
            ArtifactNotFoundError: there is no such commit.
        """
        oid = self._at(commit).oid
        self.change(lambda history: replace(history, tags={**history.tags, tag: oid}))

    def set_access(
        self, *, private: bool | None = None, gated: Gated | None = None, readers: Iterable[str] | None = None
    ) -> None:
        """Change who may read; None leaves a setting as it is."""

        def step(history: History) -> History:
            return replace(
                history,
                private=history.private if private is None else private,
                gated=history.gated if gated is None else gated,
                readers=history.readers if readers is None else frozenset(readers),
            )

        self.change(step)

    def retire(self) -> None:
        """Change nothing any more: the repository was deleted."""
        with self._lock:
            self._gone = True

    def _at(self, revision: str) -> Commit:
        try:
            return self._history.at(revision)
        except Refusal as refusal:
            raise ArtifactNotFoundError(
                "the repository has no such revision",
                where=self._history.id,
                expected=sorted({*self._history.branches, *self._history.tags}),
                found=revision,
                next_step="name a branch, a tag or a commit id",
            ) from refusal

    def _stored(self, path: str, content: bytes) -> StoredFile:
        digest = self._blobs.put(content)
        return large_file(path, digest, len(content)) if is_large(path, len(content)) else regular_file(path, content)


class Repositories:
    """The repositories of a hub by type and id; safe to use from several threads."""

    def __init__(self, blobs: Blobs, records: Records) -> None:
        self.blobs = blobs
        self._records = records
        self._lock = threading.RLock()
        self._all: dict[tuple[RepoType, str], Repository] = {}
        for history in records.load():
            self._all[history.repo_type, history.id] = self._handle(history)

    def find(self, repo_type: RepoType, repo: str) -> Repository | None:
        """The repository, or None."""
        with self._lock:
            return self._all.get((repo_type, repo))

    def of_type(self, repo_type: RepoType) -> list[Repository]:
        """All repositories of a type by id."""
        with self._lock:
            return [handle for (kind, _), handle in sorted(self._all.items()) if kind == repo_type]

    def create(self, repo_type: RepoType, repo: str, *, private: bool = False, author: str) -> Repository:
        """Make a repository with a first commit that holds `.gitattributes`, as the Hub does.

        Raises:
            Refusal: 400 for a malformed id, 409 where it exists.
        """
        if not REPOSITORY_ID.fullmatch(repo):
            raise bad_request(f"Invalid repository name: {repo}")
        with self._lock:
            if (repo_type, repo) in self._all:
                raise conflict("You already created this repo")
            history = History(
                id=repo,
                repo_type=repo_type,
                created=now_text(),
                private=private,
                gated=False,
                readers=frozenset(),
                commits={},
                branches={},
                tags={},
            )
            self.blobs.put(FIRST_ATTRIBUTES)
            files = {".gitattributes": regular_file(".gitattributes", FIRST_ATTRIBUTES)}
            history = with_commit(history, files, branch=DEFAULT_BRANCH, title="initial commit", author=author)
            self._records.save(history)
            handle = self._handle(history)
            self._all[repo_type, repo] = handle
            return handle

    def delete(self, repo_type: RepoType, repo: str) -> None:
        """Forget a repository.

        Raises:
            Refusal: 404 where it is gone already.
        """
        with self._lock:
            if (repo_type, repo) not in self._all:
                raise no_repository(repo)
            self._records.remove(repo_type, repo)
            self._all.pop((repo_type, repo)).retire()

    def move(self, repo_type: RepoType, repo: str, new: str) -> None:
        """Give a repository another id.

        Raises:
            Refusal: 400 for a malformed id, 404 where it is gone, 409 where the new one exists.
        """
        if not REPOSITORY_ID.fullmatch(new):
            raise bad_request(f"Invalid repository name: {new}")
        with self._lock:
            if (repo_type, new) in self._all:
                raise conflict(f"A repository named {new} exists")
            handle = self._all.get((repo_type, repo))
            if handle is None:
                raise no_repository(repo)
            handle.change(lambda history: replace(history, id=new))
            self._records.remove(repo_type, repo)
            del self._all[repo_type, repo]
            self._all[repo_type, new] = handle

    def _handle(self, history: History) -> Repository:
        return Repository(history, self.blobs, self._records, self._lock)
