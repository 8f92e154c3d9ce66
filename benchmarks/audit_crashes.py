"""Whether an audit log keeps what it promised when its processes are killed or the power is cut.

    PYTHONPATH=.:sdk python benchmarks/audit_crashes.py --out benchmarks/results/audit_crashes.json

Four processes with four threads each write into one directory and are killed with SIGKILL at a random moment; in every
second case a power cut is played too: each file is cut to a random size between what was synced and its end. A new log is
then opened in the directory, which finishes the dead ones. Every acknowledged refusal, bypass and error must be there,
every log must verify, after a mere kill nothing may be lost, and after a power cut only allowed decisions from within the
unsynced interval. The cases are those of `tests/integration/test_audit_crashes.py`, from another seed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.audit_crashes import INTERVAL, LONGEST, PROCESSES, SLACK, THREADS, Outcome, crash

KILLS = 300


def main() -> None:
    """Kill, print and write the figures; exit with 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    start, broken, outcomes = time.perf_counter(), 0, list[Outcome]()
    for number in range(options.kills):
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcomes.append(crash(Path(folder), 1_000_000 * options.seed + number))
            except AssertionError as error:
                broken += 1
                print(f"  case {number}: {error}", flush=True)
    report: dict[str, Any] = {
        "command": "make benchmark-audit-crashes",
        "kills": options.kills,
        "seed": options.seed,
        "processes": PROCESSES,
        "threads_per_process": THREADS,
        "longest_run_seconds": LONGEST,
        "unsynced_interval_seconds": INTERVAL,
        "allowed_delay_of_a_sync_seconds": SLACK,
        "kill_alone": figures([one for one in outcomes if not one.power_cut]),
        "power_cut": figures([one for one in outcomes if one.power_cut]),
        "broken_promises": broken,
        "seconds": round(time.perf_counter() - start, 1),
        "bars": {"broken_promises": 0},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    for name in ("kill_alone", "power_cut"):
        print(f"{name}: {json.dumps(report[name])}")
    print(f"{broken} of {options.kills} cases broke a promise" if broken else "no crash broke a promise")
    sys.exit(bool(broken))


def figures(outcomes: list[Outcome]) -> dict[str, Any]:
    """Sum up cases."""
    return {
        "cases": len(outcomes),
        "acknowledged": sum(one.acknowledged for one in outcomes),
        "acknowledged_refusals_bypasses_errors": sum(one.durable for one in outcomes),
        "lost_allowed": sum(one.lost for one in outcomes),
        "oldest_lost_milliseconds": round(1000 * max((one.oldest_lost for one in outcomes), default=0.0), 1),
        "logs": sum(one.logs for one in outcomes),
        "recovered_logs": sum(one.recovered for one in outcomes),
        "torn_bytes": sum(one.torn_bytes for one in outcomes),
    }


if __name__ == "__main__":
    main()
