"""Whether any of 10,000 random ways to tamper with an audit log passes, or is found at the wrong place.

    PYTHONPATH=.:sdk python benchmarks/audit_tampering.py --out benchmarks/results/audit_tampering.json

The cases are those of `tests/integration/test_audit_tampering.py`, from other seeds. Each begins with two or three logs of
random shapes that must verify as they are; then one thing is done to one of them, and verification must say so, with the
first bad position that `tests/audit_tampering.py` calls right for it. Every fourth case is verified with `strict`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.audit_tampering import TAMPERINGS, emptied, made_case, verified, wrong

CASES = 10_000
FIRST_SEED = 1_000_000


def main() -> None:
    """Run every kind, print and write the figures; exit with 1 where a case was not found at its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--seed", type=int, default=FIRST_SEED)
    options = parser.parse_args()
    start = time.perf_counter()
    kinds: dict[str, Counter[str]] = {kind: Counter() for kind in TAMPERINGS}
    faults: dict[str, Counter[str]] = {kind: Counter() for kind in TAMPERINGS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.cases):
            kind = list(TAMPERINGS)[number % len(TAMPERINGS)]
            said, fault = _judged(kind, options.seed + number, Path(folder) / "logs")
            kinds[kind][said] += 1
            faults[kind][fault] += 1
    report: dict[str, Any] = {
        "command": "make benchmark-audit-tampering",
        "cases": options.cases,
        "seed": options.seed,
        "kinds": {
            kind: {"cases": counts.total(), "right": counts["right"], "found_as": dict(faults[kind].most_common())}
            for kind, counts in kinds.items()
        },
        "wrong": sum(counts.total() - counts["right"] for counts in kinds.values()),
        "seconds": round(time.perf_counter() - start, 1),
        "bars": {"wrong": 0},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    for kind, figures in report["kinds"].items():
        print(f"{kind:16} {figures['right']:5} of {figures['cases']:5} found at the right place")
    print(f"{report['wrong']} of {options.cases} cases not detected or at the wrong place")
    sys.exit(bool(report["wrong"]))


def _judged(kind: str, seed: int, directory: Path) -> tuple[str, str]:
    """Return `right` or what is wrong with one case, and the fault that was reported."""
    case = made_case(seed, emptied(directory))
    strict = seed % 4 == 0
    if verified(case, strict=strict).status != "ok":
        print(f"  {kind}, seed {seed}: the untouched logs do not verify")
        return "untouched", "none"
    expected = TAMPERINGS[kind](case)
    report = verified(case, strict=strict)
    problem = wrong(report, expected)
    if problem is not None:
        print(f"  {kind}, seed {seed}: {problem}")
    found = [log.first_bad.fault for log in report.logs if log.log == expected.log and log.first_bad is not None]
    missing = any(one.log == expected.log for one in report.missing)
    return problem or "right", found[0] if found else "missing" if missing else "none"


if __name__ == "__main__":
    main()
