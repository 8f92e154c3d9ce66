"""`replay --check`: every verdict follows from its own line."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.audit_days import ARTIFACTS, MODEL, decided, detector_reading, policy
from tests.audit_events import PLAN, gate_reading, searched, sized_content
from tests.guarded_models import conversation, guarded, memory_log, prompts, run, shared_model, splitting_threshold
from tests.guarded_models import policy as tiny_policy
from tests.rolling_guards import rolling, split
from tests.searched_models import sampled, search_policy
from tests.searched_models import searched as searching

from steerguard.audit.records.record import DecisionContext, decision_event
from steerguard.audit.replaying.recorded_rules import detector_readings, recorded_rules
from steerguard.audit.replaying.self_check import MAX_PLANS, SelfCheck
from steerguard.decision import Decision, Usage
from steerguard.engine.outcome import RowVerdict, readings
from steerguard.errors import AuditError
from steerguard.plan.planned_rules import float32
from steerguard.policy.rules import (
    PlannedAll,
    PlannedAny,
    PlannedBound,
    PlannedComparison,
    PlannedNot,
    PlannedRule,
    decide,
)
from steerguard.testing import MemorySink

SCORES = st.floats(-4, 4, width=32) | st.sampled_from([0.0, 1.0, -1.0])
BOUNDS = SCORES.map(lambda value: PlannedBound(value=float32(value)))
COMPARISONS = st.tuples(st.sampled_from(["d", "e"]), BOUNDS, BOUNDS, st.sampled_from(["low", "high", "both"])).map(
    lambda drawn: PlannedComparison(
        detector=drawn[0],
        at_least=None if drawn[3] == "high" else drawn[1],
        below=None if drawn[3] == "low" else drawn[2],
    )
)
CONDITIONS = st.recursive(
    COMPARISONS,
    lambda inner: (
        st.builds(PlannedAny, any_of=st.lists(inner, min_size=1, max_size=4).map(tuple))
        | st.builds(PlannedAll, all_of=st.lists(inner, min_size=1, max_size=4).map(tuple))
        | st.builds(PlannedNot, negated=inner)
    ),
    max_leaves=8,
)
TOLERANCES = st.fixed_dictionaries({"d": st.just(0.0) | st.floats(1e-6, 2.0), "e": st.just(0.0) | st.floats(1e-6, 2.0)})
ACTIONS = st.sampled_from(["allow", "annotate", "refuse"])


@st.composite
def planned_rules(draw):
    return tuple(
        PlannedRule(id=f"r{index}", when=draw(st.none() | CONDITIONS), action=draw(ACTIONS))
        for index in range(draw(st.integers(0, 4)))
    )


def as_record(event, seq=1):
    fields = json.loads(event.model_dump_json(by_alias=True))
    return {"type": event.event_type, "log": "l", "seq": seq, "t": "2026-03-01T08:00:00.000000Z", **fields}


def line_of(rules, scores, tolerances, default="allow"):
    """The record of the decision that these rules take, made as the guard makes it."""
    verdict = decide(rules, default, (), scores, tolerances=tolerances)
    plan = SimpleNamespace(rules=rules, tolerances=tolerances)
    row = RowVerdict(scores=scores, gate_scores={}, verdict=verdict, applied=verdict.action, open=())
    decision = Decision(
        request="r",
        row=0,
        mode="enforce",
        readings=readings(plan, row),
        rules=verdict.rules,
        cause=verdict.cause,
        intended=verdict.action,
        applied=verdict.action,
        doses=(),
        usage=Usage(prompt_tokens=1, generated_tokens=0, extra_forward_tokens=0),
    )
    context = DecisionContext(policy=policy(), plan=PLAN, model=MODEL, artifacts=ARTIFACTS)
    return as_record(decision_event(decision, context, content=sized_content()))


def found_by(*records):
    check = SelfCheck()
    for record in records:
        check.add(record)
    return check


def reasons(*records):
    return [one.reason for one in found_by(*records).disagreements]


@given(rules=planned_rules(), first=SCORES, second=SCORES, tolerances=TOLERANCES, default=ACTIONS)
def test_the_rules_can_be_read_from_the_line_and_the_verdict_follows(rules, first, second, tolerances, default):
    record = line_of(rules, {"d": first, "e": second}, tolerances, default)
    back = {rule.id: rule.when for rule in recorded_rules(detector_readings(record))}
    assert back == {rule.id: rule.when for rule in rules if rule.when is not None}
    assert reasons(record) == []


@given(rules=planned_rules(), first=SCORES, second=SCORES, tolerances=TOLERANCES)
def test_a_rule_that_is_left_out_of_the_line_is_found(rules, first, second, tolerances):
    record = line_of(rules, {"d": first, "e": second}, tolerances)
    compared = {rule.id for rule in rules if rule.when is not None}
    for rule in compared & set(record["rules"]):
        less = {**record, "rules": [one for one in record["rules"] if one != rule]}
        assert reasons(less) == [f"`{rule}` matched by the readings, and the record does not say so"]


def test_every_line_of_real_guards_follows_from_itself():
    model, sink = shared_model(), MemorySink()
    batch = prompts(6)
    threshold = splitting_threshold(rows=6)
    documents = (
        tiny_policy(threshold),
        tiny_policy(threshold, "refuse", mode="monitor"),
        tiny_policy(
            rules=f"""
