from __future__ import annotations

import pytest
from tests.audit_crashes import crash

KILLS = 20


@pytest.mark.slow
def test_kills_and_power_cuts_lose_nothing_that_was_promised(tmp_path, monkeypatch):
    monkeypatch.delenv("STEERGUARD_CHECKPOINT_KEY", raising=False)
    outcomes = []
    for seed in range(KILLS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        outcomes.append(crash(folder, seed))
    # The cases are worth something: there was load, and there was something to lose.
    assert sum(one.durable for one in outcomes) > 100
    assert sum(one.recovered for one in outcomes) > KILLS
    assert any(one.lost for one in outcomes if one.power_cut)
    assert any(one.torn_bytes for one in outcomes)
