"""One reading of a log for proofs: the wanted records, and the newest checkpoint that agrees with what was read."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import orjson

from steerguard.audit.evidence.checkpoint import SignedHead
from steerguard.audit.evidence.layout import LogFiles
from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.evidence.tree import Frontier
from steerguard.audit.verification.files import LineReader, open_regular
from steerguard.audit.verification.notes import NoteReader
from steerguard.audit.verification.pins import Pins
from steerguard.errors import AuditKeyError, AuditVerificationError

WRITTEN_OTHERWISE: Final = "Run `steerguard audit verify` on the logs: they are not as they were written."
MAX_FAULTS: Final = 3
_NAMES_KEY: Final = b'"checkpoint_key"'


@dataclass(slots=True)
class Survey:
    """What one reading of a log found."""

    first: int = 0
    peaks: tuple[bytes, ...] = ()
    frontier: Frontier = field(default_factory=Frontier)
    hits: list[tuple[int, bytes]] = field(default_factory=list)
    named: list[NoteKey] = field(default_factory=list)
    """Keys that the log itself names."""
    newest: tuple[SignedHead, NoteKey] | None = None
    """The newest checkpoint that agrees with the log and is signed by a key that counts."""
    agreed: int = 0
    """Size of the newest checkpoint that agrees with the log, whoever signed it."""
    signers: set[str] = field(default_factory=set)
    """Keys that signed checkpoints over the last hit, as these say."""
    faults: list[str] = field(default_factory=list)
    """What is wrong with the log, the first few of it."""

    def note(self, fault: str) -> None:
        """Keep a fault; one altered record makes every later checkpoint disagree, so not all are kept."""
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(fault)

    def add(self, line: bytes) -> None:
        """Take the next line."""
        if _NAMES_KEY in line:
            record = parsed(line)
            text = record.get("checkpoint_key")
            if record.get("type") in {"log.open", "log.key_rotate"} and isinstance(text, str):
                try:
                    self.named.append(NoteKey.parse(text))
                except AuditKeyError:
                    self.note(f"record {self.frontier.size} names no key for checkpoints")
        self.frontier.append(sha256(b"\x00" + line).digest())

    def reach(self, head: SignedHead, pins: Pins) -> None:
        """Take the checkpoint over as many records as were read now."""
        size = self.frontier.size
        if head.head.root != self.frontier.root():
            self.note(f"the checkpoint over {size} records does not agree with the log")
            return
        try:
            signers = head.note.signed_by(pins.keys or self.named)
        except AuditVerificationError as error:
            self.note(f"the checkpoint over {size} records: {error.summary}")
            return
        self.agreed = size
        if self.hits and size > self.hits[-1][0]:
            self.signers = {f"{one.name}+{one.hash}" for one in head.note.signatures}
        if signers:
            self.newest = (head, signers[-1])


def heads_of(stack: ExitStack, files: LogFiles, pins: Pins, survey: Survey) -> Iterator[SignedHead]:
    """Return the checkpoints of a log by rising size: those of its file, as far as it goes now, and the pinned ones."""
    elsewhere = pins.heads_of(files.log)
    if files.checkpoints is None:
        return iter(elsewhere)
    file = stack.enter_context(open_regular(files.checkpoints))
    there = os.fstat(file.fileno()).st_size

    def written() -> Iterator[SignedHead]:
        notes = NoteReader(file)
        while (note := notes.next()) is not None and note.end <= there:
            if note.head is None or note.head.head.log != files.log:
                if note.problem != "note_torn":
                    survey.note(f"line {note.line} of its checkpoints is no checkpoint of it")
                return
            yield note.head

    return heapq.merge(written(), elsewhere, key=_size)


def lines_of(files: LogFiles, survey: Survey) -> Iterator[bytes]:
    """Yield the whole lines of a log; what is pruned at its beginning is put into the survey as peaks."""
    following: int | None = None
    for number, path in files.segments:
        if following is not None and number != following:
            survey.note(f"segment {following} is missing")
            return
        with open_regular(path) as file:
            reader = LineReader(file)
            begun = following is not None or number == 0
            for block in reader.blocks():
                if not begun:
                    _begin_after_pruning(block[0], survey)
                    begun = True
                yield from block
            if reader.too_long or (reader.tail and number != files.segments[-1][0]):
                survey.note(f"segment {number} ends within a line")
                return
        following = number + 1


def _begin_after_pruning(line: bytes, survey: Survey) -> None:
    record = parsed(line)
    try:
        frontier = Frontier(record["size"], [bytes.fromhex(peak) for peak in record["peaks"]])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise AuditVerificationError(
            "The first segment that is left does not say what came before it.",
            expected="a record log.rotate with the size and the peaks of the tree",
            next_step=WRITTEN_OTHERWISE,
        ) from None
    survey.first, survey.peaks, survey.frontier = frontier.size, frontier.peaks, frontier


def parsed(line: bytes) -> dict[str, Any]:
    """Return the record of a line; empty when it is none."""
    try:
        record = orjson.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _size(head: SignedHead) -> int:
    return head.head.size
