"""A repository as a value: its settings, commits, branches and tags, and the changes that make the next value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from steerguard.testing.loopback_hub.objects import StoredFile, commit_oid, folder_oids
from steerguard.testing.loopback_hub.refusals import bad_request, conflict, no_revision, stale_parent

RepoType = Literal["model", "dataset"]
Gated = Literal["auto", "manual", False]
DEFAULT_BRANCH = "main"
FULL_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Commit:
    """One commit: all files of the repository at that time."""

    oid: str
    parent: str | None
    tree: str
    """Git's id of the root folder."""

    files: Mapping[str, StoredFile]
    """Files by path."""

    title: str
    message: str
    author: str
    date: str
    """Coordinated universal time, as `2026-01-02T03:04:05.678Z`."""


@dataclass(frozen=True)
class History:
    """Everything a repository is, as one value that never changes."""

    id: str
    repo_type: RepoType
    created: str
    private: bool
    gated: Gated
    readers: frozenset[str]
    """Users outside the organisation who may read a private or gated repository."""

    commits: Mapping[str, Commit]
    """By id, oldest first."""

    branches: Mapping[str, str]
    tags: Mapping[str, str]

    @property
    def namespace(self) -> str:
        """The user or organisation that owns the repository."""
        return self.id.split("/")[0]

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag or an id names.

        Args:
            revision: name of a branch or tag, also as `refs/heads/…` or `refs/tags/…`, or 7 to 40 digits of an id.

        Raises:
            Refusal: 404 RevisionNotFound.
        """
        named = self.branches.get(revision.removeprefix("refs/heads/"))
        named = named or self.tags.get(revision.removeprefix("refs/tags/"))
        if named is None and revision in self.commits:
            named = revision
        if named is None and re.fullmatch(r"[0-9a-f]{7,39}", revision):
            matches = [oid for oid in self.commits if oid.startswith(revision)]
            named = matches[0] if len(matches) == 1 else None
        if named is None:
            raise no_revision(revision)
        return self.commits[named]

    def log(self, start: Commit) -> list[Commit]:
        """The commit and all before it, newest first."""
        found = []
        commit: Commit | None = start
        while commit is not None:
            found.append(commit)
            commit = self.commits[commit.parent] if commit.parent else None
        return found


def now_text() -> str:
    """The present time in coordinated universal time, to milliseconds, as the Hub writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def with_commit(
    history: History,
    files: Mapping[str, StoredFile],
    *,
    branch: str,
    title: str,
    description: str = "",
    author: str,
) -> History:
    """The history with one more commit on a branch.

    Args:
        history: what was before.
        files: all files of the new commit.
        branch: name of the branch; a repository without commits gets it.
        title: first line of the message.
        description: the rest of the message.
        author: name of the user.

    Raises:
        Refusal: 404 where the branch is missing.
    """
    if history.commits and branch not in history.branches:
        raise no_revision(branch)
    parent = history.branches.get(branch)
    tree = folder_oids(files.values())[""]
    message = f"{title}\n\n{description}" if description else title
    commit = Commit(
        oid=commit_oid(tree, parent, message, len(history.commits)),
        parent=parent,
        tree=tree,
        files=dict(files),
        title=title,
        message=message,
        author=author,
        date=now_text(),
    )
    commits = {**history.commits, commit.oid: commit}
    return replace(history, commits=commits, branches={**history.branches, branch: commit.oid})


def check_parent(expected: str | None, head: str) -> None:
    """Refuse a commit on another parent than its author knew.

    Args:
        expected: 7 to 40 digits of the commit id that the author knew; None takes whatever is there.
        head: the commit that the branch is at.

    Raises:
        Refusal: 412 where they differ.
    """
    if expected is not None and (len(expected) < 7 or not head.startswith(expected)):
        raise stale_parent(expected, head)


def with_tag(history: History, tag: str, revision: str) -> History:
    """The history with one more tag.

    Raises:
        Refusal: 404 where the revision is missing, 409 where the tag exists.
    """
    commit = history.at(revision)
    _check_reference(tag)
    if tag in history.tags:
        raise conflict(f"Tag reference exists already: {tag}")
    return replace(history, tags={**history.tags, tag: commit.oid})


def without_tag(history: History, tag: str) -> History:
    """The history without a tag.

    Raises:
        Refusal: 404 where there is no such tag.
    """
    if tag not in history.tags:
        raise no_revision(tag)
    return replace(history, tags={name: oid for name, oid in history.tags.items() if name != tag})


def with_branch(history: History, branch: str, start: str) -> History:
    """The history with one more branch.

    Raises:
        Refusal: 404 where the start is missing, 409 where the branch exists.
    """
    commit = history.at(start)
    _check_reference(branch)
    if branch in history.branches:
        raise conflict(f"Reference exists already: {branch}")
    return replace(history, branches={**history.branches, branch: commit.oid})


def without_branch(history: History, branch: str) -> History:
    """The history without a branch; its commits stay.

    Raises:
        Refusal: 404 where there is no such branch, 400 for the default one.
    """
    if branch not in history.branches:
        raise no_revision(branch)
    if branch == DEFAULT_BRANCH:
        raise bad_request("The default branch cannot be deleted")
    return replace(history, branches={name: oid for name, oid in history.branches.items() if name != branch})


def _check_reference(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,200}", name) or ".." in name or FULL_COMMIT.fullmatch(name):
        raise bad_request(f"Invalid reference name: {name}")
