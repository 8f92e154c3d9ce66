"""The table of `docs/calibration.md` is what the code computes."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

from steerguard.artifacts.conformal import chance_of_rate_above, conformal_rank, rate_upper_bound

PAGE = Path(__file__).parents[2] / "docs" / "calibration.md"
ROWS = re.findall(
    r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE.read_text("utf-8"), re.MULTILINE
)


def test_every_row_of_the_table_is_computed():
    assert len(ROWS) >= 12
    for n, fpr, mean, likely, almost in ROWS:
        k = conformal_rank(int(n), Decimal(fpr))
        assert f"{(int(n) + 1 - k) / (int(n) + 1):.4f}" == mean
        assert f"{rate_upper_bound(int(n), k):.4f}" == likely
        assert f"{rate_upper_bound(int(n), k, 0.99):.4f}" == almost


def test_how_often_a_calibration_lies_above_its_rate_is_as_stated():
    for n, fpr, *_ in ROWS:
        assert 0.2 <= chance_of_rate_above(int(n), conformal_rank(int(n), Decimal(fpr)), float(fpr)) < 0.5
