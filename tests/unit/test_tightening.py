"""`generate(..., policy=...)`: one request under a stricter policy, everything else as before."""

from __future__ import annotations

import json

import pytest
import torch
from tests.guarded_models import (
    TEMPLATE,
    guarded,
    memory_log,
    policy,
    prompts,
    run,
    shared_model,
    splitting_threshold,
    tokenizer,
)

import steerguard
from steerguard import tightening
from steerguard.errors import LooserPolicyError, PolicyNotFoundError, WrapError
from steerguard.policy.load import parse_policy
from steerguard.testing import MemorySink

STRICTER = """
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {{name: stricter, version: 1.0.0, description: for tests, owner: tests}}
target: {{modalities: [text, image]}}
detectors:
  - {{id: d, type: linear_probe, artifact: harmful-intent@^1, read: generation_prompt_end}}
rules:
  - id: r
    when: {{detector: d, score: {{at_least: {{value: {threshold}}}}}}}
    then: {{action: refuse}}
default: {{action: allow}}
refusal: {{template: "Not today."}}
"""


def stricter(threshold):
    return parse_policy(STRICTER.format(threshold=f"{threshold:.9f}"), file="stricter.yaml")


def _records(sink, kind="guard.decision"):
    return [record for record in map(json.loads, sink.lines) if record["type"] == kind]


def test_a_request_follows_its_own_policy_and_the_next_one_the_policy_in_force():
    model, batch, threshold = shared_model(), prompts(8), splitting_threshold()
    width = batch["input_ids"].shape[1]
    with guarded(model, policy(threshold)) as wrapped:
        before = run(wrapped, batch)
        with wrapped.guard.collect() as reports:
            tokens, _ = run(wrapped, batch, policy=stricter(threshold))
        after = run(wrapped, batch)
    assert torch.equal(before[0], after[0])
    texts = tokenizer().batch_decode(tokens[:, width:], skip_special_tokens=True)
    for row, report in enumerate(reports):
        assert report.intended in {"allow", "refuse"}
        assert (texts[row] == "Not today.") == (report.intended == "refuse")
        if report.intended == "allow":
            assert torch.equal(tokens[row, width:], before[0][row, width : tokens.shape[1]])
    assert {report.intended for report in reports} == {"allow", "refuse"}


def test_the_audit_log_names_the_policy_and_plan_of_each_request():
    sink, document = MemorySink(), stricter(-1e6)
    with guarded(shared_model(), policy(-1e6), audit=memory_log(sink)) as wrapped:
        run(wrapped, prompts(1))
        run(wrapped, prompts(1), policy=document)
        run(wrapped, prompts(1), policy=document)
        run(wrapped, prompts(1))
        own = wrapped.guard.plan.digest
    (load,), (swap,) = _records(sink, "policy.load"), _records(sink, "policy.swap")
    assert (load["policy"]["name"], swap["policy"]["name"], swap["scope"]) == ("test", "stricter", "request")
    assert (swap["previous_policy"], swap["previous_plan"]) == (load["policy"], load["plan"])
    assert (swap["mode"], swap["model"]) == (load["mode"], load["model"])
    decisions = _records(sink)
    assert [record["policy"]["name"] for record in decisions] == ["test", "stricter", "stricter", "test"]
    assert [record["policy"]["digest"] for record in decisions][1] == document.digest
    assert decisions[0]["plan"] == decisions[3]["plan"] == own
    assert decisions[1]["plan"] == decisions[2]["plan"] == swap["plan"] != own


def test_a_new_audit_log_learns_of_the_policy_of_a_request_again():
    first, second, document = MemorySink(), MemorySink(), stricter(-1e6)
    with guarded(shared_model(), policy(-1e6), audit=memory_log(first)) as wrapped:
        run(wrapped, prompts(1), policy=document)
        wrapped.guard.use_audit(memory_log(second))
        run(wrapped, prompts(1), policy=document)
    assert [record["policy"]["name"] for record in _records(second, "policy.load")] == ["test"]
    assert [record["policy"]["name"] for record in _records(second, "policy.swap")] == ["stricter"]
    assert len(_records(first)) == len(_records(second)) == 1


