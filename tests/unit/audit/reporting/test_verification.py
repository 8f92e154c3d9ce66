"""What the page says of the evidence, in its first sentence."""

from __future__ import annotations

import pytest
from tests.html_page import Page

from steerguard.audit.reporting.markup import page
from steerguard.audit.reporting.verification import banner, verification

LOG = {
    "log": "20261122T071532Z-7809bc8c2669ad56",
    "status": "ok",
    "records": 1200,
    "anchored": 1000,
    "as_found": 0,
    "unanchored": 200,
    "unanchored_bytes": 4096,
    "pinned": True,
    "checkpoints": 3,
    "first_bad": None,
    "recovered": False,
    "in_use": False,
    "closed": True,
    "loss": "",
    "pruned": [],
    "keys": [],
    "warnings": [],
}
BAD = {"file": "segment", "line": 5, "seq": 4, "until": 4, "fault": "chain", "reason": "<b>it was changed</b>"}


def checked(*logs, **changes):
    whole = {"status": "ok", "misfits": 0, "anchored": False, "logs": list(logs), "missing": [], "pruned": []}
    return {**whole, "warnings": [], **changes}


def text_of(*parts):
    return Page(page(*parts)).text()


def test_what_is_anchored_is_said_without_a_reserve():
    text = text_of(banner(checked(LOG, anchored=True)))
    assert "Every record of 1 log verifies: 1,200 records, no gap and no edit." in text
    assert "All of them lie under checkpoints of a pinned key" in text


def test_what_could_have_been_rewritten_is_said_by_size():
    assert "200 records (4,096 bytes) lie after the last pinned checkpoint" in text_of(
        banner(checked(LOG, LOG | {"unanchored": 0, "unanchored_bytes": 0}))
    )
    assert "No key and no checkpoint was pinned" in text_of(banner(checked({**LOG, "pinned": False})))


def test_what_does_not_verify_is_said_first_and_as_text():
    broken = {**LOG, "status": "broken", "first_bad": BAD}
    missing = {"log": "gone", "named_by": "log.open"}
    text = text_of(banner(checked(broken, LOG, status="broken", misfits=2, missing=[missing])))
    assert text.index("The logs do not verify.") < text.index("<b>it was changed</b>")
    assert "Log gone is missing; it is named by log.open." in text
    assert "2 records that verified did not fit the schema" in text


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({}, "closed"),
        ({"status": "broken"}, "see above"),
        ({"recovered": True}, "its process died; recovered"),
        ({"recovered": True, "loss": "nothing was lost"}, "recovered: nothing was lost"),
        ({"in_use": True, "closed": False}, "still open"),
        ({"closed": False}, "not closed"),
    ],
)
def test_each_log_says_how_it_ended(changes, end):
    assert end in text_of(*verification(checked({**LOG, **changes})))


def test_pruned_ranges_keys_and_warnings_have_tables():
    pruned = {
        "log": "old", "records": (0, 4095), "first_t": "2025-01-01T00", "last_t": "2025-02-01T00", "whole": True,
        "by_log": "new", "by_seq": 7,
    }  # fmt: skip
    keys = [{"name": "steerguard-audit", "hash": "0a1b2c3d", "pinned": False}]
    log = {**LOG, "pruned": [pruned], "keys": keys, "warnings": ["the clock was set"]}
    text = text_of(*verification(checked(log, warnings=["a stray file"])))
    for words in ("0 to 4,095", "new record 7", "0a1b2c3d", "the clock was set", "a stray file"):
        assert words in text
    assert "Warnings" not in text_of(*verification(checked(LOG)))
