"""Recorded readings under another policy: the same as the guard would have decided, or said not to be decidable."""

from __future__ import annotations

import json

import pytest
from tests.guarded_models import (
    guarded,
    memory_log,
    policy,
    prompts,
    registry_for,
    run,
    scores_of,
    shared_model,
    splitting_threshold,
)
from tests.rolling_guards import rolling, split

from steerguard.audit.replaying.replay import Replay, Undecided, redecided
from steerguard.audit.replaying.replay_plan import RecordedModel, Targets
from steerguard.registry.local import LocalDirectory
from steerguard.testing import MemorySink

ROWS = 6


def recorded(document, rows=ROWS, **named):
    """The records of one guarded run over the same prompts."""
    sink = MemorySink()
    log = memory_log(sink)
    with guarded(shared_model(), document, audit=log, **named) as wrapped:
        run(wrapped, prompts(rows))
    log.close()
    return [json.loads(line) for line in sink.lines]


def replayed(records, document, store=None, keep=20):
    replay = Replay(document, registry_for(shared_model()) if store is None else store, keep=keep)
    for record in records:
        replay.learn(record)
        replay.add(record)
    return replay


def decisions(records):
    return [record for record in records if record["type"] == "guard.decision"]


def threshold():
    return splitting_threshold(rows=ROWS)


def calibrated(rate):
    return policy(f"{{fpr: {rate}}}", "refuse")


POLICIES = {
    "guide some": lambda: policy(threshold()),
    "refuse some": lambda: policy(threshold(), "refuse"),
    "refuse all": lambda: policy(-1e6, "refuse"),
    "allow all": lambda: policy(1e6, "refuse"),
    "a rate": lambda: calibrated(0.5),
    "another rate": lambda: calibrated(0.1),
    "a condition": lambda: policy(
        rules=f"""
rules:
  - id: inside
    when: {{all: [{{detector: d, score: {{at_least: {{value: {threshold() - 1.0:.9f}}}}}}}, {{not: {{detector: d, score: {{at_least: {{value: {threshold():.9f}}}}}}}}}]}}
    then: {{action: refuse}}
  - {{id: all_rows, when: {{always: true}}, then: {{action: annotate}}}}
default: {{action: allow}}"""
    ),
}


@pytest.mark.parametrize("after", list(POLICIES))
@pytest.mark.parametrize("before", ["guide some", "a rate"])
def test_a_replay_says_what_the_guard_decides_under_that_policy(before, after):
    replay = replayed(recorded(POLICIES[before]()), POLICIES[after]())
    truth = decisions(recorded(POLICIES[after]()))
    assert (replay.records, replay.decided, replay.undecided.counts) == (ROWS, ROWS, {})
    target = Targets(POLICIES[after](), registry_for(shared_model()))
    for record, wanted in zip(decisions(recorded(POLICIES[before]())), truth, strict=True):
        found = redecided(record, target.of(model_of(record)))
        assert (found.action, list(found.rules), found.cause) == (wanted["intended"], wanted["rules"], wanted["cause"])


def model_of(record):
    return RecordedModel(
        name=record["model"]["name"],
        architecture=record["model"]["architecture"],
        dtype=record["model"]["dtype"],
        artifacts=tuple((pin["digest"], None) for pin in record["artifacts"]),
        policy=record["policy"]["digest"],
    )


def test_changes_are_counted_and_listed():
    records = recorded(POLICIES["allow all"]())
    replay = replayed(records, POLICIES["refuse all"](), keep=2)
    document = replay.document()
    assert document["actions"] == {"allow → refuse": ROWS}
    assert document["rules"] == {"+ r": ROWS}
    assert (document["changed"], len(document["changes"])) == (ROWS, 2)
    assert document["changes"][0]["after"] == "refuse"
    back = replayed(recorded(POLICIES["refuse all"]()), POLICIES["allow all"]())
    assert back.document()["rules"] == {"- r": ROWS}
    same = replayed(records, POLICIES["allow all"]())
    assert (same.changed, same.document()["changes"]) == (0, [])


def test_a_detector_that_the_record_lacks_cannot_be_decided():
    records = recorded(policy(rules="rules: []\ndefault: {action: allow}", detector=False))
    replay = replayed(records, POLICIES["refuse some"]())
    assert (replay.decided, replay.undecided.total) == (0, ROWS)


def test_an_artifact_that_the_store_has_not_cannot_be_decided(tmp_path):
    replay = replayed(recorded(POLICIES["refuse some"]()), POLICIES["refuse all"](), store=LocalDirectory(tmp_path))
    assert replay.undecided.total == ROWS
    assert all("does not compile" in reason for reason in replay.undecided.counts)


def test_another_reading_under_the_same_name_is_not_taken():
    renamed = POLICIES["refuse all"]().model_dump_json(by_alias=True).replace('"d"', '"e"')
    other = type(POLICIES["refuse all"]()).model_validate_json(renamed)
    replay = replayed(recorded(POLICIES["guide some"]()), other)
    assert replay.undecided.counts == {"the record has no reading of detector `e`": ROWS}


