"""Reads a file of checkpoints note by note, in constant memory, whatever an attacker put into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

from steerguard.audit.evidence.checkpoint import SignedHead, parse_head
from steerguard.audit.evidence.note import MAX_NOTE_BYTES
from steerguard.errors import AuditVerificationError

NoteProblem = Literal["note", "note_torn", "note_order"]

_BLOCK_BYTES: Final = 2**16


@dataclass(frozen=True, slots=True)
class ReadNote:
    """One note of the file, or why the file cannot be read on."""

    line: int
    """Line of the file at which it begins, from 1."""
    end: int
    """Bytes of the file up to the end of this note."""
    head: SignedHead | None
    problem: NoteProblem | None = None
    """`note`: not a checkpoint; `note_torn`: the file ends within it; `note_order`: not larger than the one before."""


class NoteReader:
    """The notes of one file, in order. After the first problem it returns that problem again and again.

    Args:
        file: read from where it stands, unbuffered; what is appended later is found by a later call of `next`.
        bare: whether the last note may lack the empty line that follows a stored one.
    """

    def __init__(self, file: BinaryIO, *, bare: bool = False) -> None:
        self._file = file
        self._bare = bare
        self._buffer = b""
        self._line = 1
        self._offset = 0
        self._stuck: ReadNote | None = None

    def next(self) -> ReadNote | None:
        """Return the next note; None at the end of the file."""
        if self._stuck is not None:
            return self._stuck
        while True:
            length = self._note_length()
            if length is not None or len(self._buffer) > 2 * MAX_NOTE_BYTES:
                break
            block = self._file.read(_BLOCK_BYTES)
            if not block:
                break
            self._buffer += block
        if length is None:
            return self._at_end()
        content, self._buffer = self._buffer[:length], self._buffer[length + 1 :]
        return self._parsed(content, stored_bytes=length + 1)

    def _note_length(self) -> int | None:
        """Return the length of the note at the beginning of the buffer, its last newline included."""
        text_end = self._buffer.find(b"\n\n")
        note_end = -1 if text_end < 0 else self._buffer.find(b"\n\n", text_end + 2)
        return None if note_end < 0 else note_end + 1

    def _at_end(self) -> ReadNote | None:
        if not self._buffer:
            return None
        if self._bare and self._buffer.endswith(b"\n") and len(self._buffer) <= MAX_NOTE_BYTES:
            content, self._buffer = self._buffer, b""
            return self._parsed(content, stored_bytes=len(content))
        whole = len(self._buffer) > 2 * MAX_NOTE_BYTES
        note = ReadNote(self._line, self._offset, None, "note" if whole else "note_torn")
        if whole:
            self._stuck, self._buffer = note, b""
        # What is torn may be a note that is being written: a later call looks again.
        return note

    def _parsed(self, content: bytes, *, stored_bytes: int) -> ReadNote:
        line = self._line
        self._offset += stored_bytes
        self._line += content.count(b"\n") + 1
        try:
            head = parse_head(content)
        except AuditVerificationError:
            head = None
        # Base64 leaves bits unused: a note counts only as its signer would write it.
        if head is not None and head.note.content == content:
            return ReadNote(line, self._offset, head)
        self._stuck = ReadNote(line, self._offset, None, "note")
        return self._stuck
