"""Bar 1 of the audit log: 2,000 random ways to tamper with one, each found at the right place. `benchmarks/` does 10,000."""

from __future__ import annotations

import pytest
from tests.audit_tampering import TAMPERINGS, emptied, made_case, verified, wrong

CASES = 2002
EACH = CASES // len(TAMPERINGS)


@pytest.mark.parametrize("kind", list(TAMPERINGS))
def test_every_tampering_is_found_at_its_place_and_what_is_untouched_verifies(tmp_path, kind):
    number = list(TAMPERINGS).index(kind)
    found = []
    for seed in range(number * EACH, (number + 1) * EACH):
        case = made_case(seed, emptied(tmp_path / "logs"))
        strict = seed % 4 == 0
        untouched = verified(case, strict=strict)
        assert untouched.status == "ok", (seed, untouched)
        expected = TAMPERINGS[kind](case)
        problem = wrong(verified(case, strict=strict), expected)
        if problem is not None:
            found.append((seed, problem, expected))
    assert not found, found[:5]
