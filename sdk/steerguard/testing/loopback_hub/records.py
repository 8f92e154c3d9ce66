"""A repository as a JSON document, and the folder that keeps one document for each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from steerguard.errors import RegistryUnavailableError
from steerguard.testing.loopback_hub.blobs import write_whole
from steerguard.testing.loopback_hub.history import Commit, History, RepoType
from steerguard.testing.loopback_hub.objects import StoredFile

RECORD_VERSION = 1


class Records(Protocol):
    """Keeps the newest value of each repository."""

    def save(self, history: History) -> None:
        """Keep a repository; all of it or, on an error, the value before."""
        ...

    def remove(self, repo_type: RepoType, repo: str) -> None:
        """Forget a repository."""
        ...

    def load(self) -> Iterator[History]:
        """Every repository that was kept."""
        ...


class NoRecords:
    """Keeps nothing: the hub lives in memory."""

    def save(self, history: History) -> None:
        """Keep nothing."""

    def remove(self, repo_type: RepoType, repo: str) -> None:
        """Forget nothing."""

    def load(self) -> Iterator[History]:
        """No repository."""
        return iter(())


class FolderRecords:
    """Keeps `<root>/<type>s/<quoted id>.json`, each replaced as a whole."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def save(self, history: History) -> None:
        """Keep a repository; all of it or, on an error, the value before."""
        write_whole(self._path(history.repo_type, history.id), record_bytes(history))

    def remove(self, repo_type: RepoType, repo: str) -> None:
        """Forget a repository; its bytes stay in the blob store."""
        self._path(repo_type, repo).unlink(missing_ok=True)

    def load(self) -> Iterator[History]:
        """Every repository that was kept.

        Raises:
            RegistryUnavailableError: a document is not one that this module wrote.
        """
        for path in sorted(self._root.glob("*/*.json")):
            yield parse_record(path.read_bytes(), where=path)

    def _path(self, repo_type: RepoType, repo: str) -> Path:
        return self._root / f"{repo_type}s" / f"{quote(repo, safe='')}.json"


def record_bytes(history: History) -> bytes:
    """A repository as JSON; files of equal trees are written once."""
    trees = {
        commit.tree: [asdict(file) for _, file in sorted(commit.files.items())] for commit in history.commits.values()
    }
    commits = [
        {
            "oid": commit.oid,
            "parent": commit.parent,
            "tree": commit.tree,
            "title": commit.title,
            "message": commit.message,
            "author": commit.author,
            "date": commit.date,
        }
        for commit in history.commits.values()
    ]
    document = {
        "version": RECORD_VERSION,
        "id": history.id,
        "type": history.repo_type,
        "created": history.created,
        "private": history.private,
        "gated": history.gated,
        "readers": sorted(history.readers),
        "branches": dict(history.branches),
        "tags": dict(history.tags),
        "commits": commits,
        "trees": trees,
    }
    return json.dumps(document, indent=1, sort_keys=True).encode()


def parse_record(content: bytes, *, where: Path) -> History:
    """The repository of a document.

    Raises:
        RegistryUnavailableError: the document is not one that `record_bytes` made.
    """
    try:
        document = json.loads(content)
        return _history(document)
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise RegistryUnavailableError(
            "a repository of the loopback hub cannot be read",
            where=where,
            expected=f"a document of version {RECORD_VERSION}, as the hub writes it",
            found=f"{type(problem).__name__}: {problem}",
            next_step="serve another folder, or remove this file to lose this one repository",
        ) from problem


def _history(document: dict[str, Any]) -> History:
    if document["version"] != RECORD_VERSION:
        raise ValueError(f"version {document['version']}")
    trees = {oid: {file["path"]: StoredFile(**file) for file in files} for oid, files in document["trees"].items()}
    commits = {commit["oid"]: Commit(files=trees[commit["tree"]], **commit) for commit in document["commits"]}
    return History(
        id=document["id"],
        repo_type=document["type"],
        created=document["created"],
        private=document["private"],
        gated=document["gated"],
        readers=frozenset(document["readers"]),
        commits=commits,
        branches=document["branches"],
        tags=document["tags"],
    )
