"""Audit logs made by hand, from the chain, the tree and the checkpoints alone: the side that verification is held against."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from steerguard.audit.evidence.checkpoint import SignedHead, TreeHead, parse_head, sign_head, stored
from steerguard.audit.evidence.layout import checkpoints_name, segment_name
from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.evidence.tree import Frontier
from steerguard.audit.records.chain import FIRST_PREV, canonical_line, leaf_hash
from steerguard.signing.keys import Signer, SigningKey

KEY_NAME = "test/audit"
DIGEST = "sha256:" + "a" * 64
KEY = SigningKey(bytes(range(32)))
NEXT_KEY = SigningKey(bytes(range(1, 33)))
FOREIGN_KEY = SigningKey(bytes(range(2, 34)))
START = datetime(2026, 11, 23, 8, 0, 0, tzinfo=UTC)


def note_key(signer: Signer) -> NoteKey:
    """Return the verifier key of a signer."""
    return NoteKey(KEY_NAME, signer.public)


PINNED = note_key(KEY)


def log_id(number: int) -> str:
    """Return the id of the log with a number; a higher one is newer."""
    return f"{START + timedelta(seconds=number):%Y%m%dT%H%M%SZ}-{number:016x}"


@dataclass
class BuiltLog:
    """The files of one log in memory, and what belongs to each record."""

    log: str
    lines: list[bytes] = field(default_factory=list)
    segments: list[int] = field(default_factory=lambda: [0])
    """Record that each segment begins with."""
    notes: list[tuple[int, bytes]] = field(default_factory=list)
    torn: dict[str, bytes] = field(default_factory=dict)

    def content(self, segment: int) -> bytes:
        """Return the bytes of a segment."""
        ends = [*self.segments[1:], len(self.lines)]
        return b"".join(line + b"\n" for line in self.lines[self.segments[segment] : ends[segment]])

    def write(self, directory: Path) -> None:
        """Write the files."""
        for segment in range(len(self.segments)):
            (directory / segment_name(self.log, segment)).write_bytes(self.content(segment))
        self.write_notes(directory)
        for name, content in self.torn.items():
            (directory / name).write_bytes(content)

    def write_notes(self, directory: Path) -> None:
        """Write the file of checkpoints."""
        (directory / checkpoints_name(self.log)).write_bytes(b"".join(note for _, note in self.notes))


def stated_previous(previous: str | BuiltLog | None) -> dict[str, Any]:
    """Return what log.open says of the log before."""
    if not isinstance(previous, BuiltLog) or not previous.notes:
        log = previous.log if isinstance(previous, BuiltLog) else previous
        return {"previous": log, "previous_size": None, "previous_root": None}
    head = parse_head(previous.notes[-1][1][:-1]).head
    return {"previous": head.log, "previous_size": head.size, "previous_root": head.root.hex()}


class Builder:
    """Writes a log record by record.

    Args:
        number: names the log; see `log_id`.
        signer: signs its checkpoints.
        seed: of what stands in the records.
        previous: the log before; with its last checkpoint when it is given whole.
    """

    def __init__(
        self,
        number: int = 0,
        *,
        signer: Signer | None = KEY,
        seed: float = 0,
        previous: str | BuiltLog | None = None,
        forked_from: str | None = None,
        durability: str = "interval",
    ) -> None:
        self.built = BuiltLog(log_id(number))
        self.random = Random(f"{number} {seed}")
        self.signer = signer
        self.before: Signer | None = None
        self.tree = Frontier()
        self.prev = FIRST_PREV
        self.mono = 0
        self.wall = START + timedelta(seconds=number)
        self.record(
            "log.open",
            sdk="1",
            python="3",
            pid=1,
            content="none",
            key=None,
            forked_from=forked_from,
            durability=durability,
            unsynced_us=1_000_000 if durability == "interval" else None,
            unsynced_records=10 if durability == "batch" else None,
            checkpoint_key=None if signer is None else note_key(signer).text,
            **stated_previous(previous),
        )

    @property
    def seq(self) -> int:
        """Records so far."""
        return len(self.built.lines)

    def record(self, event_type: str, /, **fields: Any) -> None:
        """Append one record with right hashes."""
        self.wait(self.random.randrange(1, 5000))
        line = canonical_line(
            {
                "v": 1,
                "log": self.built.log,
                "seq": self.seq,
                "t": f"{self.wall:%Y-%m-%dT%H:%M:%S.%fZ}",
                "mono": self.mono,
                "prev": self.prev,
                "type": event_type,
                **fields,
            }
        )
        self.prev = leaf_hash(line)
        self.tree.append(bytes.fromhex(self.prev))
        self.built.lines.append(line)

    def wait(self, microseconds: int) -> None:
        """Let time pass on both clocks."""
        self.mono += microseconds
        self.wall += timedelta(microseconds=microseconds)

    def event(self) -> None:
        """Append one record of what a guard does."""
        request = f"r{self.random.randrange(10**9)}"
        if self.random.random() < 0.5:
            reason = "x" * self.random.randrange(1, 40)
            self.record(
                "guard.bypass", req=request, kind="unguided", reason=reason, expires=None, policy=None, plan=None
            )
        else:
            self.record(
                "guard.error",
                req=request,
                row=0,
                stage="guide",
                code="GuidanceError",
                outcome="refuse",
                policy=None,
                plan=None,
            )

    def note(self) -> SignedHead:
        """Sign a checkpoint over all records so far, by both keys after a change of the key."""
        signers = [(KEY_NAME, one) for one in (self.before, self.signer) if one is not None]
        self.before = None
        head = sign_head(TreeHead(self.built.log, self.seq, self.tree.root()), signers)
        self.built.notes.append((self.seq, stored(head)))
        return head

    def checkpoint(self) -> None:
        """Sign a checkpoint and record it."""
        head = self.note()
        signed_by = [one.hash for one in head.note.signatures]
        self.record("checkpoint", size=self.seq, root=head.head.root.hex(), signed_by=signed_by, copies=0)

    def rotate(self) -> None:
        """Go on in a new segment."""
        content = self.built.content(len(self.built.segments) - 1)
        segment = len(self.built.segments)
        self.note()
        self.built.segments.append(self.seq)
        self.record(
            "log.rotate",
            segment=segment,
            previous=segment_name(self.built.log, segment - 1),
            previous_bytes=len(content),
            previous_digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
            size=self.seq,
            root=self.tree.root().hex(),
            peaks=[peak.hex() for peak in self.tree.peaks],
        )

    def rotate_key(self, signer: Signer, *, both: bool = True) -> None:
        """Change the key of the checkpoints."""
        key = note_key(signer)
        self.record(
            "log.key_rotate",
            purpose="checkpoint",
            previous="none" if self.signer is None else note_key(self.signer).hash,
            key=key.hash,
            checkpoint_key=key.text,
            destroyed=False,
        )
        self.before = self.signer if both else None
        self.signer = signer

    def close(self) -> BuiltLog:
        """End the log as its process does."""
        self.note()
        self.record("log.close")
        self.note()
        return self.built

    def recover(self, by: str, torn: bytes = b"", signer: Signer | None = None) -> BuiltLog:
        """End the log as a later process does."""
        name = f"{self.built.log}.torn-1"
        if signer is not None:
            self.rotate_key(signer, both=False)
        self.record(
            "log.recovered",
            by=by,
            torn_bytes=len(torn),
            torn_digest=f"sha256:{hashlib.sha256(torn).hexdigest()}",
            torn_file=name if torn else None,
            torn_note_bytes=0,
        )
        if torn:
            self.built.torn[name] = torn
        return self.close()

    def prune(self, built: BuiltLog, segments: tuple[int, int], *, whole: bool = False) -> None:
        """Record that the first segments of another log were deleted."""
        first, last = segments
        starts = [*built.segments, len(built.lines)]
        records = (starts[first], starts[last + 1] - 1)
        tree = Frontier()
        for line in built.lines[: records[1] + 1]:
            tree.append(bytes.fromhex(leaf_hash(line)))
        self.record(
            "log.prune",
            pruned=built.log,
            segments=[first, last],
            records=list(records),
            bytes=sum(len(built.content(one)) for one in range(first, last + 1)),
            root=tree.root().hex(),
            first_t="2026-01-01T00:00:00.000000Z",
            last_t="2026-01-02T00:00:00.000000Z",
            whole=whole,
            older_than_days=400,
            allowed=None,
        )


def events(builder: Builder, count: int, *, every: int = 8, chance: float = 0.0) -> None:
    """Append records, a checkpoint after each `every` of them, and now and then a new segment."""
    for _ in range(count):
        builder.event()
        if builder.seq % every == 0:
            builder.checkpoint()
        elif builder.random.random() < chance:
            builder.rotate()


def random_log(
    random: Random,
    number: int = 0,
    *,
    previous: str | BuiltLog | None = None,
    end: str | None = None,
    recovered_by: str | None = None,
) -> BuiltLog:
    """Return a log of a random shape.

    Args:
        random: where the shape comes from.
        number: names it.
        previous: the log before.
        end: `closed`, `open` or `recovered`; None for any of them.
        recovered_by: the log that `log.recovered` names.
    """
    builder = Builder(number, seed=random.random(), previous=previous)
    every = random.choice([2, 3, 5, 8, 100])
    for _ in range(random.randrange(1, 4)):
        events(builder, random.randrange(1, 12), every=every, chance=random.choice([0.0, 0.2]))
        if random.random() < 0.2:
            builder.rotate_key(NEXT_KEY if builder.signer is KEY else KEY)
            builder.checkpoint()
    ending = end or random.choice(["closed", "closed", "open", "recovered"])
    if ending == "open":
        builder.checkpoint()
        return builder.built
    if ending == "recovered":
        torn = bytes(random.randrange(256) for _ in range(random.choice([0, 30])))
        return builder.recover(recovered_by or log_id(number + 1), torn)
    return builder.close()
