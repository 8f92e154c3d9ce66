from __future__ import annotations

import copy
import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.audit_events import ARTIFACTS, MODEL, POLICY, SAMPLES, bodies, decision, gate_reading, reading
from tests.audit_lines import Lines, line_of

from steerguard.audit.records.allow_list import REMEMBERED, admitted
from steerguard.audit.records.chain import canonical_line
from steerguard.audit.records.events import RECORDS, GuardBypass, GuardDecision, LogClose
from steerguard.audit.records.fields import (
    ModelReference,
    PolicyReference,
    RecordedBudget,
    RecordedContent,
    RecordedDose,
    RecordedReading,
    RecordedThreshold,
    RecordedUsage,
)
from steerguard.errors import AuditError

CANARY = "pick a lock 7Zq"
FIELDS = dict(decision())


def refused(body, place=None):
    """The event is refused, nothing is written, and no text of it is in the error."""
    lines = Lines()
    with pytest.raises(AuditError, match="closed schema") as caught:
        lines.record(body)
    assert lines.lines == []
    assert CANARY not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    if place is not None:
        assert caught.value.where == place
    lines.record(decision())


def built(**changes):
    return GuardDecision.model_construct(**{**FIELDS, **changes})


@pytest.mark.parametrize("kind", SAMPLES)
def test_the_line_is_the_canonical_form_of_the_dumped_event(kind):
    record = line_of(SAMPLES[kind])
    envelope = {name: record[name] for name in ("v", "type", "log", "seq", "t", "mono", "prev")}
    dumped = json.loads(SAMPLES[kind].model_dump_json(by_alias=True))
    assert record == {**dumped, **envelope}


@settings(max_examples=200, deadline=None)
@given(bodies(RECORDS))
def test_a_line_reads_back_to_the_event_and_is_canonical(body):
    lines = Lines()
    record = lines.record(body)
    assert canonical_line(record) == lines.lines[0]
    parsed = RECORDS[body.event_type].model_validate_json(lines.lines[0])
    assert {name: getattr(parsed, name) for name in type(body).model_fields} == dict(body)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"row": 0.5}, "guard.decision row"),
        ({"row": True}, "guard.decision row"),
        ({"row": -1}, "guard.decision row"),
        ({"row": 2**53}, "guard.decision row"),
        ({"req": CANARY}, "guard.decision req"),
        ({"rules": (CANARY,)}, "guard.decision rules.0"),
        ({"rules": ["rule"]}, "guard.decision rules"),
        ({"mode": CANARY}, "guard.decision mode"),
        ({"plan": None}, "guard.decision plan"),
        ({"plan": CANARY.encode()}, "guard.decision plan"),
        ({"usage": None}, "guard.decision usage"),
        ({"readings": None}, "guard.decision readings"),
    ],
)
def test_a_body_that_skipped_validation_is_validated(changes, place):
    refused(built(**changes), place)


@pytest.mark.parametrize(
    "changes",
    [
        {"usage": RecordedUsage.model_construct(prompt_tokens=CANARY, generated_tokens=1, extra_forward_tokens=0)},
        {"usage": {"prompt_tokens": 1, "generated_tokens": 1, "extra_forward_tokens": 0}},
        {"usage": RecordedBudget(outcome="within", max_extra_forward_tokens=None)},
        {"policy": PolicyReference.model_construct(name="é" + CANARY, version="1", digest=POLICY.digest)},
        {"policy": PolicyReference.model_construct(name=7, version="1", digest=POLICY.digest)},
        {"policy": POLICY.model_dump()},
        {"policy": MODEL},
        {"policy": (POLICY,)},
        {"policy": CANARY},
        {"policy": orjson.Fragment(f'"{CANARY}"'.encode())},
        {"model": ARTIFACTS[0]},
        {"artifacts": ARTIFACTS[0]},
        {"artifacts": list(ARTIFACTS)},
        {"artifacts": (ARTIFACTS,)},
        {"artifacts": (None,)},
        {"readings": (reading().model_dump(),)},
        {"readings": (reading(), (reading(),))},
        {"readings": (RecordedReading.model_construct(source=CANARY, score="1.0", thresholds=()),)},
        {"readings": (RecordedReading.model_construct(**{**dict(reading()), "score": 1.5}),)},
        {"readings": (RecordedReading.model_construct(**{**dict(reading()), "thresholds": (CANARY,)}),)},
        {"readings": (RecordedReading.model_construct(**{**dict(reading()), "thresholds": (POLICY,)}),)},
        {"readings": (RecordedThreshold.model_construct(rule="r", bound="below", value=CANARY, fpr=None),)},
        {"content": RecordedContent.model_construct(form="text", prompt=CANARY)},
        {"content": orjson.Fragment(f'"{CANARY}"'.encode())},
    ],
)
def test_no_part_inside_gets_around_its_model(changes):
    refused(built(**changes))


