"""Logs that several tests of writing recover."""

from __future__ import annotations

from functools import partial

import pytest
from tests.dead_audit_logs import dead_log


@pytest.fixture
def dead(tmp_path):
    """Make a log of ten records whose process died; it returns its id."""
    return partial(dead_log, tmp_path)
