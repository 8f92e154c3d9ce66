"""The checkpoints of a log in the order of its file, read as far as the records have come."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from steerguard.audit.verification.notes import ReadNote


class Notes(Protocol):
    """Where checkpoints come from; see `verify_notes.NoteReader`."""

    def next(self) -> ReadNote | None:
        """Return the next one; None when there is none, for now."""


class NoNotes:
    """A log without a file of checkpoints."""

    def next(self) -> ReadNote | None:
        """Return None."""
        return None


class NoteTrail:
    """Hands out the next checkpoint until it is taken.

    A checkpoint is in the file before any record that comes after it. What stood in the file when reading began is
    therefore covered by the records that are read after that; what was appended later may be ahead of them.

    Args:
        notes: the file.
        log: log id that they must name.
        there: bytes of the file when reading began.
        required: whether the checkpoints that records mention must be there.
    """

    def __init__(self, notes: Notes, log: str | None, *, there: int = 0, required: bool = True) -> None:
        self._notes = notes
        self.required = required
        self._log = log
        self._there = there
        self._next: ReadNote | None = None
        self.last = -1
        """Size of the last one that was taken; -1 before the first."""
        self.last_signers: list[str] = []
        """Key hashes of its signatures."""
        self.line: int | None = None
        """Line of the file at which the next one begins, or the last one when there is no next."""

    def peek(self, size: int) -> ReadNote | None:
        """Return the next checkpoint, or the problem that stands in its place; None when there is none.

        Args:
            size: records so far: a checkpoint that was appended during the walk and is over fewer cannot be compared any
                more and is passed over.
        """
        while self._next is None or self._next.problem == "note_torn":
            note = self._notes.next()
            if note is None:
                self._next = None
                return None
            self._next = self._judged(note)
            self.line = note.line
            head = self._next.head
            if head is not None and head.head.size < size and not self.was_there(note):
                self.last = head.head.size
                self._next = None
            elif self._next.problem == "note_torn":
                break
        return self._next

    def take(self) -> None:
        """Go on to the one after the next."""
        if self._next is not None and self._next.head is not None:
            self.last = self._next.head.head.size
            self.last_signers = [one.hash for one in self._next.head.note.signatures]
        self._next = None

    def skip_to(self, size: int) -> None:
        """Pass over the checkpoints of fewer than `size` records: their records were pruned."""
        while (note := self.peek(0)) is not None and note.head is not None and note.head.head.size < size:
            self.take()

    def was_there(self, note: ReadNote) -> bool:
        """Whether it stood in the file when reading began."""
        return note.end <= self._there

    def _judged(self, note: ReadNote) -> ReadNote:
        if note.head is None:
            return note
        if self._log is not None and note.head.head.log != self._log:
            return replace(note, head=None, problem="note")
        if note.head.head.size <= self.last:
            return replace(note, head=None, problem="note_order")
        return note
