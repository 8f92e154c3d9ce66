"""What a verifier trusts from elsewhere: checkpoint keys that it pins, and checkpoints that were kept in another place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from steerguard.audit.evidence.checkpoint import SignedHead
from steerguard.audit.evidence.layout import CHECKPOINTS_SUFFIX
from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.verification.files import open_regular
from steerguard.audit.verification.notes import NoteReader
from steerguard.errors import AuditKeyError, AuditVerificationError

MAX_KEY_FILE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Pins:
    """What the verifier knows from elsewhere. Without any, a log can only be checked against itself."""

    keys: tuple[NoteKey, ...] = ()
    """Checkpoint keys that are trusted."""
    heads: tuple[SignedHead, ...] = ()
    """Checkpoints that were kept elsewhere: each must lie on the log it names, whoever signed it.

    With keys, records under one count as anchored only if a trusted key signed it: others may have put it there.
    """
    _by_log: dict[str, list[SignedHead]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for head in self.heads:
            self._by_log.setdefault(head.head.log, []).append(head)
        for heads in self._by_log.values():
            heads.sort(key=lambda head: head.head.size)

    def heads_of(self, log: str) -> tuple[SignedHead, ...]:
        """Return the checkpoints of one log that were kept elsewhere, in rising order of size."""
        return tuple(self._by_log.get(log, ()))

    @property
    def any(self) -> bool:
        """Whether anything is pinned."""
        return bool(self.keys or self.heads)


NO_PINS: Final = Pins()


def pinned_key(text: str) -> NoteKey:
    """Return the key that `text` spells, or that the file at the path `text` holds.

    A text that spells a key is never taken for a path: whoever could put a file of that name in place would choose the key.

    Raises:
        AuditKeyError: it is neither a verifier key nor a readable file of one.
    """
    try:
        return NoteKey.parse(text)
    except AuditKeyError as problem:
        misspelled = problem
    try:
        with open_regular(Path(text)) as file:
            content = file.read(MAX_KEY_FILE_BYTES)
    except AuditVerificationError as problem:
        if "+" in text:
            raise misspelled from problem
        raise AuditKeyError(
            "The checkpoint key cannot be read.",
            where=text,
            expected="a verifier key, or the path of a .vkey file",
            found=problem.found,
            next_step="Give what `steerguard audit keygen` printed, or the path of the `.vkey` file.",
        ) from problem
    return NoteKey.parse(content.decode("utf-8", "replace"))


def heads_at(path: Path) -> Iterator[SignedHead]:
    """Yield the checkpoints of a file, one or several, or of every `*.checkpoints` file of a directory.

    Raises:
        AuditVerificationError: a file cannot be read, holds something else than checkpoints, or there is none.
    """
    try:
        files = (
            sorted(entry for entry in path.iterdir() if entry.name.endswith(CHECKPOINTS_SUFFIX))
            if path.is_dir()
            else [path]
        )
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    count = 0
    for file in files:
        for head in _heads_of(file):
            count += 1
            yield head
    if count == 0:
        raise _unreadable(path, "no checkpoint")


def _heads_of(path: Path) -> Iterator[SignedHead]:
    try:
        with open_regular(path) as file:
            notes = NoteReader(file, bare=True)
            while (note := notes.next()) is not None:
                if note.head is None:
                    raise _unreadable(path, f"line {note.line}: not a checkpoint of an audit log")
                yield note.head
    except AuditVerificationError as problem:
        raise _unreadable(path, str(problem.found)) from problem


def _unreadable(path: Path, found: str | None) -> AuditVerificationError:
    return AuditVerificationError(
        "The checkpoints that were kept elsewhere cannot be read.",
        where=path,
        expected=f"a file of signed checkpoints, or a directory of *{CHECKPOINTS_SUFFIX} files",
        found=found,
        next_step="Give the copy that the log wrote, unchanged.",
    )
