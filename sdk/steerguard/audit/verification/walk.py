"""The walk over the records of one log: chain, tree, order, clocks and checkpoints, one line after the other.

The hash of a record is confirmed by the `prev` of the next one, so a record joins the tree when that matched.
A checkpoint over n records is compared once record n was read, or the log is at its end: then a changed record is found
by the chain at its own place, before the checkpoint over it fails for a range.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import orjson

from steerguard.audit.evidence.checkpoint import SignedHead
from steerguard.audit.evidence.tree import Frontier
from steerguard.audit.records.chain import FIRST_PREV
from steerguard.audit.verification.clock import Clocks
from steerguard.audit.verification.fault import FaultError, Mark
from steerguard.audit.verification.keys import KeyFaultError, KeysInForce
from steerguard.audit.verification.links import OutsideHead
from steerguard.audit.verification.place import misplaced, wrong_link
from steerguard.audit.verification.sealed import sealed_fault
from steerguard.audit.verification.statements import Statements
from steerguard.audit.verification.strict import strict_fault
from steerguard.audit.verification.trail import NoteTrail

_SPECIAL: Final = frozenset(
    {"log.open", "log.close", "log.recovered", "log.rotate", "log.prune", "log.key_rotate", "checkpoint"}
)


class Walk:
    """The state that one line hands to the next.

    Args:
        log: log id that every record must have; None takes it from the first record.
        trail: the checkpoints of the log.
        keys: which key signs them.
        heads: what others know of this log, in rising order of size.
        expected: sizes and tree hashes that log.prune records state.
        strict: whether every line is checked by itself, and every statement of the log about itself.
        directory: where encrypted content lies, which is checked with `strict`; None when there is none to check.
    """

    def __init__(
        self,
        log: str | None,
        trail: NoteTrail,
        keys: KeysInForce,
        *,
        heads: Sequence[OutsideHead] = (),
        expected: Sequence[tuple[int, bytes]] = (),
        strict: bool = False,
        directory: Path | None = None,
    ) -> None:
        self.log = log
        self.seq = 0
        self.first = 0
        self.prev = FIRST_PREV
        self.frontier = Frontier()
        self.bytes = 0
        self.last_t: str | None = None
        self.first_t: str | None = None
        self.good = Mark()
        self.good_head = Mark()
        self.confirmed_t: str | None = None
        self.anchor = Mark()
        self.own_anchor = Mark()
        self.checkpoints = 0
        self.as_found: range | None = None
        self.segment = self._first_segment = 0
        self.segment_start = True
        self.clocks = Clocks()
        self.statements = Statements(keys, strict=strict)
        self._before = FIRST_PREV
        self._pending: bytes | None = None
        self._pending_bytes = 0
        self._pending_line = b""
        self._trail = trail
        self._keys = keys
        self._heads = list(heads)
        self._expected = list(expected)
        self._strict = strict
        self._directory = directory
        self._ended = False
        self._recovered = False
        self._rotations = range(0)
        self._recovery: int | None = None
        self._due = 0
        self._good_expected = 0

    @property
    def confirmed(self) -> Mark:
        """What verified up to the last record whose hash is confirmed."""
        return Mark(self.frontier.size, self._before, self.frontier.root(), self.bytes, self.confirmed_t)

    def begin_at(self, size: int, peaks: Sequence[bytes], *, prev: str, segment: int) -> None:
        """Begin after pruned segments: the next record is a log.rotate that carries the tree so far."""
        self.prev = prev
        self.seq = self.first = size
        self.frontier = Frontier(size, peaks)
        self.segment = self._first_segment = segment
        self.good = Mark(size=0)
        self._heads = [head for head in self._heads if head.size >= size]
        self._trail.skip_to(size)

    def accept(self, line: bytes, following: bytes | None) -> None:
        """Check one line.

        Args:
            line: without its newline.
            following: the line after it, which only tells where a fault lies; None when there is none.

        Raises:
            FaultError: the first fault.
        """
        seq = self.seq
        try:
            record = orjson.loads(line)
            prev, kind, t, mono = record["prev"], record["type"], record["t"], record["mono"]
            if prev == self.prev:
                if self._pending is not None:
                    self._confirm()
                if seq == self._due:
                    self._reach()
            # All are read, whatever the first of them is: none may be missing.
            log, number, version = record["log"], record["seq"], record["v"]
            fits = (
                log == self.log
                and number == seq
                and version == 1
                and number.__class__ is mono.__class__ is int
                and kind.__class__ is t.__class__ is str
            )
        except ValueError:
            raise FaultError("json", seq, seq) from None
        except (KeyError, TypeError):
            raise FaultError("schema" if isinstance(record, dict) else "json", seq, seq) from None
        if not fits:
            self._misfit(line, record, following)
        if self._pending is not None or (seq == 0 and prev != FIRST_PREV):
            self._wrong_link(line, following)
        if self._strict:
            self._check_line(kind, record, line)
        if self._ended or self.segment_start or kind in _SPECIAL:
            self._special(kind, record, line, following)
        self._check_clocks(t, mono)
        self.last_t = t
        leaf = sha256(b"\x00" + line).digest()
        self.prev = leaf.hex()
        self._pending = leaf
        self._pending_bytes = len(line) + 1
        self._pending_line = line
        self.seq = seq + 1

    def _check_line(self, kind: str, record: dict[str, Any], line: bytes) -> None:
        fault = strict_fault(line)
        if fault is not None:
            raise FaultError(fault, self.seq, self.seq)
        if kind == "guard.decision" and self._directory is not None:
            detail = sealed_fault(self._directory, record, first_segment=self._first_segment)
            if detail is not None:
                raise FaultError("sealed", self.seq, self.seq, detail=detail)

    def _check_clocks(self, t: str, mono: int) -> None:
        try:
            goes_on = self.clocks.read(self.seq, t, mono)
        except ValueError:
            raise FaultError("schema", self.seq, self.seq) from None
        if not goes_on:
            raise FaultError("clock", self.seq, self.seq)

    def finish(self) -> None:
        """Confirm the last record, and compare the checkpoints over it.

        Raises:
            FaultError: a checkpoint does not agree.
        """
        if self._pending is not None:
            self._confirm()
        self._reach()

    def require_note(self, *, at: int, stated: bool) -> None:
        """Require a checkpoint of the size that the walk has reached.

        Args:
            at: that size.
            stated: whether the next record says that the checkpoint was signed.

        Raises:
            FaultError: it is not there.
        """
        if not self._keys.signs or not self._trail.required:
            return
        self._reach()
        if self._trail.last != at:
            # A record that says so falsely may be the bad one itself.
            self._raise_missing(at, at if stated else at - 1)

    def _confirm(self) -> None:
        leaf = self._pending
        if leaf is not None:
            self.frontier.append(leaf)
            self.bytes += self._pending_bytes
            self._pending = None
            self._before = self.prev
            self.confirmed_t = self.last_t

    def _special(self, kind: str, record: dict[str, Any], line: bytes, following: bytes | None) -> None:
        seq = self.seq
        starts, self.segment_start = self.segment_start, False
        self.first_t = self.first_t or record["t"]
        due = "log.open" if seq == 0 else "log.rotate" if starts else None
        if (kind in {"log.open", "log.rotate"} or due is not None) and kind != due:
            raise FaultError("order", seq, seq)
        if self._ended and not (self._recovered and kind in {"log.key_rotate", "log.close"}):
            raise FaultError("order", seq, seq)
        if kind not in _SPECIAL:
            return
        fault = self.statements.take(kind, record, line, segment=self.segment, root=self._root_if_strict(kind))
        if fault is not None:
            raise FaultError(fault.fault, seq, None if fault.fault == "unpinned" else seq, detail=fault.detail)
        if kind in {"checkpoint", "log.rotate", "log.close"}:
            self._require_stated_note(line, following)
        if self._strict and kind == "checkpoint" and record["signed_by"] != self._trail.last_signers:
            raise FaultError("statement", seq, seq, detail="signed_by is not who signed the checkpoint")
        if kind == "log.key_rotate" and record["purpose"] == "checkpoint":
            begun = self._rotations.start if self._rotations.stop == seq else seq
            self._rotations = range(begun, seq + 1)
        elif kind == "log.recovered":
            # A change of the key just before is the first record of the recovery.
            begun = self._rotations.start if self._rotations.stop == seq else seq
            found = range(max(self.good.size, self.own_anchor.size), begun)
            self._recovery = found.start if found else begun
            self.as_found = found or None
            self._keys.recovered()
            self._ended = self._recovered = True
        elif kind == "log.close":
            self._ended, self._recovered = True, False

    def _require_stated_note(self, line: bytes, following: bytes | None) -> None:
        try:
            self.require_note(at=self.seq, stated=True)
        except FaultError as fault:
            linked = following is None or wrong_link(line, following, seq=self.seq) < self.seq
            if fault.fault != "note_missing" or linked:
                raise
            raise FaultError("statement", self.seq, self.seq, detail=f"no checkpoint over {self.seq} records") from None

    def _root_if_strict(self, kind: str) -> Frontier | None:
        return self.frontier if self._strict and kind in {"checkpoint", "log.rotate"} else None

    def _reach(self) -> None:
        """Compare every checkpoint over as many records as are confirmed now."""
        size = self.frontier.size
        root: bytes | None = None
        while (note := self._trail.peek(size)) is not None and note.head is not None and note.head.head.size == size:
            root = root or self.frontier.root()
            self._check_note(note.head, root)
            self._trail.take()
        while self._heads and self._heads[0].size == size:
            root = root or self.frontier.root()
            head = self._heads[0]
            if head.root != root:
                good = self.good_head.size
                raise FaultError("head", good, max(size - 1, good), at="end", detail=head.words)
            self._heads.pop(0)
            if head.note is not None:
                self.good_head = self._mark(root)
                if self.anchor.size == size or self._keys.vouch_for(head.note):
                    self.anchor = self.own_anchor = self.good_head
        while self._expected and self._expected[0][0] <= size:
            expected_size, expected_root = self._expected.pop(0)
            root = root or self.frontier.root()
            if expected_size == size and expected_root != root:
                raise FaultError("tombstone", self._good_expected, max(size - 1, self._good_expected), at="end")
            self._good_expected = size
        due = [one.size for one in self._heads[:1]] + [one for one, _ in self._expected[:1]]
        following = self._trail.peek(size)
        if following is not None and following.head is not None:
            due.append(following.head.head.size)
        self._due = min(due, default=-1)

    def _check_note(self, note: SignedHead, root: bytes) -> None:
        size = note.head.size
        last = max(size - 1, self.good.size)
        if note.head.root != root:
            raise FaultError("checkpoint", self.good.size, last, at="note", detail=f"over {size} records")
        try:
            trusted = self._keys.check(note.note)
        except KeyFaultError as error:
            seq = 0 if error.fault == "unpinned" else self.good.size
            raise FaultError(error.fault, seq, last, at="note", detail=error.detail) from None
        self.checkpoints += 1
        self.good = self._mark(root)
        if self.as_found is not None and self.own_anchor.size < self.as_found.stop:
            # Recovery signed this, and nobody vouches for what it found.
            return
        if trusted:
            self.anchor = self.good
        self.own_anchor = self.good

    def _mark(self, root: bytes) -> Mark:
        return Mark(self.frontier.size, self._before, root, self.bytes, self.confirmed_t)

    def _raise_missing(self, at: int, last: int) -> None:
        note = self._trail.peek(at)
        last = max(last, self.good.size)
        if note is not None and note.problem is not None:
            raise FaultError(note.problem, self.good.size, last, at="note")
        raise FaultError("note_missing", self.good.size, last, at="none", detail=f"over {at} records")

    def end(self, *, in_use: bool) -> None:
        """Look for what must not follow the last record: checkpoints over more than there is.

        Raises:
            FaultError: the log was cut off, or the file of checkpoints is damaged.
        """
        size = self.frontier.size
        if self.statements.closed and not (in_use and self._trail.last != size):
            self.require_note(at=size, stated=False)
        note = self._trail.peek(size)
        if note is not None and note.problem is not None and not (in_use and note.problem == "note_torn"):
            raise FaultError(note.problem, self.good.size, max(size - 1, self.good.size), at="note")
        beyond = [one.size for one in self._heads[-1:]]
        if note is not None and note.head is not None and self._trail.was_there(note):
            beyond.append(note.head.head.size)
        beyond += [one for one, _ in self._expected[-1:]]
        if beyond:
            # An end that recovery wrote is not what stood there before the log was cut off.
            seq = size if self._recovery is None or not self.statements.closed else self._recovery
            detail = f"{max(beyond)} records were signed"
            if self._heads and self._heads[-1].size == max(beyond) and self._heads[-1].by is not None:
                detail += f", as log.open of {self._heads[-1].by} says"
            raise FaultError("truncated", seq, max(beyond) - 1, at="end", detail=detail)

    def _misfit(self, line: bytes, record: dict[str, Any], following: bytes | None) -> None:
        """Say why a line is not the next record; a first record without a log id to compare with names it."""
        seq, number = self.seq, record["seq"]
        if self.log is None and isinstance(record["log"], str):
            self.log = record["log"]
        if record["log"] != self.log:
            raise FaultError("log", seq, seq)
        if record["v"] != 1 or {number.__class__, record["mono"].__class__} != {int}:
            raise FaultError("schema", seq, seq)
        if {record["type"].__class__, record["t"].__class__} != {str}:
            raise FaultError("schema", seq, seq)
        if number == seq:
            return
        self._confirm_by_note()
        place = misplaced(
            line,
            number,
            following,
            seq=seq,
            prev=self.prev,
            attached=self._pending is None,
            repeats=line == self._pending_line,
            good=self.good.size,
        )
        raise FaultError("sequence", place.seq, place.until, back=place.back, detail=place.detail)

    def _wrong_link(self, line: bytes, following: bytes | None) -> None:
        """Say whether this record or the one before is the changed one."""
        seq = self.seq
        if seq == 0:
            raise FaultError("chain", 0, 0)
        if self._confirm_by_note():
            raise FaultError("chain", seq, seq)
        until = wrong_link(line, following, seq=seq)
        raise FaultError("chain", seq - 1, until, back=1)

    def _confirm_by_note(self) -> bool:
        """Confirm the last record by a checkpoint over it, when the next record does not; return whether it did."""
        note = self._trail.peek(self.seq)
        if self._pending is None or note is None or note.head is None or note.head.head.size != self.seq:
            return False
        ahead = self.frontier.copy()
        ahead.append(self._pending)
        if ahead.root() != note.head.head.root:
            return False
        self._confirm()
        self._reach()
        return True
