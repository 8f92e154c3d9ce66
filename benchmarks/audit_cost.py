"""What an audit record costs, how fast a log is verified, and in how much memory. Run with `make benchmark-audit-cost`.

Everything is measured in one process that is pinned to one core; what is compared is measured in turns.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import logging
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from audit_logs import decision_of, event_of, write_log
from tests.audit_events import request

from steerguard.audit.log import AuditLog
from steerguard.audit.records.events import EventBody
from steerguard.audit.records.fields import DurabilityMode
from steerguard.audit.settings import Durability
from steerguard.audit.sinks import FileSink
from steerguard.audit.verify import verify_directory

ROUNDS = 9
MODES: tuple[DurabilityMode, ...] = ("never", "interval", "batch", "always")
EVENTS = 2000
SYNCED_EVENTS = 200
LOGS = (10_000, 100_000, 1_000_000)
RECORD_BAR_US, VERIFY_BAR = 40.0, 60_000
WARM_UP = 300


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help="a folder on the disk to measure; 3 GB are needed")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--logs", type=int, nargs="+", default=LOGS, metavar="RECORDS", help="sizes of the logs to verify"
    )
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--verify", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if options.verify:
        print(json.dumps(verified_alone(options.verify)))
        return
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        report: dict[str, Any] = {
            "command": "make benchmark-audit-cost",
            "rounds": options.rounds,
            "python": platform.python_version(),
            "bars": {"record_us": RECORD_BAR_US, "verify_records_per_second": VERIFY_BAR},
            "record": recording(work, options.rounds, options.events),
            "build": building(work, options.rounds, options.events),
            "checkpoint": checkpoints(work),
            "verify": verifying(work, options.logs, options.rounds),
        }
    show(report)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


def show(report: dict[str, Any]) -> None:
    """Print the figures as tables."""
    for row in report["record"]:
        signer = "" if row["signer"] is None else ("  signed" if row["signer"] else "  unsigned")
        print(
            f"{row['event']:15} {row['way']:10}{signer:10} {row['line_bytes']:5} B  median {row['median_us']:8.1f} µs  "
            f"p99 {row['p99_us']:8.1f} µs  {row['times_write']:6.1f} x write  {row['times_logging']:5.1f} x logging"
        )
    worst = max(row["median_us"] for row in report["record"] if row["way"] == "interval")
    print(
        f"interval: at most {worst} µs median, bar {RECORD_BAR_US} µs  {'ok' if worst <= RECORD_BAR_US else 'over the bar'}"
    )
    for name, value in {**report["build"], **report["checkpoint"]}.items():
        print(f"{name:28} {value}")
    for row in report["verify"]["logs"]:
        print(f"{row['records']:>9} records: {row['seconds']} s, peak {row['peak_mib']} MiB (+{row['grown_mib']} MiB)")
    for name in ("default", "strict"):
        print(
            f"verify {name:8} {report['verify'][name]} records/s, lines of {report['verify']['mean_line_bytes']} bytes"
        )


def recording(work: Path, rounds: int, events: int) -> list[dict[str, Any]]:
    """Measure `AuditLog.record` in every mode, with and without a signer, beside a bare write and `logging`."""
    rows: list[dict[str, Any]] = []
    # 200 decisions, whose scores differ and whose thresholds are equal, as in a running guard.
    bodies = {"guard.decision": [event_of(decision_of(number)) for number in range(200)], "guard.request": [request()]}
    for name, events_of_type in bodies.items():
        line = written_line(work, events_of_type[0])
        ways: dict[tuple[str, bool | None], Callable[[], list[int]]] = {
            ("os.write", None): functools.partial(bare_writes, work, line, events),
            ("logging", None): functools.partial(logged, work, line, events),
        }
        for mode in MODES:
            for signed in (True, False):
                count = min(events, SYNCED_EVENTS) if mode == "always" else events
                ways[mode, signed] = functools.partial(recorded, work, events_of_type, mode, count, signed=signed)
        found: dict[tuple[str, bool | None], list[list[int]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, measure in ways.items():
                found[way].append(measure())
        medians = {way: statistics.median(middle(times) for times in each) for way, each in found.items()}
        rows.extend(
            {
                "event": name,
                "line_bytes": len(line),
                "way": way,
                "signer": signed,
                "median_us": round(medians[way, signed], 2),
                "p99_us": round(statistics.median(percentile(times, 99) for times in found[way, signed]), 2),
                "times_write": round(medians[way, signed] / medians["os.write", None], 2),
                "times_logging": round(medians[way, signed] / medians["logging", None], 2),
            }
            for way, signed in ways
        )
    return rows


def recorded(work: Path, bodies: Sequence[EventBody], mode: DurabilityMode, count: int, *, signed: bool) -> list[int]:
    """Return the nanoseconds of each of `count` records of a new log."""
    turns = itertools.cycle(bodies)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        sink = None if signed else FileSink.create(Path(folder) / "lines")
        directory = Path(folder) if signed else None
        with AuditLog.open(directory, content="none", sink=sink, durability=Durability(mode=mode)) as log:
            return timed(lambda: log.record(next(turns)), count)


def bare_writes(work: Path, line: bytes, count: int) -> list[int]:
    """Return the nanoseconds of each of `count` bare writes of the same line."""
    content = line + b"\n"
    with tempfile.TemporaryDirectory(dir=work) as folder:
        descriptor = os.open(Path(folder) / "lines", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            return timed(lambda: os.write(descriptor, content), count)
        finally:
            os.close(descriptor)


def logged(work: Path, line: bytes, count: int) -> list[int]:
    """Return the nanoseconds of each of `count` lines of JSON through `logging`."""
    record = json.loads(line)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        handler = logging.FileHandler(Path(folder) / "lines", encoding="utf-8")
        logger = logging.Logger("benchmark", logging.INFO)  # noqa: LOG001 - one of its own, outside the tree of loggers
        logger.addHandler(handler)
        try:
            return timed(lambda: logger.info(json.dumps(record)), count)
        finally:
            handler.close()


def timed(act: Callable[[], object], count: int) -> list[int]:
    """Return the nanoseconds of each of `count` calls, after some that warm up."""
    for _ in range(min(count, WARM_UP)):
        act()
    clock, times = time.perf_counter_ns, []
    for _ in range(count):
        start = clock()
        act()
        times.append(clock() - start)
    return times


def middle(times: Sequence[int]) -> float:
    """Return the median in microseconds."""
    return statistics.median(times) / 1000


def percentile(times: Sequence[int], share: int) -> float:
    """Return a percentile in microseconds."""
    return statistics.quantiles(times, n=100)[share - 1] / 1000


def written_line(work: Path, body: EventBody) -> bytes:
    """Return the line that a log writes of the event."""
    with tempfile.TemporaryDirectory(dir=work) as folder, AuditLog.open(Path(folder), content="none") as log:
        log.record(body)
        return log.path.read_bytes().splitlines()[-1] if log.path is not None else b""


def building(work: Path, rounds: int, events: int) -> dict[str, float]:
    """Measure making the event of a decision, and making and recording it."""
    decisions = [decision_of(number) for number in range(200)]
    turns = itertools.cycle(decisions)
    built, both = [], []
    for _ in range(rounds):
        built.append(middle(timed(lambda: event_of(next(turns)), events)))
        with (
            tempfile.TemporaryDirectory(dir=work) as folder,
            AuditLog.open(Path(folder), content="none") as log,
        ):
            both.append(middle(timed(lambda log=log: log.record(event_of(next(turns))), events)))
    return {
        "decision_event_us": round(statistics.median(built), 2),
        "decision_event_and_record_us": round(statistics.median(both), 2),
    }


def checkpoints(work: Path) -> dict[str, float]:
    """Measure a checkpoint over 100 new records, and a rotation."""
    body = event_of(decision_of(1))
    found: dict[str, list[float]] = {"checkpoint_ms": [], "rotation_ms": []}
    with tempfile.TemporaryDirectory(dir=work) as folder, AuditLog.open(Path(folder), content="none") as log:
        for act, name in ((log.checkpoint, "checkpoint_ms"), (log.rotate, "rotation_ms")):
            for _ in range(30):
                for _ in range(100):
                    log.record(body)
                start = time.perf_counter()
                act()
                found[name].append(1000 * (time.perf_counter() - start))
    return {name: round(statistics.median(times), 3) for name, times in found.items()}


def verifying(work: Path, logs: Sequence[int], rounds: int) -> dict[str, Any]:
    """Measure verification: peak memory and time at several sizes, and speed in turns with `--strict`."""
    found: list[dict[str, Any]] = []
    speeds: dict[bool, list[float]] = {False: [], True: []}
    mean = 0.0
    for records in sorted(logs):
        with tempfile.TemporaryDirectory(dir=work) as folder:
            mean = write_log(Path(folder), records)
            command = [sys.executable, __file__, "--verify", folder]
            alone = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            found.append({"asked": records, "mean_line_bytes": round(mean), **alone})
            if records == sorted(logs)[min(1, len(logs) - 1)]:
                for _ in range(rounds):
                    for strict in (False, True):
                        speeds[strict].append(speed(Path(folder), strict=strict))
    return {
        "mean_line_bytes": found[min(1, len(found) - 1)]["mean_line_bytes"],
        "default": round(statistics.median(speeds[False])),
        "strict": round(statistics.median(speeds[True])),
        "logs": found,
    }


def speed(directory: Path, *, strict: bool) -> float:
    """Return how many records per second are verified."""
    start = time.perf_counter()
    report = verify_directory(directory, strict=strict)
    seconds = time.perf_counter() - start
    if report.status != "ok":
        raise SystemExit(f"the log does not verify: {report}")
    return sum(log.records for log in report.logs) / seconds


def verified_alone(directory: Path) -> dict[str, Any]:
    """Verify the logs of a directory and say in how much time and memory."""
    before = _peak_mib()
    start = time.perf_counter()
    report = verify_directory(directory)
    seconds = time.perf_counter() - start
    if report.status != "ok":
        raise SystemExit(f"the log does not verify: {report}")
    return {
        "records": sum(log.records for log in report.logs),
        "seconds": round(seconds, 2),
        "peak_mib": round(_peak_mib(), 1),
        "grown_mib": round(_peak_mib() - before, 1),
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
