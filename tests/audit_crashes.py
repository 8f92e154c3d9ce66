"""Processes that write audit logs under load and are killed, and what a later process finds.

Four processes with four threads each record allowed and refused decisions, bypasses and errors into one directory, with
small segments and frequent checkpoints. They note each record once `AuditLog.record` has returned, in a file of their own
that no crash touches. All are killed with SIGKILL at one moment.

In half of the cases a power cut is played too: each process notes how much of which file it has synced, and every file
of the directory is then cut to a random size between that and its end; sometimes zeros follow.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import threading
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import structlog
from tests.audit_directories import records_in

from steerguard.audit.evidence.layout import logs_in
from steerguard.audit.log import AuditLog
from steerguard.audit.records.event_body import EventBody
from steerguard.audit.records.events import GuardError
from steerguard.audit.records.fields import (
    ModelReference,
    PolicyReference,
    RecordedContent,
    RecordedUsage,
)
from steerguard.audit.records.guard_events import GuardDecision
from steerguard.audit.records.record import bypass_event
from steerguard.audit.settings import CheckpointSettings, Durability, Rotation
from steerguard.audit.verify import verify_directory

PROCESSES = 4
THREADS = 4
LONGEST = 1.2
"""Seconds from the start of the processes to the kill, at most."""
INTERVAL = 0.05
"""Seconds that an allowed decision may stay unsynced."""
SLACK = 0.5
"""Seconds that a background sync may take, and be late, on a loaded machine."""
KINDS = ("allow", "refuse", "bypass", "error")
WEIGHTS = (70, 10, 10, 10)
_DIGEST = "sha256:" + "a" * 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one crash did."""

    power_cut: bool
    acknowledged: int
    durable: int
    """Refusals, bypasses and errors among them."""
    lost: int
    """Allowed decisions that were acknowledged and are gone."""
    oldest_lost: float
    """Seconds between the oldest of them and the crash."""
    logs: int
    recovered: int
    torn_bytes: int


