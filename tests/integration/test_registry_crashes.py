"""Programs of a registry that are killed at random moments: nothing unverified loads, nothing valid is lost."""

from __future__ import annotations

import random

import pytest
from tests.command_forks import CommandForks
from tests.crashed_registry import OPERATIONS, Crashes

POINTS = 20
NAMES = sorted(OPERATIONS)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def crashes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crashes")
    with CommandForks(folder / "home") as forks:
        yield Crashes(folder, forks)


@pytest.mark.parametrize("number", range(POINTS))
def test_a_killed_command_leaves_nothing_half_done_and_can_be_run_again(crashes, number):
    crashes.killed(NAMES[number % len(NAMES)], random.Random(number))
