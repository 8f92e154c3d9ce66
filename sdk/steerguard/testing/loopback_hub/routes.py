"""The routes of the hub: which function answers which method and path, and what the functions share."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from steerguard.testing.loopback_hub.faults import Faults
from steerguard.testing.loopback_hub.history import Commit, History, RepoType
from steerguard.testing.loopback_hub.messages import Answer, Request, json_answer
from steerguard.testing.loopback_hub.refusals import Refusal, no_repository
from steerguard.testing.loopback_hub.repositories import Repositories, Repository
from steerguard.testing.loopback_hub.users import Users, check_files, check_read, check_write, hidden

TYPES: dict[str, RepoType] = {"models": "model", "datasets": "dataset"}
API = r"/api/(?P<types>models|datasets)/(?P<repo>[^/]+/[^/]+)"
SITE = r"/(?P<prefix>datasets/)?(?P<repo>[^/]+/[^/]+)"


@dataclass
class Site:
    """What every route may use."""

    repositories: Repositories
    users: Users
    faults: Faults
    page_size: int
    """Most entries of a page of a tree, log or list."""

    part_bytes: int
    """Large files above this many bytes are uploaded in parts of this size."""

    redirect: bool
    """Whether large files are sent from another origin, as the Hub's content network does."""

    large_files: bool = True
    """Whether weights and big files go up by the large-file protocol; else every file is kept by git."""

    endpoint: str = ""
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    """Signs addresses that need no token."""

    def repository(self, request: Request, place: Place) -> Repository:
        """The repository that a request names, where its user may know of it.

        Raises:
            Refusal: 401 or 404 RepoNotFound.
        """
        repository = self.repositories.find(place.repo_type, place.repo)
        if repository is None:
            raise hidden(request.user, place.repo)
        check_read(request.user, repository.history)
        return repository

    def readable(self, request: Request, place: Place) -> Repository:
        """The repository, where the user of the request may read its files.

        Raises:
            Refusal: 401 or 404 RepoNotFound, 401 or 403 GatedRepo.
        """
        repository = self.repository(request, place)
        check_files(request.user, repository.history)
        return repository

    def writable(self, request: Request, place: Place) -> Repository:
        """The repository, where the user of the request may change it.

        Raises:
            Refusal: 401, 403 or 404.
        """
        repository = self.repositories.find(place.repo_type, place.repo)
        if repository is None:
            raise hidden(request.user, place.repo)
        check_write(request.user, repository.history)
        return repository

    def shown(self, request: Request, history: History, revision: str) -> Commit:
        """The commit of a revision; a branch may be shown as it was earlier, where a fault says so.

        Raises:
            Refusal: 404 RevisionNotFound.
        """
        commit = history.at(revision)
        if revision.removeprefix("refs/heads/") not in history.branches:
            return commit
        fault = self.faults.take(request, "stale")
        if fault is None:
            return commit
        return history.at(fault.commit or commit.parent or commit.oid)


@dataclass(frozen=True)
class Place:
    """The parts of a path, decoded."""

    parts: dict[str, str]

    @property
    def repo(self) -> str:
        """Id of the repository, as `namespace/name`."""
        return self.parts["repo"]

    @property
    def repo_type(self) -> RepoType:
        """Model or dataset."""
        if "types" in self.parts:
            return TYPES[self.parts["types"]]
        return "dataset" if self.parts.get("prefix") else "model"

    @property
    def revision(self) -> str:
        """Branch, tag or commit."""
        return self.parts["revision"]


Handler = Callable[[Site, Request, Place], Answer]


@dataclass(frozen=True)
class Route:
    """One method and path, and the function that answers it."""

    method: str
    pattern: re.Pattern[str]
    handler: Handler


def route(method: str, pattern: str, handler: Handler) -> Route:
    """A route; `pattern` is a regular expression over the percent-encoded path, its groups are the parts."""
    return Route(method, re.compile(pattern), handler)


def answer(site: Site, routes: Sequence[Route], request: Request) -> Answer:
    """The answer of the route that fits.

    Raises:
        Refusal: from the route; 404 where none fits, with the code of a missing repository for paths under one,
            405 where the path has other methods only.
    """
    allowed = []
    for candidate in routes:
        found = candidate.pattern.fullmatch(request.path)
        if found is None:
            continue
        methods = {candidate.method, "HEAD"} if candidate.method == "GET" else {candidate.method}
        if request.method in methods:
            parts = {name: unquote(value) for name, value in found.groupdict().items() if value is not None}
            return candidate.handler(site, request, Place(parts))
        allowed += sorted(methods)
    if allowed:
        raise Refusal(405, f"{request.method} is not allowed here", headers={"Allow": ", ".join(allowed)})
    if re.match(r"/api/(models|datasets|spaces|kernels|buckets)/", request.path):
        raise no_repository(unquote(request.path))
    raise Refusal(404, f"The loopback hub has no such page: {request.method} {unquote(request.path)}")


def paged(site: Site, request: Request, items: Iterable[Any]) -> Answer:
    """A page of a list; the address of the next page is in the header `Link`."""
    everything = list(items)
    asked = request.one("limit")
    size = min(int(asked), site.page_size) if asked and asked.isdigit() and int(asked) > 0 else site.page_size
    cursor = request.one("cursor")
    start = int(cursor) if cursor and cursor.isdigit() else 0
    page = everything[start : start + size]
    headers = {}
    if start + size < len(everything):
        query = [(name, value) for name, values in request.query.items() if name != "cursor" for value in values]
        address = f"{site.endpoint}{request.path}?{urlencode([*query, ('cursor', str(start + size))])}"
        headers["Link"] = f'<{address}>; rel="next"'
    return json_answer(page, headers=headers)


def query_of(text: str) -> dict[str, list[str]]:
    """The parameters of a query or of a form, each with all of its values."""
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        found.setdefault(name.removesuffix("[]"), []).append(value)
    return found
