"""Events of the log itself: its beginning and end, segments, checkpoints, keys, retention and erasure."""

from __future__ import annotations

from typing import Literal

from steerguard.audit.records.event_body import EventBody
from steerguard.audit.records.fields import (
    ContentMode,
    Count,
    Digest,
    DurabilityMode,
    FileName,
    Hash,
    Identifier,
    KeyId,
    Label,
    LogId,
    StatedReason,
    Timestamp,
    VerifierKey,
)


class LogOpen(EventBody):
    """The first record of every log."""

    event_type = "log.open"
    sdk: Label
    """Version of steerguard."""
    python: Label
    pid: Count
    content: ContentMode
    key: KeyId | None
    """Id of the key that content is hashed with; null when content is `none`."""
    forked_from: LogId | None
    """The parent's log when this process was forked while a log was open."""
    durability: DurabilityMode
    unsynced_us: Count | None
    """With `interval`: for how long a record may stay unsynced, in microseconds. Null otherwise."""
    unsynced_records: Count | None
    """With `batch`: how many records may be unsynced. Null otherwise."""
    checkpoint_key: VerifierKey | None
    """The key that signs checkpoints; null when none are signed. A verifier should know it from elsewhere."""
    previous: LogId | None
    """The newest other log in the directory when this one was made: should it vanish, it is missed."""
    previous_size: Count | None
    """Records under the last checkpoint of that log at this moment; null when it had none."""
    previous_root: Hash | None
    """RFC 6962 tree hash over them: should they be cut off or rewritten, it shows."""


class LogClose(EventBody):
    """The last record of a log that was closed in an orderly way, or that was recovered."""

    event_type = "log.close"


class LogRecovered(EventBody):
    """The log's process ended without closing it: what followed the last complete line was set aside, and the log ended."""

    event_type = "log.recovered"
    by: LogId
    """The log of the process that found it."""
    torn_bytes: Count
    torn_digest: Digest
    torn_file: FileName | None
    """Where the torn bytes are now; null when there were none."""
    torn_note_bytes: Count
    """Bytes of an incomplete checkpoint that were set aside with them."""


class LogRotate(EventBody):
    """The first record of every segment but the first: what the segment before it held."""

    event_type = "log.rotate"
    segment: Count
    """Number of the new segment."""
    previous: FileName
    previous_bytes: Count
    previous_digest: Digest
    """SHA-256 over the file."""
    size: Count
    """Records in all segments before this one."""
    root: Hash
    """RFC 6962 tree hash over them."""
    peaks: tuple[Hash, ...]
    """Roots of the perfect subtrees that the tree of that size is made of, largest first: verification can go on from
    them when the earlier segments were pruned."""


class LogPrune(EventBody):
    """The tombstone of whole closed segments of a log that were deleted because their time was over."""

    event_type = "log.prune"
    pruned: LogId
    segments: tuple[Count, Count]
    """First and last number."""
    records: tuple[Count, Count]
    """First and last sequence number."""
    bytes: Count
    root: Hash
    """RFC 6962 tree hash over the records of the log up to the last deleted one."""
    first_t: Timestamp
    last_t: Timestamp
    whole: bool
    """Whether nothing of the log is left but this."""
    older_than_days: Count
    allowed: StatedReason | None
    """Why fewer than 183 days were allowed; null otherwise."""


class LogHold(EventBody):
    """A legal hold was placed on the directory, or lifted: while it holds nothing is pruned and nothing erased."""

    event_type = "log.hold"
    state: Literal["held", "released"]
    reason: StatedReason


class LogKeyRotate(EventBody):
    """A key of the log, or of its directory, was replaced. Sealing keys are not of the log: each sealed row names its own."""

    event_type = "log.key_rotate"
    purpose: Literal["content", "checkpoint"]
    previous: Identifier
    """Id of the key so far; of a checkpoint key its hash."""
    key: Identifier
    checkpoint_key: VerifierKey | None
    """The whole new key when `purpose` is `checkpoint`: the next checkpoint is signed with both."""
    destroyed: bool
    """Whether the key so far was destroyed."""


class Checkpoint(EventBody):
    """A checkpoint was signed over all records before this one and is in the file of checkpoints and with every copy."""

    event_type = "checkpoint"
    size: Count
    root: Hash
    signed_by: tuple[KeyId, ...]
    """Key hashes of the signatures."""
    copies: Count
    """To how many other places it went."""


class ContentErased(EventBody):
    """The sealed content of a request was made unreadable; its records stay."""

    event_type = "content.erased"
    req: Identifier
    in_log: LogId
    rows: Count
    reason: StatedReason
