"""The page of requirements is what the data of the report say."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerguard.audit.reporting.frameworks import HELP
from steerguard.audit.reporting.frameworks_page import render
from steerguard.policy.generated import keep_in_step

ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs" / "audit-frameworks.md"


def test_the_committed_page_is_the_generated_one():
    keep_in_step(render, ["--check", str(PAGE)], command="steerguard.audit.reporting.frameworks_page")


@pytest.mark.parametrize("row", HELP, ids=lambda row: f"{row.framework} {row.control}")
def test_every_row_says_what_helps_and_what_does_not(row):
    (line,) = [line for line in render().splitlines() if line.startswith(f"| {row.control} | {row.asks} |")]
    assert line.endswith(f"| {'; '.join(row.helps)} | {row.lacks} |")
