"""Who may do what: users with tokens, organisations, and what a repository shows to whom."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, replace

from steerguard.testing.loopback_hub.history import History
from steerguard.testing.loopback_hub.refusals import (
    Refusal,
    gated_repository,
    no_repository,
    not_allowed,
    not_signed_in,
)


@dataclass(frozen=True)
class User:
    """One account."""

    name: str
    organisations: frozenset[str] = frozenset()
    write: bool = True
    """False: the token reads only."""

    everywhere: bool = False
    """True: member of every namespace, as the account that the hub starts with."""

    def is_member(self, namespace: str) -> bool:
        """Whether the namespace is the user's own, or of one of the user's organisations."""
        return self.everywhere or namespace == self.name or namespace in self.organisations

    def may_write(self, namespace: str) -> bool:
        """Whether the user may create and change repositories of the namespace."""
        return self.write and self.is_member(namespace)


class Users:
    """The accounts of a hub by token; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_token: dict[str, User] = {}

    def add(self, user: User, token: str | None = None) -> str:
        """Add an account, or one more token of it, and return the token."""
        token = token or f"hf_loopback{secrets.token_hex(12)}"
        with self._lock:
            self._by_token[token] = user
        return token

    def join(self, name: str, organisation: str) -> None:
        """Make a user a member of one more organisation."""
        with self._lock:
            for token, user in self._by_token.items():
                if user.name == name:
                    self._by_token[token] = replace(user, organisations=user.organisations | {organisation})

    def withdraw(self, token: str) -> None:
        """Make a token worthless."""
        with self._lock:
            self._by_token.pop(token, None)

    def of_header(self, authorization: str | None) -> User | None:
        """The user that an `Authorization` header names; None for a request without one.

        Raises:
            Refusal: 401 where the header names a token that nobody has.
        """
        if not authorization:
            return None
        scheme, _, token = authorization.partition(" ")
        with self._lock:
            user = self._by_token.get(token.strip()) if scheme.lower() == "bearer" else None
        if user is None:
            raise not_signed_in()
        return user


def may_read(user: User | None, history: History) -> bool:
    """Whether the user is told that the repository exists."""
    return not history.private or is_insider(user, history)


def is_insider(user: User | None, history: History) -> bool:
    """Whether the user is a member of the owner, or was given access."""
    return user is not None and (user.is_member(history.namespace) or user.name in history.readers)


def check_read(user: User | None, history: History) -> None:
    """Refuse to tell of a private repository.

    Raises:
        Refusal: 404 for a user, 401 for nobody; both with the code of a missing repository.
    """
    if not may_read(user, history):
        raise hidden(user, history.id)


def check_files(user: User | None, history: History) -> None:
    """Refuse the files of a private or gated repository.

    Raises:
        Refusal: as `check_read`, and 401 or 403 GatedRepo.
    """
    check_read(user, history)
    if history.gated is not False and not is_insider(user, history):
        raise gated_repository(history.id, status=401 if user is None else 403)


def check_write(user: User | None, history: History) -> User:
    """The user, who may change the repository.

    Raises:
        Refusal: 401 without a token, 403 without the right, 404 where the repository is private to others.
    """
    if user is None:
        raise not_signed_in()
    check_read(user, history)
    if not user.may_write(history.namespace):
        raise not_allowed(f"write to {history.id}")
    return user


def hidden(user: User | None, repo: str) -> Refusal:
    """The answer for a repository that is not there for this user."""
    return no_repository(repo, status=401 if user is None else 404)
