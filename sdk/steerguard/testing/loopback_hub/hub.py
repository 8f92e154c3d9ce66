"""`LoopbackHub`: the hub as an object, with everything that a test or a demonstration may ask of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from steerguard.errors import ArtifactNotFoundError, RegistryUnavailableError
from steerguard.testing.loopback_hub.blobs import FolderBlobs, MemoryBlobs
from steerguard.testing.loopback_hub.faults import Fault, FaultKind, Faults, FaultSettings
from steerguard.testing.loopback_hub.history import RepoType
from steerguard.testing.loopback_hub.journal import Exchange, Journal
from steerguard.testing.loopback_hub.records import FolderRecords, NoRecords
from steerguard.testing.loopback_hub.repositories import Repositories, Repository
from steerguard.testing.loopback_hub.routes import Site
from steerguard.testing.loopback_hub.server import HubServer
from steerguard.testing.loopback_hub.users import User, Users

WRITER = "writer"
PAGE_SIZE = 1000
PART_BYTES = 64 * 1024 * 1024


class LoopbackHub:
    """A Hub-compatible server on 127.0.0.1, for the lifetime of a `with` block.

    Entered again, the same object serves what it had at the same address: an outage in between is two blocks.

    Args:
        root: folder that keeps repositories and files across restarts; None keeps them in memory.
        port: port to listen on, 0 to 65535; 0 takes a free one.
        token: token of the first account, `writer`, which may write in every namespace; None makes one up.
        page_size: most entries of one page of a tree, log or list, 1 or more.
        part_bytes: large files of more bytes than this are uploaded in parts of this size, 1 or more.
        redirect: send large files from another origin (`localhost`), as the Hub's content network does.
        large_files: weights and files of more than 10 MiB are large files; False keeps every file in git, which needs
            neither xet storage nor its being switched off.
        on_request: called with each request once it is carried out, before it is answered; from several threads.

    Raises:
        RegistryUnavailableError: the folder holds something that the hub did not write.
        OSError: on entering, the port is taken; or the folder cannot be used.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        port: int = 0,
        token: str | None = None,
        page_size: int = PAGE_SIZE,
        part_bytes: int = PART_BYTES,
        redirect: bool = False,
        large_files: bool = True,
        on_request: Callable[[Exchange], None] | None = None,
    ) -> None:
        self._users = Users()
        self.token = self._users.add(User(WRITER, everywhere=True), token)
        self._faults = Faults()
        if root is None:
            self._repositories = Repositories(MemoryBlobs(), NoRecords())
        else:
            self._repositories = Repositories(FolderBlobs(root / "blobs"), FolderRecords(root / "repositories"))
        site = Site(
            repositories=self._repositories,
            users=self._users,
            faults=self._faults,
            page_size=page_size,
            part_bytes=part_bytes,
            redirect=redirect,
            large_files=large_files,
        )
        self._site = site
        self._journal = Journal(on_request)
        self._port = port
        self._server: HubServer | None = None

    def __enter__(self) -> Self:
        server = HubServer(("127.0.0.1", self._port), self._site, self._journal)
        self._port = int(server.server_address[1])
        self._site.endpoint = self.endpoint
        self._server = server
        server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    @property
    def endpoint(self) -> str:
        """Address without a slash at the end, for `HfApi(endpoint=…)` or `HF_ENDPOINT`.

        Raises:
            RegistryUnavailableError: the hub was never served, so that it has no port yet.
        """
        if not self._port:
            raise RegistryUnavailableError(
                "the loopback hub has no address before it is served",
                where="LoopbackHub.endpoint",
                next_step="use it as `with LoopbackHub() as hub:`",
            )
        return f"http://127.0.0.1:{self._port}"

    @property
    def requests(self) -> list[str]:
        """Method and decoded path of every request so far, such as `GET /api/models/acme/probe`."""
        return [exchange.line for exchange in self._journal.exchanges()]

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """Every request so far with its query, range, user and status."""
        return self._journal.exchanges()

    def forget_requests(self) -> None:
        """Begin `requests` and `exchanges` anew."""
        self._journal.forget()

    def add_user(
        self, name: str, organisations: Iterable[str] = (), token: str | None = None, *, write: bool = True
    ) -> str:
        """Add an account and return its token.

        Args:
            name: name of the user, who owns the namespace of that name.
            organisations: namespaces that the user is a member of.
            token: its token; None makes one up.
            write: False for a token that only reads.
        """
        return self._users.add(User(name, frozenset(organisations), write), token)

    def withdraw_token(self, token: str) -> None:
        """Make a token worthless."""
        self._users.withdraw(token)

    def repository(self, repo: str, repo_type: RepoType = "model") -> Repository:
        """A repository, to look into and to change behind its owner's back.

        Raises:
            ArtifactNotFoundError: there is none of that id and type.
        """
        repository = self._repositories.find(repo_type, repo)
        if repository is None:
            raise ArtifactNotFoundError(
                "the loopback hub has no such repository",
                where=self.endpoint,
                expected=[known.history.id for known in self._repositories.of_type(repo_type)],
                found=f"{repo_type} {repo}",
                next_step="create it with the client first, or name its type",
            )
        return repository

    def move_tag(self, repo: str, tag: str, commit: str, repo_type: RepoType = "model") -> None:
        """Point a tag at another commit, which no honest publisher does.

        Raises:
            ArtifactNotFoundError: there is no such repository or commit.
        """
        self.repository(repo, repo_type).move_tag(tag, commit)

    def fault(
        self,
        kind: FaultKind,
        match: str | None = None,
        times: int | None = None,
        *,
        seconds: float = 1.0,
        at: int | None = None,
        commit: str | None = None,
        retry_after: int | None = None,
    ) -> Fault:
        """Spoil requests from now on.

        Args:
            kind: `unauthorized` 401, `forbidden` 403, `gated` 403 GatedRepo, `conflict` 409, `stale_parent` 412,
                `unavailable` 503; `missing`: a file is not found; `tamper`: one bit of a file is flipped, size and
                entity tag stay; `truncate`: a file is shorter, and every length says so; `stale`: branches show an
                earlier commit; `slow`: the body takes longer; `drop`: the connection ends within the body; `lost`:
                the request is carried out and the connection ends without an answer.
            match: glob over the decoded path, or over `METHOD path`; None: every file for the kinds about files, every
                commit for `conflict`, `stale_parent` and `lost`, every request for the others.
            times: how many requests are spoiled; None: all until the fault is lifted.
            seconds: of `slow`, how much longer the body takes.
            at: of `tamper`, the byte that changes; of `truncate` and `drop`, how many bytes are sent; None: half.
            commit: of `stale`, the commit id shown; None: the one before the newest.
            retry_after: of `unavailable`, seconds in the header `Retry-After`; None: no header.
        """
        return self._faults.add(FaultSettings(kind, match, times, seconds, at, commit, retry_after))

    def lift_faults(self) -> None:
        """Spoil nothing any more."""
        self._faults.lift()
