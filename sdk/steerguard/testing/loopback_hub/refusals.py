"""How the hub says no: a status, and the headers from which the client tells one refusal from another."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

EMPTY: Mapping[str, str] = MappingProxyType({})


class Refusal(Exception):  # noqa: N818 - an HTTP answer that ends a request, caught by the server
    """A request ends with an error answer; never leaves the server.

    Args:
        status: HTTP status, 400 to 599.
        message: what the client shows.
        code: value of `X-Error-Code`; the client maps it to its exception class.
        headers: further headers of the answer.
        body: the JSON document to send in place of `{"error": message}`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        headers: Mapping[str, str] = EMPTY,
        body: Any = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = headers
        self.body = {"error": message} if body is None else body


def no_repository(repo: str, *, status: int = 404) -> Refusal:
    """The repository does not exist, or the caller may not know that it does."""
    return Refusal(status, f"Repository not found: {repo}", code="RepoNotFound")


def no_revision(revision: str) -> Refusal:
    """The repository has no such branch, tag or commit."""
    return Refusal(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def no_entry(path: str, commit: str | None = None) -> Refusal:
    """The commit has no such file or folder; the commit is named so that the client may remember it."""
    headers = {} if commit is None else {"X-Repo-Commit": commit}
    return Refusal(404, f"Entry not found: {path}", code="EntryNotFound", headers=headers)


def not_signed_in() -> Refusal:
    """The request needs a token and carries none, or one that nobody has."""
    return Refusal(401, "Invalid credentials in Authorization header")


def not_allowed(what: str) -> Refusal:
    """The caller is known and may not do this."""
    return Refusal(403, f"You don't have the rights to {what}")


def gated_repository(repo: str, *, status: int = 403) -> Refusal:
    """The repository shows its files to accepted users only."""
    return Refusal(status, f"Access to {repo} is restricted: ask for access first", code="GatedRepo")


def bad_request(message: str, *, body: Any = None) -> Refusal:
    """The request is not one that the hub understands."""
    return Refusal(400, message, code="BadRequest", body=body)


def conflict(message: str, *, body: Any = None) -> Refusal:
    """What should be made exists already."""
    return Refusal(409, message, body=body)


def stale_parent(expected: str, head: str) -> Refusal:
    """The branch has moved on since the caller looked."""
    return Refusal(412, f"A commit has happened since: expected parent {expected}, the branch is at {head}")
