from __future__ import annotations

import math

import pytest

from steerguard.audit.settings import CheckpointSettings, Durability, Rotation
from steerguard.errors import AuditError


@pytest.mark.parametrize(
    ("mode", "unsynced_us", "unsynced_records"),
    [("never", None, None), ("interval", 250_000, None), ("batch", None, 7), ("always", None, None)],
)
def test_each_mode_promises_what_it_keeps(mode, unsynced_us, unsynced_records):
    durability = Durability(mode=mode, seconds=0.25, records=7)
    assert (durability.unsynced_us, durability.unsynced_records) == (unsynced_us, unsynced_records)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e12, True, "1"])
def test_a_time_that_makes_no_sense_is_refused(seconds):
    with pytest.raises(AuditError, match=r"durability\.seconds"):
        Durability(seconds=seconds)
    with pytest.raises(AuditError, match="max_age_seconds"):
        Rotation(max_age_seconds=seconds)
    with pytest.raises(AuditError, match="every_seconds"):
        CheckpointSettings(every_seconds=seconds)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, None])
def test_a_count_that_makes_no_sense_is_refused(count):
    with pytest.raises(AuditError, match=r"durability\.records"):
        Durability(records=count)
    with pytest.raises(AuditError, match="max_bytes"):
        Rotation(max_bytes=count)
    with pytest.raises(AuditError, match="every_records"):
        CheckpointSettings(every_records=count)


def test_an_unknown_mode_is_refused_and_the_known_ones_are_named():
    with pytest.raises(AuditError, match="never, interval, batch, always"):
        Durability(mode="sometimes")
