"""Whether a program of the registry that is killed leaves anything half done.

    PYTHONPATH=.:sdk python benchmarks/registry_crashes.py --out benchmarks/results/registry_crashes.json

Commands that pull, synchronise, lock, publish and add to local registries are killed with SIGKILL at random moments:
half of them at a random request of the hub, which has carried it out and not answered, the others at a random time of
the command's usual duration. The hub lives in this process and outlives them. After each kill everything that loads must
be what was published, nothing that loaded before may be gone, and the same command, run again, must leave exactly what a
command leaves that nobody killed: the same files in stores, registries and the folder of the lock file, the same lock
file, the same index and tags. The cases are those of `tests/integration/test_registry_crashes.py`, from another seed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.command_forks import CommandForks
from tests.crashed_registry import OPERATIONS, Crashes

KILLS = 300


def main() -> None:
    """Kill, print and write the figures; exit with 1 where a kill did damage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=KILLS, help="kills of all operations together")
    parser.add_argument("--seed", type=int, default=6)
    options = parser.parse_args()
    report: dict[str, Any] = {
        "command": "make benchmark-registry-crashes",
        "kills": options.kills,
        "seed": options.seed,
        "operations": {},
        "bars": {"damaged": 0},
    }
    names = sorted(OPERATIONS)
    with tempfile.TemporaryDirectory() as folder, CommandForks(Path(folder) / "home") as forks:
        crashes = Crashes(Path(folder), forks)
        for place, name in enumerate(names):
            share = options.kills // len(names) + (place < options.kills % len(names))
            report["operations"][name] = figures = killed(crashes, name, share, options.seed)
            print(
                f"{name:14} {figures['kills']:3} kills ({figures['at_requests']} at requests, {figures['at_times']} at "
                f"times), {figures['damaged']} damaged; usually {figures['usual_milliseconds']} ms and "
                f"{figures['usual_requests']} requests; {figures['seconds']} s",
                flush=True,
            )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    bad = [name for name, figures in report["operations"].items() if figures["damaged"]]
    print(f"damaged: {', '.join(bad)}" if bad else "no kill did damage")
    sys.exit(bool(bad))


def killed(crashes: Crashes, name: str, kills: int, seed: int) -> dict[str, Any]:
    """Return what so many kills of one operation did."""
    usual, start = crashes.usual(name), time.perf_counter()
    at_requests = at_times = damaged = 0
    for number in range(kills):
        try:
            point = crashes.killed(name, random.Random(f"{name} {seed} {number}"))
        except AssertionError as error:
            damaged += 1
            print(f"  {error}", flush=True)
            continue
        at_requests += point.requests is not None
        at_times += point.seconds is not None
    return {
        "kills": kills,
        "at_requests": at_requests,
        "at_times": at_times,
        "damaged": damaged,
        "usual_milliseconds": round(1000 * usual.seconds),
        "usual_requests": usual.requests,
        "seconds": round(time.perf_counter() - start, 1),
    }


if __name__ == "__main__":
    main()
