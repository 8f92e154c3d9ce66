"""What verification found: values for people and programs, with every fault in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Status = Literal["ok", "broken"]
Fault = Literal[
    "torn",
    "long",
    "json",
    "duplicate_key",
    "canonical",
    "schema",
    "log",
    "sequence",
    "chain",
    "order",
    "clock",
    "file",
    "segment",
    "pruned",
    "note",
    "note_torn",
    "note_order",
    "note_missing",
    "signature",
    "unpinned",
    "checkpoint",
    "truncated",
    "head",
    "tombstone",
    "statement",
    "torn_file",
    "sealed",
]

FAULTS: Final[dict[Fault, str]] = {
    "torn": "the bytes after the last newline are not a record: a write was cut short and the log was not recovered, or "
    "its end was cut off",
    "long": "the line is longer than a record may be (1 MiB)",
    "json": "the line is not a JSON object in UTF-8",
    "duplicate_key": "the line has a key twice",
    "canonical": "the line is not in canonical form",
    "schema": "the record does not fit the schema of its type",
    "log": "the record belongs to another log",
    "sequence": "the sequence number is not the next one: a record is missing, repeated or moved",
    "chain": "its hash is not the `prev` of the next record: it was changed, or that `prev` was; "
    "in a first record, `prev` is not 64 zeros",
    "order": "log.open is not first, a record follows log.close, or a segment does not begin with its log.rotate",
    "clock": "the monotonic clock runs backwards",
    "file": "the file cannot be read, or is not a regular file",
    "segment": "a segment is missing, and later ones are there",
    "pruned": "the first segments are missing, and no log.prune record of a verified log of the directory says that they "
    "were pruned, up to exactly here",
    "note": "what stands in the file of checkpoints is not a checkpoint of this log",
    "note_torn": "the file of checkpoints ends within a checkpoint: it was cut, or the log was not recovered",
    "note_order": "the checkpoints do not rise in size: they were repeated or moved",
    "note_missing": "the log says that a checkpoint was signed here, and the file of checkpoints does not have it",
    "signature": "the checkpoint is not signed, or not rightly signed, by the key that the log says is in force",
    "unpinned": "the log is not signed by a pinned key: it was written under another key, or rewritten as a whole",
    "checkpoint": "the records agree with one another, and not with the checkpoint over them: they were rewritten, or the "
    "checkpoint was",
    "truncated": "a checkpoint covers more records than the log has: its end was cut off",
    "head": "the records are not those that a checkpoint kept elsewhere covers, or that a later log names: they were rewritten",
    "tombstone": "the records are not those that were pruned, by what the log.prune record says of them",
    "statement": "what the record says of the log is not so",
    "torn_file": "the file of the bytes that recovery set aside is missing, or is not what log.recovered says",
    "sealed": "the encrypted content is missing or is not what the record says",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstBad:
    """The first position that does not verify; nothing of the log was looked at after what showed it."""

    file: str | None
    """Name of the file; None when no file of the log is there to name."""
    line: int | None
    """Line of that file, from 1; None when the fault is not at a line."""
    seq: int
    """The first record that may be bad; as a number of records, how many verified."""
    until: int | None
    """The last record that the fault may lie in, `seq` when only one can be; None when that is not known."""
    fault: Fault
    detail: str = ""
    """What this fault is about, when the fault alone does not say."""

    @property
    def reason(self) -> str:
        """The fault in words."""
        return FAULTS[self.fault] + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedRange:
    """Segments that were deleted because their time was over, and the record that says so."""

    log: str
    segments: tuple[int, int]
    """First and last number."""
    records: tuple[int, int]
    """First and last sequence number."""
    bytes: int
    first_t: str
    last_t: str
    whole: bool
    """Whether the whole log was pruned."""
    by_log: str
    """The log with the log.prune record."""
    by_seq: int
    anchored: bool
    """Whether a pinned checkpoint covers that record; without pins, whether any checkpoint does."""


def unanchored_prune(pruned: PrunedRange) -> str:
    """Say that whoever can write the directory may have put the record of pruning there."""
    return f"no checkpoint that counts covers the record of what was pruned ({pruned.by_log}, record {pruned.by_seq})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenKey:
    """A key that signed checkpoints of a log, or that the log names."""

    name: str
    hash: str
    """8 hexadecimal digits."""
    pinned: bool
    """Pinned, or introduced by a checkpoint that a pinned key signed too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogReport:
    """What verifying one log found."""

    log: str
    status: Status
    records: int
    """Records that verified, from the first that is there."""
    size: int
    """The same with the pruned ones: the sequence number after the last record that verified."""
    head: str
    """Leaf hash of the last record that verified; 64 zeros when there is none."""
    root: str
    """Tree hash over the `size` records."""
    closed: bool
    """Whether it ends with log.close."""
    recovered: bool
    """Whether its process died and a later one ended it."""
    loss: str | None
    """What a recovered log may lack, in words; None for others."""
    in_use: bool
    """Whether a process held the log while it was verified: then it may go on after what was read."""
    first_t: str | None
    last_t: str | None
    """Wall clock of the first and the last record that verified."""
    first_bad: FirstBad | None
    pruned: tuple[PrunedRange, ...]
    gaps: tuple[tuple[int, int], ...]
    """Ranges of sequence numbers that are missing and not pruned, as far as they are known: first and last."""
    checkpoints: int
    """Checkpoints of the log's own file that were verified against the records."""
    pinned: bool
    """Whether a pin was there to check this log against. Otherwise `anchored` rests on the key that the log names itself."""
    anchored: int
    """Sequence number after the last record that a checkpoint of a pinned key covers, or one kept elsewhere.
    A checkpoint that recovery signed counts only where nothing lies under it that was as found."""
    as_found: int
    """Records that had no checkpoint when their process died: only the recovering process vouches for them, from then on."""
    unanchored: int
    """Records after that which verified."""
    unanchored_bytes: int
    unanchored_seconds: float
    """From the last anchored record to the last one, by the wall clock; never below 0."""
    keys: tuple[SeenKey, ...]
    torn_bytes: int
    """Bytes after the last newline of the last segment."""
    warnings: tuple[str, ...]

    @property
    def rests_on_pins(self) -> bool:
        """Whether a pin covers every record, and the end: an end without log.close may be one that was cut off."""
        return self.pinned and self.unanchored == 0 and (self.closed or self.in_use) and self.size > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingLog:
    """A log that should be in the directory and is not, without a record that it was pruned."""

    log: str
    named_by: str
    """What names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryReport:
    """What verifying the logs of a directory found."""

    logs: tuple[LogReport, ...]
    """Oldest first."""
    missing: tuple[MissingLog, ...]
    pruned: tuple[PrunedRange, ...]
    """Logs of which nothing is left, as log.prune records state them."""
    warnings: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """`ok` when every log verified and none is missing; warnings do not change that."""
        return "broken" if self.missing or any(report.status == "broken" for report in self.logs) else "ok"

    @property
    def anchored(self) -> bool:
        """Whether all is well and every record, the end of every log, and every record of pruning rests on a pin."""
        ranges = (*self.pruned, *(one for report in self.logs for one in report.pruned))
        return (
            self.status == "ok"
            and all(report.rests_on_pins for report in self.logs)
            and all(one.anchored for one in ranges)
        )