rules:
  - id: odd
    when: {{any: [{{not: {{detector: d, score: {{at_least: {{value: {threshold:.9f}}}}}}}}}, {{detector: d, score: {{at_least: {{value: 90.0}}}}}}]}}
    then: {{action: refuse}}
  - {{id: all_rows, when: {{always: true}}, then: {{action: annotate}}}}
default: {{action: allow}}"""
        ),
        rolling(split(model, batch)),
    )
    for document in documents:
        log = memory_log(sink)
        with guarded(model, document, audit=log) as wrapped:
            run(wrapped, batch)
            run(wrapped, prompts(2), num_beams=2, num_return_sequences=2)
            wrapped.guard.check([conversation("hello there"), conversation("x"), conversation("go")])
        log.close()
    records = [json.loads(line) for line in sink.lines]
    check = found_by(*records)
    assert check.disagreements == []
    assert check.records == sum(record["type"] == "guard.decision" for record in records) >= 4 * 13
    assert {record["cause"] for record in records if record["type"] == "guard.decision"} >= {
        "rule",
        "default",
        "answer_reading",
    }


@pytest.mark.parametrize("cost_budget", [0.0, 1e5, -1e5])
def test_every_line_of_a_search_follows_from_itself(cost_budget):
    sink = MemorySink()
    log = memory_log(sink)
    with searching(shared_model(), search_policy(cost_budget=cost_budget), audit=log) as (wrapped, _):
        sampled(wrapped, prompts(4))
    log.close()
    check = found_by(*map(json.loads, sink.lines))
    assert check.disagreements == []
    assert check.records >= 4


def altered(score=2.5, **fields):
    return {**as_record(decided("r", score)), **fields}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (altered(rules=["refuse_clear_harm", "guide_suspected_harm"]), "`refuse_clear_harm` did not match"),
        (altered(applied="allow"), "in mode `enforce` with the intended action `guide`"),
        (altered(mode="monitor"), "in mode `monitor`"),
        (altered(cause="answer_reading"), "with the cause `answer_reading` the intended action is `refuse`"),
        (
            altered(6.0, cause="answer_reading"),
            "the cause is `answer_reading`, and no reading of the answer reached its threshold",
        ),
        (altered(6.0, cause="no_candidate"), "the cause is `no_candidate`, and no search is on the line"),
        (altered(6.0, cause="revoked"), "nothing is read"),
        (altered(cause="unrecognised_prompt"), "nothing is read"),
        (altered(-2.0, cause="rule"), "the cause is `rule`, and no rule matched"),
        (
            altered(
                doses=[
                    {
                        "step": "align",
                        "method": "m",
                        "open_blocks": [1],
                        "coefficient": "1.0",
                        "positions": 3,
                        "expected_positions": 4,
                    }
                ]
            ),
            "changed 3 positions where 4 were expected",
        ),
    ],
)
def test_a_line_that_contradicts_itself_is_found(record, reason):
    assert len(reasons(record)) == 1
    assert reason in reasons(record)[0]


def test_a_score_that_was_changed_is_found():
    record = altered(2.5)
    record["readings"][0]["score"] = "6.5"
    assert reasons(record) == ["`refuse_clear_harm` matched by the readings, and the record does not say so"]


def test_a_flag_of_nearness_that_does_not_follow_is_found():
    record = altered(2.5)
    record["readings"][0]["near"] = True
    assert reasons(record) == ["`near` of `harmful_intent` does not follow from its score and tolerance"]


def test_a_score_that_is_not_finite_refuses():
    record = altered(2.5)
    record["readings"][0]["score"] = None
    assert reasons(record) == ["a score is not finite, and the cause is `rule` and not `non_finite`"]
    assert reasons({**record, "cause": "non_finite", "rules": [], "intended": "refuse", "applied": "refuse"}) == []


def test_a_gate_that_is_not_finite_matters_only_where_its_step_acted():
    gate = json.loads(gate_reading(10).model_dump_json()) | {"score": None}
    record = altered(2.5)
    record["readings"].append(gate)
    assert reasons(record) == []
    dose = {
        "step": "align",
        "method": "m",
        "open_blocks": [10],
        "coefficient": "1.0",
        "positions": 3,
        "expected_positions": 3,
    }
    assert reasons({**record, "doses": [dose]}) == [
        "a score is not finite, and the cause is `rule` and not `non_finite`"
    ]


def test_the_same_rules_of_a_plan_lead_to_the_same_action():
    other = altered(2.5, intended="refuse", applied="refuse")
    assert reasons(altered(2.0), other) == [
        "the same rules of the plan led to `guide` (rule) in an earlier record, and to `refuse` (rule) in this one"
    ]
    assert reasons(altered(2.0), {**other, "plan": "sha256:" + "9" * 64}) == []


def test_rules_without_a_comparison_match_in_every_record_of_a_plan():
    first = altered(2.5, rules=["guide_suspected_harm", "all_rows"])
    assert reasons(first, altered(2.5)) == [
        "rules without a comparison matched in one record of the plan and not in another"
    ]


def test_a_rule_that_only_a_copy_can_have_matched_is_counted_apart():
    reading = json.loads(detector_reading(5.1).model_dump_json())
    record = altered(5.1, intended="refuse", applied="refuse", rules=["guide_suspected_harm", "refuse_clear_harm"])
    record["readings"] = [reading]
    check = found_by(record)
    assert (check.records, check.disagreed, check.of_copies) == (1, 0, 1)
    far = altered(4.9, intended="refuse", applied="refuse", rules=["guide_suspected_harm", "refuse_clear_harm"])
    assert found_by(far).disagreed == 1


def test_a_decision_of_a_search_and_one_with_an_error_are_accepted():
    fields = {"rules": ["guide_suspected_harm"], "readings": altered(2.5)["readings"]}
    assert reasons({**as_record(searched()), **fields}) == []
    failed = altered(
        2.5, rules=[], readings=[], intended="refuse", applied="refuse", err={"code": "E", "stage": "detect"}
    )
    assert reasons(failed) == []


@pytest.mark.parametrize("place", ["any.0", "all.1", "not.any.7", "some.0", "any"])
def test_bounds_that_spell_no_condition_are_found(place):
    record = altered(2.5)
    record["readings"][0]["thresholds"][0]["place"] = place
    record["readings"][0]["thresholds"][1]["place"] = "any.1" if place == "any.0" else None
    if place == "any.0":
        record["readings"][0]["thresholds"][0]["place"] = "any.3"
    with pytest.raises(AuditError, match="do not spell a condition"):
        recorded_rules(record["readings"])
    assert len(reasons(record)) == 1


def test_records_of_versions_without_places_and_tolerances_are_read():
    record = altered(2.5)
    for reading in record["readings"]:
        del reading["tolerance"], reading["near"]
        for bound in reading["thresholds"]:
            del bound["place"]
    assert reasons(record) == []


def test_memory_does_not_grow_with_the_number_of_plans_or_disagreements():
    check = SelfCheck(keep=3)
    for number in range(MAX_PLANS + 50):
        check.add(altered(2.5, plan=f"sha256:{number:064x}", applied="allow"))
        check.add(altered(2.5, plan=f"sha256:{number:064x}"))
    assert check.disagreed == MAX_PLANS + 50
    assert len(check.disagreements) == 3
    assert len(check._always) == len(check._outcomes) == MAX_PLANS
    assert check.document()["agreed"] == MAX_PLANS + 50
