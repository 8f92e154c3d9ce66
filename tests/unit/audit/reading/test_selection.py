from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.audit_events import LOG, OTHER_LOG, SAMPLES, refusal, request
from tests.chained_logs import record

from steerguard.audit.reading.selection import Selection, event_types, fits, moment
from steerguard.audit.records.events import RECORDS
from steerguard.errors import AuditError

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
DECISION = record(refusal(req="r1"), t="2026-11-22T07:15:32.000000Z")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-23T14:00:00Z", "2026-11-23T14:00:00.000000Z"),
        ("2026-11-23T14:00:00.5+02:00", "2026-11-23T12:00:00.500000Z"),
        ("2026-11-23 14:00:00z", "2026-11-23T14:00:00.000000Z"),
        ("2026-11-23", "2026-11-23T00:00:00.000000Z"),
        ("24h", "2026-11-22T12:00:00.000000Z"),
        ("7d", "2026-11-16T12:00:00.000000Z"),
        ("2w", "2026-11-09T12:00:00.000000Z"),
        ("90s", "2026-11-23T11:58:30.000000Z"),
        ("30m", "2026-11-23T11:30:00.000000Z"),
    ],
)
def test_a_time_is_written_as_records_write_it(text, expected):
    assert moment(text, now=NOW) == expected


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2026-11-23T14:00:00", "2026-13-01", "2026-02-30T00:00:00Z", "24", "-1d", "1y", "999999w", "٢h"],
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(AuditError, match="not a time"):
        moment(text, now=NOW)


def test_a_pattern_names_the_types_that_it_matches():
    assert event_types(["guard.decision"]) == {"guard.decision"}
    assert event_types(["log.*", "checkpoint"]) == {kind for kind in RECORDS if kind.startswith("log.")} | {
        "checkpoint"
    }
    assert event_types(["all"]) == frozenset(RECORDS)


def test_a_pattern_that_matches_no_type_is_refused():
    with pytest.raises(AuditError, match="no such event type") as caught:
        event_types(["guard.decision", "guard.decisions"])
    assert "guard.decision, guard.request" in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "admitted"),
    [
        ({}, True),
        ({"request": "r1"}, True),
        ({"request": "r2"}, False),
        ({"types": frozenset({"guard.decision"})}, True),
        ({"types": frozenset({"guard.error"})}, False),
        ({"since": "2026-11-22T07:15:32.000000Z"}, True),
        ({"since": "2026-11-22T07:15:32.000001Z"}, False),
        ({"until": "2026-11-22T07:15:32.000000Z"}, False),
        ({"until": "2026-11-22T07:15:32.000001Z"}, True),
        ({"intended": "refuse"}, True),
        ({"intended": "allow"}, False),
        ({"action": "refuse"}, True),
        ({"action": "guide"}, False),
        ({"cause": "rule"}, True),
        ({"cause": "default"}, False),
        ({"rule": "refuse_clear_harm"}, True),
        ({"rule": "refuse"}, False),
        ({"policy": "harmlessness"}, True),
        ({"policy": "harm"}, False),
        ({"tenant": "acme"}, False),
        ({"log": LOG}, True),
        ({"log": OTHER_LOG}, False),
        ({"request": "r1", "action": "guide"}, False),
    ],
)
def test_everything_that_is_asked_for_must_hold(asked, admitted):
    assert Selection(**asked).admits(DECISION) is admitted


def test_the_hosts_own_request_id_and_tenant_are_found():
    bound = {**DECISION, "request_id": "host-7", "tenant": "acme"}
    assert Selection(request="host-7", tenant="acme").admits(bound)


def test_a_rejected_policy_is_found_by_its_name():
    body = SAMPLES["policy.reject"]
    rejected = body.model_copy(update={"policy": None, "rejected": body.policy})
    assert Selection(policy="harmlessness").admits(record(rejected))


def test_a_summary_of_a_request_has_no_applied_action():
    assert not Selection(action="guide").admits(record(request()))


@pytest.mark.parametrize("value", [None, 7, [], {}, {"name": []}, [["refuse_clear_harm"]]])
def test_a_record_that_fits_no_schema_is_judged_without_an_error(value):
    odd = dict.fromkeys(("type", "t", "req", "rules", "policy", "rejected", "applied", "cause", "log", "tenant"), value)
    everything = Selection(
        request="r1",
        types=frozenset({"guard.decision"}),
        since="2026-11-22T07:15:32.000000Z",
        action="refuse",
        rule="refuse_clear_harm",
        policy="harmlessness",
    )
    assert not everything.admits(odd)
    for part in ({"rule": "x"}, {"policy": "x"}, {"types": frozenset({"x"})}, {"since": "2"}):
        assert not Selection(**part).admits(odd)


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_a_record_of_every_type_fits(kind):
    assert fits(record(SAMPLES[kind]))


@pytest.mark.parametrize(
    "change",
    [
        {"type": "guard.unknown"},
        {"type": ["guard.decision"]},
        {"cause": "\x1b[31m"},
        {"row": -1},
        {"row": 2**70},
        {"extra": 1},
        {"readings": None},
    ],
)
def test_a_changed_record_does_not_fit(change):
    assert not fits({**DECISION, **change})


def test_a_deeply_nested_record_does_not_fit():
    deep = []
    for _ in range(600):
        deep = [deep]
    assert not fits({**DECISION, "readings": deep})