def test_a_looser_policy_is_refused_before_anything_runs_and_recorded_as_a_failure():
    sink = MemorySink()
    with guarded(shared_model(), policy(0.0), audit=memory_log(sink)) as wrapped:
        for looser in (stricter(1.0), policy(0.0, mode="monitor"), policy(0.0, "annotate")):
            with pytest.raises(LooserPolicyError):
                run(wrapped, prompts(1), policy=looser)
        with pytest.raises(PolicyNotFoundError):
            run(wrapped, prompts(1), policy="no-such-policy")
        with pytest.raises(WrapError, match="policy"):
            run(wrapped, prompts(1), policy=7)
    assert _records(sink) == []
    assert len(_records(sink, "guard.error")) == 5
    found = _records(sink, "policy.reject")
    assert [record["code"] for record in found] == ["LooserPolicyError"] * 3 + ["PolicyNotFoundError"]
    assert [record["rejected"] and record["rejected"]["name"] for record in found] == ["stricter", "test", "test", None]
    assert {(record["scope"], record["policy"]["name"], record["plan"]) for record in found} == {
        ("request", "test", _records(sink, "policy.load")[0]["plan"])
    }
    assert _records(sink, "guard.request") == []


def test_a_policy_is_compiled_once_and_few_are_kept(monkeypatch):
    monkeypatch.setattr(tightening, "KEPT", 2)
    with guarded(shared_model(), policy(0.0)) as wrapped:
        policies = wrapped.guard._policies
        first = policies.engine_for(stricter(0.0))
        assert policies.engine_for(stricter(0.0)) is first
        for threshold in (-1.0, -2.0, -3.0):
            policies.engine_for(stricter(threshold))
        assert len(policies._kept) == 2
        assert policies.engine_for(stricter(0.0)) is not first
        assert policies.engine_for(None) is wrapped.guard.engine


def test_a_path_is_read_again_for_every_request(tmp_path):
    path = tmp_path / "stricter.yaml"
    with guarded(shared_model(), policy(0.0)) as wrapped:
        path.write_text(STRICTER.format(threshold="-1000000.0"))
        tokens, _ = run(wrapped, prompts(1), policy=path, max_new_tokens=20)
        assert "Not today." in tokenizer().decode(tokens[0])
        path.write_text(STRICTER.format(threshold="5.0"))
        with pytest.raises(LooserPolicyError):
            run(wrapped, prompts(1), policy=str(path))


def test_the_mode_in_force_stays():
    with guarded(shared_model(), policy(-1e6, mode="monitor")) as wrapped, wrapped.guard.collect() as reports:
        tokens, _ = run(wrapped, prompts(1), policy=stricter(-1e6))
    assert (reports[0].mode, reports[0].intended, reports[0].applied) == ("monitor", "refuse", "allow")
    assert TEMPLATE not in tokenizer().decode(tokens[0])
    with guarded(shared_model(), policy(-1e6), mode="off") as wrapped:
        run(wrapped, prompts(1), policy=stricter(1.0))
    with guarded(shared_model(), policy(-1e6)) as wrapped, wrapped.guard.unguided("a test of the argument"):
        run(wrapped, prompts(1), policy=stricter(1.0))


def test_scoring_takes_a_stricter_policy_too():
    batch, sink = prompts(2), MemorySink()
    with guarded(shared_model(), policy(-1e6), audit=memory_log(sink)) as wrapped:
        with wrapped.guard.forward(policy=stricter(-1e6)) as scoring:
            wrapped(**batch)
        with pytest.raises(LooserPolicyError), wrapped.guard.forward(policy=stricter(1.0)):
            wrapped(**batch)
    assert [decision.applied for decision in scoring.decisions[0]] == ["refuse", "refuse"]
    assert [record["code"] for record in _records(sink, "policy.reject")] == ["LooserPolicyError"]
    assert {record["policy"]["name"] for record in _records(sink)} == {"stricter"}


def test_the_shipped_policies_tighten_one_another_as_their_names_say(smollm2):
    model, words = smollm2
    wrapped = steerguard.wrap(model, "harmlessness", tokenizer=words, audit=memory_log())
    try:
        policies = wrapped.guard._policies
        assert policies.engine_for("refuse-only").program.plan.policy_name == "refuse-only"
        assert policies.engine_for("harmlessness").program.plan.rules == wrapped.guard.plan.rules
        with pytest.raises(LooserPolicyError, match="monitor"):
            policies.engine_for("harmlessness-monitor")
    finally:
        steerguard.unwrap(wrapped)
    wrapped = steerguard.wrap(model, "refuse-only", tokenizer=words, audit=memory_log())
    try:
        with pytest.raises(LooserPolicyError, match="artifacts"):
            wrapped.guard._policies.engine_for("harmlessness")
    finally:
        steerguard.unwrap(wrapped)