def test_a_threshold_that_skipped_validation_is_validated():
    wrong = RecordedThreshold.model_construct(rule="r", bound="below", value=CANARY, fpr=None, place=None)
    refused(built(readings=(gate_reading(3).model_copy(update={"thresholds": (wrong,)}),)), "RecordedThreshold value")


def test_a_missing_field_is_refused():
    fields = {name: value for name, value in FIELDS.items() if name != "cause"}
    refused(GuardDecision.model_construct(**fields), "guard.decision cause")


def test_a_subclass_is_refused_whether_it_adds_something_or_not():
    class Chatty(GuardDecision):
        prompt: str

    class Same(GuardDecision):
        pass

    refused(Chatty(**{**FIELDS, "prompt": CANARY}), "event")
    refused(Same(**FIELDS), "event")


@pytest.mark.parametrize("base", [PolicyReference, ModelReference])
def test_a_subclass_of_a_settled_part_is_refused(base):
    class Wider(base):
        note: str = CANARY

    name = {PolicyReference: "policy", ModelReference: "model"}[base]
    refused(built(**{name: Wider(**dict(FIELDS[name]))}))


def test_a_subclass_of_another_part_is_refused():
    class Wider(RecordedDose):
        note: str = CANARY

    refused(built(doses=(Wider(**dict(FIELDS["doses"][0])),)), "doses")


@pytest.mark.parametrize("name", ["prompt", "request_id", "tenant", "seq", "v"])
def test_a_field_that_was_forced_into_an_event_is_refused(name):
    body = decision()
    body.__dict__[name] = CANARY
    refused(body, "event")


@pytest.mark.parametrize("key", [CANARY, 4111111111111111, (CANARY,)])
def test_a_field_that_was_forced_into_a_part_is_refused_and_not_named(key):
    body = decision(usage=RecordedUsage(prompt_tokens=1, generated_tokens=1, extra_forward_tokens=0))
    body.usage.__dict__[key] = 1
    refused(body, "guard.decision usage")


def test_a_settled_part_that_was_changed_by_force_is_written_as_it_was_admitted():
    lines = Lines()
    policy = PolicyReference(**dict(POLICY))
    body = decision(policy=policy)
    first = lines.record(body)
    policy.__dict__["name"] = CANARY
    assert lines.record(body)["policy"] == first["policy"] == POLICY.model_dump()


def test_parts_of_different_logs_and_any_number_are_told_apart():
    lines = Lines()
    for number in range(REMEMBERED + 50):
        policy = PolicyReference(name=f"policy {number}", version="1", digest=POLICY.digest)
        assert lines.record(decision(1, policy=policy))["policy"]["name"] == f"policy {number}"


def test_something_that_is_no_event_is_refused():
    class Other:
        event_type = "guard.decision"

    refused(Other(), "event")
    refused(POLICY, "event")


def test_an_event_type_outside_the_closed_set_is_refused():
    with pytest.raises(AuditError, match="closed set"):
        admitted({**line_of(LogClose()), "type": "guard.other"})


def test_values_of_subclasses_become_plain_values():
    class Text(str):
        __slots__ = ()

        def __str__(self):
            return CANARY

    class Whole(int):
        def __repr__(self):
            return CANARY

    record = line_of(built(req=Text("request"), row=Whole(3)))
    assert (record["req"], record["row"]) == ("request", 3)


broken_values = st.sampled_from([None, 0.5, -1, 2**53, CANARY, "", b"x", [], {}, (), object(), True, "é"])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(set(SAMPLES) - {"log.close"})), st.data())
def test_a_changed_event_is_written_only_if_its_model_admits_it(kind, data):
    changed = copy.copy(SAMPLES[kind])
    name = data.draw(st.sampled_from(sorted(type(changed).model_fields)))
    changed.__dict__[name] = data.draw(broken_values)
    try:
        line_of(changed)
    except AuditError:
        return
    type(changed).model_validate(dict(changed))


def test_a_bypass_takes_no_sentence_where_a_name_belongs():
    refused(GuardBypass.model_construct(**{**dict(SAMPLES["guard.bypass"]), "req": CANARY}), "guard.bypass req")
