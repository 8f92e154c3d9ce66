"""The budget of a search while it runs."""

from __future__ import annotations

from steerguard.guidance.search.ledger import Ledger


def test_what_reaches_the_limit_fits_and_one_more_does_not():
    ledger = Ledger(max_forward_tokens=10)
    ledger.spend(4)
    assert ledger.fits(6)
    assert not ledger.fits(7)
    ledger.spend(6)
    assert ledger.forward_tokens == 10
    assert ledger.fits(0)
    assert not ledger.fits(1)


def test_no_limit_lets_everything_fit():
    ledger = Ledger()
    ledger.spend(10**9)
    assert ledger.fits(10**12)
    assert not ledger.late()
    assert ledger.overshoot_seconds() == 0.0


def test_it_is_late_behind_the_limit_and_says_by_how_much():
    now = [100.0]
    ledger = Ledger(max_latency_seconds=2.0, clock=lambda: now[0])
    now[0] = 102.0
    assert not ledger.late()
    now[0] = 102.5
    assert ledger.late()
    assert ledger.overshoot_seconds() == 0.5