def crash(folder: Path, seed: int) -> Outcome:
    """Let processes write, kill them, and check what a later process finds.

    Args:
        folder: an empty folder.
        seed: decides everything that is random.

    Raises:
        AssertionError: an acknowledged record that must be there is not, or a log does not verify.
    """
    draw = random.Random(seed)
    logs, notes = folder / "logs", folder / "notes"
    notes.mkdir()
    power_cut = seed % 2 == 1
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.audit_crashes"])
    workers: list[BaseProcess] = [
        context.Process(target=_write, args=(logs, notes, seed * PROCESSES + number)) for number in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    time.sleep(draw.uniform(0, LONGEST))
    for worker in workers:
        worker.kill()
    crashed = time.monotonic()
    for worker in workers:
        worker.join()
        assert worker.exitcode == -9, f"a process ended by itself: {worker.exitcode}"
        worker.close()
    logs.mkdir(exist_ok=True)
    if power_cut:
        _cut_power(logs, notes, draw)
    return _check(logs, _lines(notes, "acknowledged"), power_cut=power_cut, crashed=crashed)


def _check(logs: Path, acknowledged: list[dict[str, Any]], *, power_cut: bool, crashed: float) -> Outcome:
    dead = [files.log for files in logs_in(logs) if files.checkpoints is not None]
    with structlog.testing.capture_logs() as said:
        AuditLog.open(logs, content="none").close()
    assert said == [], said
    report = verify_directory(logs, strict=True)
    assert report.status == "ok", report
    assert not report.missing, report.missing
    reports = {one.log: one for one in report.logs}
    assert set(dead) <= set(reports)
    assert all(reports[log].recovered and reports[log].closed for log in dead), report
    found = {log: records_in(logs, log) for log in reports}
    lost = [one for one in acknowledged if found[one["log"]].get(one["leaf"], {}).get("seq") != one["seq"]]
    assert all(one["kind"] == "allow" for one in lost), [one for one in lost if one["kind"] != "allow"]
    assert power_cut or not lost, "a kill alone lost a record"
    oldest = max((crashed - one["at"] for one in lost), default=0.0)
    assert oldest <= INTERVAL + SLACK, f"a record of {oldest:.3f} s before the crash was lost"
    # A log whose process died before its first record promised nothing; it was begun by the recovery, as `always`.
    begun = [log for log in dead if next(iter(found[log].values()))["durability"] == "interval"]
    assert {one["log"] for one in lost} <= set(begun)
    assert all(reports[log].loss for log in begun), "the loss is not reported"
    return Outcome(
        power_cut=power_cut,
        acknowledged=len(acknowledged),
        durable=sum(one["kind"] != "allow" for one in acknowledged),
        lost=len(lost),
        oldest_lost=oldest,
        logs=len(reports),
        recovered=len(dead),
        torn_bytes=sum(path.stat().st_size for path in logs.glob("*.torn-*")),
    )


def _cut_power(logs: Path, notes: Path, draw: random.Random) -> None:
    synced: dict[int, int] = {}
    for one in _lines(notes, "synced"):
        synced[one["file"]] = max(synced.get(one["file"], 0), one["size"])
    for files in logs_in(logs):
        for path in files.paths:
            status = path.stat()
            path.chmod(0o600)
            left = draw.randint(min(synced.get(status.st_ino, 0), status.st_size), status.st_size)
            os.truncate(path, left)
            if left < status.st_size and draw.random() < 0.4:
                with path.open("ab") as file:
                    file.write(bytes(draw.randint(1, 5000)))
            path.chmod(status.st_mode & 0o777)


def _lines(notes: Path, kind: str) -> list[dict[str, Any]]:
    """Return what the processes noted; a line that the kill cut short was not noted."""
    return [
        json.loads(line)
        for path in sorted(notes.glob(f"{kind}.*"))
        for line in path.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]


def _write(logs: Path, notes: Path, seed: int) -> None:
    """Record until killed, in a process of its own."""
    _note_syncs(_Notes(notes / f"synced.{seed}"))
    acknowledged = _Notes(notes / f"acknowledged.{seed}")
    log = AuditLog.open(
        logs,
        content="none",
        durability=Durability(seconds=INTERVAL),
        rotation=Rotation(max_bytes=20_000),
        checkpoints=CheckpointSettings(every_records=25, every_seconds=0.2),
    )
    threads = [
        threading.Thread(target=_record, args=(log, acknowledged, random.Random(f"{seed} {number}")), daemon=True)
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _record(log: AuditLog, acknowledged: _Notes, draw: random.Random) -> None:
    while True:
        (kind,) = draw.choices(KINDS, WEIGHTS)
        receipt = log.record(_event(kind, draw.randint(0, 200)))
        acknowledged.add(
            {"log": receipt.log, "seq": receipt.seq, "leaf": receipt.leaf, "kind": kind, "at": time.monotonic()}
        )


def _event(kind: str, rules: int) -> EventBody:
    if kind == "bypass":
        return bypass_event("unguided", "crash test")
    if kind == "error":
        return GuardError(
            req="r", row=0, stage="detect", code="CrashTestError", outcome="refuse", policy=None, plan=None
        )
    action = "refuse" if kind == "refuse" else "allow"
    return GuardDecision(
        req="r",
        row=0,
        policy=PolicyReference(name="p", version="1", digest=_DIGEST),
        plan=_DIGEST,
        model=ModelReference(name="m", architecture="LlamaForCausalLM", dtype="float32"),
        artifacts=(),
        mode="enforce",
        readings=(),
        rules=tuple(f"rule-{number}" for number in range(rules)),
        cause="rule",
        intended=action,
        applied=action,
        doses=(),
        usage=RecordedUsage(prompt_tokens=1, generated_tokens=1, extra_forward_tokens=0),
        budget=None,
        template_cut=False,
        content=RecordedContent(
            **{"form": "tokens", "in": None, "out": None, "in_chars": None, "out_chars": None},
            in_tokens=1,
            out_tokens=1,
        ),
        err=None,
    )


class _Notes:
    """Lines that survive a kill: one write each, to a file that is never cut."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, line: dict[str, Any]) -> None:
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")


def _note_syncs(notes: _Notes) -> None:
    """Note of each sync in this process how much of which file it made durable."""

    def noting(sync: Any) -> Any:
        def call(descriptor: int) -> None:
            before = os.fstat(descriptor)
            sync(descriptor)
            notes.add({"file": before.st_ino, "size": before.st_size})

        return call

    os.fdatasync, os.fsync = noting(os.fdatasync), noting(os.fsync)
