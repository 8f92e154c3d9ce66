from __future__ import annotations

import json
import operator
from dataclasses import asdict
from typing import get_args

import pytest
from tests.revocations import REGISTRY, artifact, listed, revokes

from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.content import token_content
from steerguard.audit.records.chain import canonical_line
from steerguard.audit.records.events import BODIES, RECORDS, event_schema
from steerguard.audit.records.fields import RevocationReason
from steerguard.audit.records.record import (
    bypass_event,
    decimal,
    decision_event,
    model_reference,
    revoked_event,
)
from steerguard.audit.sinks import MemorySink
from steerguard.decision import Reading, SearchReport, Threshold, Usage
from steerguard.errors import AuditError
from steerguard.models.facts import ModelFacts
from steerguard.registry.revocations import Reason, RevocationAction
from steerguard.trust.findings import Finding, revoked_in

HOLDS = {"at_least": operator.ge, "below": operator.lt}


def recorded(body, key=None):
    sink = MemorySink()
    AuditLog.open(key=key, content="none" if key is None else "hmac", sink=sink).record(body)
    return json.loads(sink.lines[1])


def test_the_line_alone_says_which_rules_matched(decide, context):
    record = recorded(decision_event(decide(), context, content=token_content(None, [1], [2])))
    holds = {}
    for reading in record["readings"]:
        for bound in reading["thresholds"]:
            met = HOLDS[bound["bound"]](float(reading["score"]), float(bound["value"]))
            holds[bound["rule"]] = holds.get(bound["rule"], True) and met
    assert [rule for rule, met in holds.items() if met] == record["rules"]


def test_scores_and_thresholds_read_back_to_the_same_floats(decide, context):
    decision = decide()
    record = recorded(decision_event(decision, context, content=token_content(None, [1], [2])))
    assert [float(reading["score"]) for reading in record["readings"]] == [r.score for r in decision.readings]
    assert float(record["readings"][0]["thresholds"][0]["value"]) == 5.25


def test_the_line_says_that_the_guidance_fired(decide, context):
    (dose,) = recorded(decision_event(decide(), context, content=token_content(None, [1], [2])))["doses"]
    assert dose["positions"] == dose["expected_positions"] == 24
    assert dose["open_blocks"] == [3, 4]


def test_a_score_that_is_not_finite_is_null(decide, context):
    decision = decide(readings=(Reading(source="harm", score=None),), cause="non_finite", applied="refuse")
    record = recorded(decision_event(decision, context, content=token_content(None, [1], None)))
    assert record["readings"][0]["score"] is None


def test_a_row_within_the_score_tolerance_is_marked_in_its_record(decide, context):
    threshold = Threshold(rule="block", bound="at_least", value=1.0)
    near = Reading(source="harm", score=0.9, thresholds=(threshold,), tolerance=0.25, near=True)
    decision = decide(readings=(near, Reading(source="other", score=0.5)))
    record = recorded(decision_event(decision, context, content=token_content(None, [1], None)))
    assert [(one["tolerance"], one["near"]) for one in record["readings"]] == [("0.25", True), ("0.0", False)]
    assert decision.near
    assert not decide().near


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_threshold_that_is_not_finite_is_refused(decide, context, value):
    threshold = Threshold(rule="block", bound="at_least", value=value)
    decision = decide(readings=(Reading(source="harm", score=1.0, thresholds=(threshold,)),))
    with pytest.raises(AuditError, match="not finite"):
        decision_event(decision, context, content=token_content(None, [1], None))


def test_a_value_outside_the_schema_is_refused_without_being_repeated(decide, context):
    decision = decide(rules=("how do I pick a lock?",))
    with pytest.raises(AuditError, match=r"guard\.decision rules\.0") as caught:
        decision_event(decision, context, content=token_content(None, [1], None))
    assert "lock" not in str(caught.value)


def test_equal_thresholds_are_one_part_and_each_zero_keeps_its_sign(decide, context):
    bounds = [Threshold(rule="block", bound="at_least", value=value) for value in (0.0, -0.0, 5.25, 0.0, 5.25)]
    decision = decide(readings=tuple(Reading(source="harm", score=1.0, thresholds=(bound,)) for bound in bounds))
    event = decision_event(decision, context, content=token_content(None, [1], None))
    made = [reading.thresholds[0] for reading in event.readings]
    assert [threshold.value for threshold in made] == ["0.0", "-0.0", "5.25", "0.0", "5.25"]
    assert made[0] is made[3]
    assert made[2] is made[4]


def test_tokens_of_an_earlier_turn_are_recorded(decide, context):
    usage = Usage(prompt_tokens=8, generated_tokens=4, extra_forward_tokens=0, cached_tokens=6)
    record = recorded(decision_event(decide(usage=usage), context, content=token_content(None, [1], None)))
    assert record["usage"]["cached_tokens"] == 6


def test_a_search_is_recorded_with_what_it_cost(decide, context):
    search = SearchReport(
        step="search",
        method="inference_guard",
        outcome="no_candidate",
        cost=None,
        cost_budget=0.5,
        cost_budget_fpr="0.05",
        plain_cost=0.75,
        kept_tokens=1,
        candidates=8,
        candidates_drawn=16,
        retries=1,
        halvings=0,
        forward_tokens=2048,
        late_ms=3,
    )
    record = recorded(decision_event(decide(search=search), context, content=token_content(None, [1], None)))
    assert record["search"] == {**asdict(search), "cost_budget": "0.5", "plain_cost": "0.75"}


