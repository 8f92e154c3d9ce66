"""The figures of the audit log are tables of what its benchmarks wrote."""

from __future__ import annotations

import json

import pytest
from benchmarks.figures import RESULTS, TABLES, rewritten

COST = {
    "bars": {"record_us": 40.0, "verify_records_per_second": 60000},
    "record": [
        {
            "event": "guard.decision",
            "way": way,
            "signer": signer,
            "median_us": 24.64,
            "p99_us": 80.0,
            "times_write": 4.21,
            "times_logging": 1.5,
        }
        for way, signer in (("os.write", None), ("interval", True), ("interval", False))
    ],
    "verify": {
        "default": 91234,
        "strict": 9876,
        "logs": [{"records": 1000001, "seconds": 11.2, "peak_mib": 60.1, "grown_mib": 2.3}],
    },
}


@pytest.fixture
def results(tmp_path):
    (tmp_path / "audit_cost.json").write_text(json.dumps(COST), encoding="utf-8")
    return tmp_path


def block(marker, results):
    text, missing = rewritten(f"<!-- figures:{marker} -->\n<!-- /figures -->\n", results)
    assert missing == []
    return text.splitlines()[3:-1]


def test_the_cost_of_a_record_is_chosen_by_event_way_and_signer(results):
    assert block("audit_cost guard.decision.interval.signed guard.decision.os.write", results) == [
        "| guard.decision | interval | yes | 24.6 | 80.0 | 4.2 | 1.5 |",
        "| guard.decision | os.write | - | 24.6 | 80.0 | 4.2 | 1.5 |",
    ]


def test_speed_stands_beside_its_bar(results):
    assert block("audit_verification speed", results)[0] == "| default | 91,234 records per second | at least 60,000 |"
    assert block("audit_verification memory", results) == [
        "| a log of 1,000,001 records | 11.2 s, 2.3 MiB more than at the start | - |"
    ]


@pytest.mark.parametrize("name", ["audit_tampering", "audit_crashes"])
def test_what_was_measured_is_shown(name):
    heads, rows = TABLES[name](json.loads((RESULTS / f"{name}.json").read_text("utf-8")))
    assert rows
    assert {len(cells) for _, cells in rows} == {len(heads)}


def test_a_lost_record_is_not_shown_as_none():
    report = json.loads((RESULTS / "audit_crashes.json").read_text("utf-8")) | {"broken_promises": 1}
    _, rows = TABLES["audit_crashes"](report)
    assert {cells[4] for _, cells in rows} == {"see the result file"}
