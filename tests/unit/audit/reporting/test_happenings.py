"""Events beside decisions: equal ones are one entry, and every type has its words."""

from __future__ import annotations

import json

import pytest
from tests.audit_events import SAMPLES

from steerguard.audit.reporting.happenings import MAX_ENTRIES, Happenings, bypass, change, upkeep

TOLD = {
    "policy.load": "harmlessness 1.0.0 (aaaaaaaaaaaa), plan bbbbbbbbbbbb, mode enforce, on smollm2, bfloat16 with",
    "policy.swap": "harmlessness 1.0.0 (aaaaaaaaaaaa) → harmlessness 1.0.0 (aaaaaaaaaaaa), plan",
    "policy.reject": "a document that could not be read: PolicyValidationError; harmlessness 1.0.0",
    "artifact.load": "inferaligner/smollm2@1.0.0 (aaaaaaaaaaaa), steering_vectors, ed25519-0123456789abcdef, vetting level 2",
    "artifact.verify_failed": "inferaligner/smollm2@1.0.0 (aaaaaaaaaaaa): ArtifactIntegrityError",
    "artifact.revoked": "inferaligner/smollm2@1.0.0 (aaaaaaaaaaaa): revoked, unsafe, action refuse, said by hf://acme",
    "log.recovered": "ended without closing; 0 torn bytes were set aside",
    "log.prune": "records 0 to 4095 of log 20261121T071532Z-0123456789abcdef, from 2026-11-22 to 2026-11-22, older than 400",
    "log.hold": "legal hold held: court order",
    "log.key_rotate": "content key 66687aad → 0a1b2c3d",
    "content.erased": "request 01KAN5C3 in log 20261121T071532Z-0123456789abcdef, rows erased: 2, because: asked for",
}


def record_of(kind, **fields):
    body = json.loads(SAMPLES[kind].model_dump_json(by_alias=True))
    return {"type": kind, "log": "l", "t": "2026-03-01T08:00:00.000000Z", **body, **fields}


@pytest.mark.parametrize("kind", list(TOLD))
def test_every_change_and_every_deed_on_the_log_has_its_words(kind):
    record = record_of(kind)
    found = [words for words in (change(record), upkeep(record)) if words is not None]
    assert len(found) == 1
    assert TOLD[kind] in found[0]


@pytest.mark.parametrize("kind", sorted(set(SAMPLES) - set(TOLD)))
def test_other_records_are_no_changes(kind):
    assert change(record_of(kind)) is None
    assert upkeep(record_of(kind)) is None


def test_a_bypass_says_reason_expiry_and_policy():
    assert bypass(record_of("guard.bypass")) == "unguided: scoring"
    named = record_of("guard.bypass", expires="2026-12-31", policy=record_of("policy.load")["policy"])
    assert bypass(named) == (
        "unguided: scoring, allowed until 2026-12-31, under policy harmlessness 1.0.0 (aaaaaaaaaaaa)"
    )


def test_equal_events_are_one_entry_with_first_last_and_count():
    found = Happenings()
    for day in (3, 1, 2):
        found.add(record_of("log.hold", t=f"2026-03-0{day}T08:00:00.000000Z"), "held")
    found.add(record_of("log.hold", t="2026-02-01T08:00:00.000000Z"), "released")
    rows = found.rows()
    assert [(row.what, row.times, row.first[:10], row.last[:10]) for row in rows] == [
        ("released", 1, "2026-02-01", "2026-02-01"),
        ("held", 3, "2026-03-01", "2026-03-03"),
    ]


def test_entries_are_bounded_and_those_left_out_are_counted():
    found = Happenings()
    for number in range(MAX_ENTRIES + 7):
        found.add(record_of("log.hold"), str(number))
    assert len(found.rows()) == MAX_ENTRIES
    assert found.left_out == 7
    assert "0" not in {row.what for row in found.rows()}