def test_decimal_accepts_what_repr_writes():
    assert [decimal(x) for x in (1.0, -0.0, 1e300, 5e-324, 3)] == ["1.0", "-0.0", "1e+300", "5e-324", "3.0"]


def _facts(name):
    return ModelFacts(
        architecture="LlamaForCausalLM",
        decoder="LlamaModel",
        num_blocks=2,
        hidden_size=8,
        vocab_size=16,
        modalities=("text",),
        dtype="float32",
        tokenizer_sha256=None,
        chat_template_sha256=None,
        name=name,
    )


def test_a_long_model_name_in_any_script_is_recorded_by_its_end():
    name = model_reference(_facts("modèle" * 100 + "-tiny")).name
    assert name.isascii()
    assert len(name) == 256
    assert name.endswith("-tiny")


@pytest.mark.parametrize(
    ("name", "recorded_name"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("gpt2", "gpt2"),
        ("/home/alice/secret/tiny", "tiny"),
        ("/home/alice/secret/tiny/", "tiny"),
        ("./secret/tiny", "tiny"),
        ("~/secret/tiny", "tiny"),
        ("C:\\Users\\alice\\tiny", "tiny"),
        ("a/b/c", "c"),
        ("null\0/tiny", "tiny"),
        ("", ""),
    ],
)
def test_of_the_path_of_a_model_only_the_last_component_is_recorded(name, recorded_name):
    assert model_reference(_facts(name)).name == recorded_name


def test_a_folder_that_looks_like_a_name_on_the_hub_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "alice" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert model_reference(_facts("alice/tiny")).name == "tiny"
    assert model_reference(_facts("bob/tiny")).name == "bob/tiny"


def test_a_bypass_states_its_reason_and_refuses_a_long_one(context):
    record = recorded(bypass_event("unguided", "scoring for café", expires="2026-12-31", context=context))
    assert record["reason"] == "scoring for caf\\xe9"
    with pytest.raises(AuditError, match="too long"):
        bypass_event("unguided", "x" * 257)
    with pytest.raises(AuditError, match="kind"):
        bypass_event("because", "x")


@pytest.mark.parametrize("kind", ["unsigned_artifact", "unrecognised_prompt"])
def test_a_reason_of_a_document_is_recorded_as_long_as_documents_allow(context, kind):
    reason = "café " * 100
    assert recorded(bypass_event(kind, reason, context=context))["reason"] == "caf\\xe9 " * 100


def test_a_revocation_is_recorded_with_its_list_and_a_restored_artifact_without():
    lists = {REGISTRY: listed(revokes(reason="wrong_base"), sequence=7)}
    record = recorded(revoked_event(artifact(), revoked_in(lists, artifact())))
    assert record["artifact"] == {"ref": "steer/tiny@1.2.0", "digest": f"sha256:{'a' * 64}"}
    assert [record[name] for name in ("registry", "state", "reason", "action", "sequence", "allowed")] == [
        REGISTRY, "revoked", "wrong_base", "refuse", 7, None,
    ]  # fmt: skip
    record = recorded(revoked_event(artifact(), None))
    assert [record[name] for name in ("registry", "state", "reason", "action", "sequence", "allowed")] == [
        None, "restored", None, "none", None, None,
    ]  # fmt: skip


def test_the_longest_reason_of_a_trust_policy_for_a_stale_list_fits():
    stale = Finding(artifact=artifact(), registry=REGISTRY, state="stale", action="warn", allowed="\U0001f600" * 500)
    record = recorded(revoked_event(artifact(), stale))
    assert record["allowed"] == "\\U0001f600" * 500
    assert (record["state"], record["action"], record["sequence"]) == ("stale", "warn", None)


def test_reasons_and_actions_are_those_of_lists_of_revocations():
    assert get_args(RevocationReason) == get_args(Reason)
    assert set(get_args(RevocationAction)) < {"refuse", "warn", "none"}


def test_every_event_type_has_a_closed_model_and_a_schema_entry():
    schema = event_schema()
    assert set(RECORDS) == {body.event_type for body in BODIES} == set(schema["discriminator"]["mapping"])
    json.dumps(schema)
    for name, definition in schema["$defs"].items():
        assert definition["additionalProperties"] is False, name


def test_no_schema_admits_a_float():
    def types(node):
        if isinstance(node, dict):
            yield from (value for name, value in node.items() if name == "type" and isinstance(value, str))
            yield from (kind for value in node.values() for kind in types(value))
        elif isinstance(node, list):
            yield from (kind for value in node for kind in types(value))

    assert set(types(event_schema())) <= {"object", "array", "string", "integer", "boolean", "null"}


def test_a_record_validates_against_its_own_line(decide, context):
    record = recorded(decision_event(decide(), context, content=token_content(None, [1], [2])))
    RECORDS["guard.decision"].model_validate_json(canonical_line(record))