def test_a_record_with_two_readable_artifacts_is_not_guessed():
    records = recorded(POLICIES["guide some"]())
    unknown = {"ref": "other/tiny@1.0.0", "digest": "sha256:" + "7" * 64}
    for record in decisions(records):
        record["artifacts"].append(unknown)
    replay = replayed(records, POLICIES["refuse all"]())
    assert replay.undecided.counts == {"the record does not say which of its artifacts the detector `d` read": ROWS}
    load = {"type": "artifact.load", "artifact": unknown, "artifact_type": "steering_vectors"}
    assert replayed([load, *records], POLICIES["refuse all"]()).decided == ROWS


def test_an_artifact_of_other_bytes_is_not_taken():
    records = recorded(POLICIES["guide some"]())
    for record in decisions(records):
        record["artifacts"] = [pin for pin in record["artifacts"] if not pin["ref"].startswith("harmful-intent/")]
    replay = replayed(records, POLICIES["refuse all"]())
    (reason,) = replay.undecided.counts
    assert reason.startswith("the record lacks the artifact of detector `d`")


def test_a_policy_that_reads_answers_cannot_be_decided_where_it_would_read_one():
    replay = replayed(recorded(POLICIES["guide some"]()), rolling(0.0))
    assert replay.undecided.counts == {"guidance entry `watch` reads the answer, and the answer is not on record": ROWS}


def test_the_policy_of_the_record_keeps_what_followed_from_the_answer():
    document = rolling(split(shared_model(), prompts(ROWS)))
    records = recorded(document)
    causes = {record["cause"] for record in decisions(records)}
    assert "answer_reading" in causes
    replay = replayed(records, document)
    assert (replay.decided, replay.changed) == (ROWS, 0)


def test_a_stream_counts_once():
    records = recorded(POLICIES["guide some"]())
    first = decisions(records)[0]
    early = {**first, "content": {**first["content"], "out_tokens": None, "out_chars": None}}
    replay = replayed([early, *records], POLICIES["refuse all"]())
    assert (replay.announced, replay.records) == (1, ROWS)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"cause": "revoked", "readings": [], "rules": [], "intended": "refuse"}, "revoked"),
        ({"cause": "budget", "rules": [], "intended": "refuse"}, "budget"),
        ({"err": {"code": "E", "stage": "detect"}}, "failure rule"),
    ],
)
def test_what_no_rule_decided_is_not_decided_anew(fields, reason):
    record = {**decisions(recorded(POLICIES["guide some"]()))[0], **fields}
    found = redecided(record, Targets(POLICIES["refuse all"](), registry_for(shared_model())).of(model_of(record)))
    assert isinstance(found, Undecided)
    assert reason in found.reason


def test_an_unrecognised_prompt_is_decided_by_what_the_policy_says_of_it():
    record = {**decisions(recorded(POLICIES["guide some"]()))[0]}
    record |= {"cause": "unrecognised_prompt", "readings": [], "rules": []}
    store = registry_for(shared_model())
    allowing = policy(
        0.0, "refuse", more="unrecognised_prompt: {action: allow, reason: reviewed by hand, expires: 2999-12-31}"
    )
    strict, loose = (Targets(one, store).of(model_of(record)) for one in (policy(0.0), allowing))
    assert redecided({**record, "t": "2999-12-31T23:00:00.000000Z"}, strict).action == "refuse"
    assert redecided({**record, "t": "2999-12-31T23:00:00.000000Z"}, loose).action == "allow"
    assert redecided({**record, "t": "3000-01-01T00:00:00.000000Z"}, loose).action == "refuse"


def test_a_score_that_is_not_finite_refuses_under_every_policy():
    record = decisions(recorded(POLICIES["guide some"]()))[0]
    record["readings"][0]["score"] = None
    found = redecided(record, Targets(POLICIES["allow all"](), registry_for(shared_model())).of(model_of(record)))
    assert (found.action, found.cause) == ("refuse", "non_finite")


def test_a_row_whose_answer_was_not_finite_is_not_decided_where_the_policy_guides_it():
    record = decisions(recorded(POLICIES["guide some"]()))[0] | {"cause": "non_finite", "intended": "refuse"}
    store = registry_for(shared_model())
    found = redecided(record, Targets(policy(-1e6, settings="coefficient: 2.0"), store).of(model_of(record)))
    assert isinstance(found, Undecided)
    assert "not finite" in found.reason
    assert redecided(record, Targets(POLICIES["refuse all"](), store).of(model_of(record))).action == "refuse"


def test_the_scores_lie_on_both_sides_of_the_threshold_of_these_tests():
    scores = scores_of(shared_model(), prompts(ROWS))
    assert min(scores) < threshold() < max(scores)
