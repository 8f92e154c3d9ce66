"""Whether any of many hostile inputs makes a parser of the registry raise something that is not documented.

    PYTHONPATH=.:sdk python benchmarks/registry_parsers.py --out benchmarks/results/registry_parsers.json

The inputs are those of `tests/property/test_registry_parsers.py`, from another seed: valid documents with structured
damage, other forms of the same data, deep nesting, huge numbers, random bytes. A parser accepts an input, and writes
what it read as the very same bytes, or raises its one documented error.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.registry_parsers import PARSERS, Parser

from steerguard.errors import SteerguardError

INPUTS = 100_000
SLOW_LIMIT = 1.0


def main() -> None:
    """Run every parser, print and write the figures; exit with 1 where one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--inputs", type=int, default=INPUTS, help="inputs of each parser")
    parser.add_argument("--seed", type=int, default=6)
    options = parser.parse_args()
    report: dict[str, Any] = {
        "command": "make benchmark-registry-parsers",
        "inputs": options.inputs,
        "seed": options.seed,
        "parsers": {},
        "bars": {"undocumented": 0, "slowest_seconds": SLOW_LIMIT},
    }
    for name, one in PARSERS.items():
        report["parsers"][name] = figures = measured(one, random.Random(f"{name} {options.seed}"), options.inputs)
        print(
            f"{name:20} {figures['accepted']:7} accepted, {figures['refused']:7} refused in "
            f"{figures['kinds_of_refusal']:2} ways, {figures['undocumented']} undocumented, "
            f"{figures['microseconds_per_input']:7.1f} us each, slowest {figures['slowest_seconds']:.4f} s"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    bad = [
        name
        for name, figures in report["parsers"].items()
        if figures["undocumented"] or figures["slowest_seconds"] > SLOW_LIMIT
    ]
    print(f"over the bar: {', '.join(bad)}" if bad else "every parser is within the bars")
    sys.exit(bool(bad))


def measured(parser: Parser, draw: random.Random, inputs: int) -> dict[str, Any]:
    """Return how a parser took so many inputs; only the parser is timed."""
    refusals: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    accepted, total, slowest = 0, 0.0, 0.0
    for number in range(inputs):
        content = parser.draw(draw)
        start = time.perf_counter()
        said = _said(parser, content)
        seconds = time.perf_counter() - start
        total, slowest = total + seconds, max(slowest, seconds)
        if isinstance(said, SteerguardError) and type(said) is parser.error:
            refusals[said.summary] += 1
        elif isinstance(said, Exception):
            faults[type(said).__name__] += 1
            print(f"  input {number}: {type(said).__name__}: {str(said)[:200]}")
        elif said is not None and said != content:
            faults["written as other bytes"] += 1
            print(f"  input {number} is accepted, but written as other bytes")
        else:
            accepted += 1
    return {
        "accepted": accepted,
        "refused": refusals.total(),
        "kinds_of_refusal": len(refusals),
        "undocumented": faults.total(),
        "microseconds_per_input": round(total / inputs * 1e6, 1),
        "slowest_seconds": round(slowest, 4),
    }


def _said(parser: Parser, content: bytes) -> bytes | Exception | None:
    try:
        return parser.accept(content)
    except Exception as error:  # noqa: BLE001 - any other error is what this looks for
        return error


if __name__ == "__main__":
    main()
