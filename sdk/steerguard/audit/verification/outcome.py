"""Puts what a walk found into a report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from steerguard.audit.verification.clock import wall_seconds
from steerguard.audit.verification.fault import Mark
from steerguard.audit.verification.keys import KeyBook, KeysInForce
from steerguard.audit.verification.pins import Pins
from steerguard.audit.verification.report import FirstBad, LogReport
from steerguard.audit.verification.tombstones import Tombstone
from steerguard.audit.verification.walk import Walk


def end_warnings(walk: Walk, report: LogReport, keys: KeysInForce) -> Iterator[str]:
    """Say how a log that verified ends, where that is worth a look."""
    if report.in_use and not report.closed:
        yield "the log is in use"
    elif walk.seq == 0:
        yield "the log is empty: it was cut off, or its process ended before the first record"
    elif not report.closed:
        yield "no log.close: its process was killed and the log was not recovered yet, or its end was cut off"
    if walk.as_found is not None:
        yield as_found_words(walk.as_found)
    if report.loss is not None:
        yield f"its process ended without closing it: {report.loss}"
    if keys.unpinned_after_recovery:
        yield "it was recovered by a process with another key, which is not pinned"


def as_found_words(found: range) -> str:
    """Say that only recovery vouches for records."""
    if len(found) == 1:
        return f"1 record (seq {found.start}) had no checkpoint when the process died; its first checkpoint is the one that recovery signed"
    return (
        f"{len(found):,} records (seq {found.start} to {found.stop - 1}) had no checkpoint when the process died; "
        "their first checkpoint is the one that recovery signed"
    )


def stated_tombstones(walk: Walk, report: LogReport) -> tuple[Tombstone, ...]:
    """Return what a log that verified states about pruned segments."""
    if report.status != "ok":
        return ()
    return tuple(
        replace(one, pruned=replace(one.pruned, anchored=seq < report.anchored)) for seq, one in walk.statements.prunes
    )


def outcome(
    walk: Walk,
    keys: KeysInForce,
    book: KeyBook,
    bad: FirstBad | None,
    *,
    pins: Pins,
    torn: int,
    in_use: bool,
) -> LogReport:
    """Return what a walk found: `bad` is what ended it, `torn` the bytes behind the last newline."""
    reached = walk.confirmed
    if bad is not None and bad.seq < reached.size and bad.fault not in {"torn_file", "sealed"}:
        marks = [mark for mark in (walk.good, walk.good_head) if mark.size <= bad.seq]
        reached = max(marks, key=lambda mark: mark.size, default=Mark())
    pinned = book.pins_given or bool(pins.heads_of(walk.log or ""))
    anchor = walk.anchor if pinned else walk.own_anchor
    anchored = min(anchor.size, reached.size)
    seconds = 0.0
    if reached.t is not None and anchored < reached.size:
        since = anchor.t or walk.first_t
        seconds = 0.0 if since is None else max(0.0, wall_seconds(reached.t) - wall_seconds(since))
    return LogReport(
        log=walk.log or "",
        status="ok" if bad is None else "broken",
        records=max(0, reached.size - walk.first),
        size=reached.size,
        head=reached.head,
        root=reached.root.hex(),
        closed=walk.statements.closed and bad is None,
        recovered=walk.statements.recovered,
        loss=walk.statements.loss,
        in_use=in_use,
        first_t=walk.first_t,
        last_t=reached.t,
        first_bad=bad,
        pruned=(),
        gaps=(),
        checkpoints=walk.checkpoints,
        pinned=pinned,
        anchored=anchored,
        as_found=0 if walk.as_found is None else len(walk.as_found),
        unanchored=max(0, reached.size - max(anchored, walk.first)),
        unanchored_bytes=max(0, reached.bytes - anchor.bytes) if anchored < reached.size else 0,
        unanchored_seconds=seconds,
        keys=keys.seen,
        torn_bytes=torn,
        warnings=walk.clocks.all_warnings,
    )
