"""`wrap`, `unwrap` and `from_pretrained`."""

from __future__ import annotations

import json

import pytest
import torch
from tests.guarded_models import (
    FailingSink,
    fresh_model,
    guarded,
    memory_log,
    policy,
    prompts,
    registry_for,
    run,
    shared_model,
    state_of,
    tokenizer,
)
from torch import nn

import steerguard
from steerguard import wrapping
from steerguard.errors import (
    AlreadyWrappedError,
    ArtifactFormatError,
    AuditSinkError,
    IncompatibleModelError,
    MissingVariantError,
    NotWrappedError,
    PolicyNotFoundError,
    SteerguardError,
    UnsupportedArchitectureError,
)
from steerguard.testing import MemorySink


def test_wrapping_twice_names_the_policy_in_force():
    with guarded(shared_model(), policy()) as wrapped:
        before = state_of(wrapped)
        with pytest.raises(AlreadyWrappedError, match=r"`test` 1\.0\.0"):
            steerguard.wrap(wrapped, policy(), tokenizer=tokenizer(), registry=registry_for(shared_model("gpt2")))
        assert state_of(wrapped) == before


def test_unwrapping_a_plain_model_raises():
    with pytest.raises(NotWrappedError, match="not wrapped"):
        steerguard.unwrap(shared_model())


def test_unwrapping_is_recorded_first_and_does_not_happen_without_the_record():
    sink = FailingSink(AuditSinkError("The disk is full."))
    model = fresh_model()
    wrapped = steerguard.wrap(
        model, policy(), tokenizer=tokenizer(), registry=registry_for(shared_model()), audit=memory_log(sink)
    )
    sink.at = 0
    with pytest.raises(AuditSinkError):
        steerguard.unwrap(wrapped)
    assert wrapped.guard.plan.policy_name == "test"
    steerguard.unwrap(wrapped)
    record = json.loads(sink.lines[-1])
    assert (record["type"], record["kind"]) == ("guard.bypass", "unwrap")


def test_wrap_records_artifacts_and_policy_before_it_returns():
    sink = MemorySink()
    with guarded(shared_model(), policy(), audit=memory_log(sink)) as wrapped:
        kinds = [json.loads(line)["type"] for line in sink.lines]
        records = [json.loads(line) for line in sink.lines]
    assert kinds == ["log.open", "artifact.load", "artifact.load", "policy.load"]
    assert records[-1]["plan"] == wrapped.guard.plan.digest if hasattr(wrapped, "guard") else True
    assert {record["artifact"]["ref"] for record in records[1:3]} == {
        "harmful-intent/tiny@1.0.0",
        "inferaligner/tiny@1.0.0",
    }


def test_a_model_without_a_variant_gets_the_build_command():
    other = fresh_model("llama", num_blocks=3)
    before = state_of(other)
    with pytest.raises(MissingVariantError, match="steerguard build") as caught:
        steerguard.wrap(
            other, policy(), tokenizer=tokenizer(), registry=registry_for(shared_model()), audit=memory_log()
        )
    assert "3 blocks" in str(caught.value)
    assert state_of(other) == before


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), object(), "name"])
def test_what_is_not_a_transformers_model_is_refused(thing):
    with pytest.raises(UnsupportedArchitectureError):
        steerguard.wrap(thing, policy(), tokenizer=tokenizer(), registry=registry_for(shared_model()))


def test_a_model_that_cannot_generate_is_refused():
    inner = fresh_model().model
    with pytest.raises(UnsupportedArchitectureError, match="generate"):
        steerguard.wrap(inner, policy(), tokenizer=tokenizer(), registry=registry_for(shared_model()))


def test_nan_weights_are_refused_at_wrap():
    model = fresh_model()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    before = state_of(model)
    with pytest.raises(SteerguardError, match="finite"):
        steerguard.wrap(
            model, policy(), tokenizer=tokenizer(), registry=registry_for(shared_model()), audit=memory_log()
        )
    assert state_of(model) == before


def test_another_tokenizer_is_refused():
    from steerguard.testing import tiny_tokenizer

    with pytest.raises(MissingVariantError, match="chat_template_sha256"):
        steerguard.wrap(
            shared_model(),
            policy(),
            tokenizer=tiny_tokenizer("llama3"),
            registry=registry_for(shared_model()),
            audit=memory_log(),
        )


def test_an_artifact_of_another_type_is_refused():
    document = policy(
        rules="""
rules:
  - {id: r, when: {always: true}, then: {action: guide, use: [steer]}}
default: {action: allow}""",
        settings="coefficient: 1.0",
        detector=False,
    )
    wrong = document.model_copy(
        update={"guidance": (document.guidance[0].model_copy(update={"artifact": "harmful-intent@^1"}),)}
    )
    with pytest.raises(ArtifactFormatError, match="another type"):
        steerguard.wrap(
            shared_model(), wrong, tokenizer=tokenizer(), registry=registry_for(shared_model()), audit=memory_log()
        )


def test_paths_are_taken_for_policy_registry_and_audit(tmp_path):
    import yaml

    document = policy(-1e6, "refuse")
    path = tmp_path / "policy.yaml"
    content = json.loads(document.model_dump_json(by_alias=True, exclude_unset=True))
    path.write_text(yaml.safe_dump(content))
    model = shared_model()
    root = registry_for(model).root
    wrapped = steerguard.wrap(model, str(path), tokenizer=tokenizer(), registry=str(root), audit=tmp_path / "audit")
    run(wrapped, prompts(1))
    log = wrapped.guard.audit
    steerguard.unwrap(wrapped)
    log.close()
    (written,) = (tmp_path / "audit").glob("*.jsonl")
    assert b"guard.decision" in written.read_bytes()


def test_from_pretrained_loads_and_wraps_in_one_line(tmp_path):
    shared_model().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    model, loaded = steerguard.from_pretrained(
        tmp_path / "model",
        policy(-1e6, "refuse"),
        registry=registry_for(shared_model()),
        audit=memory_log(),
        dtype=torch.float32,
    )
    tokens = model.generate(**prompts(1), max_new_tokens=30, do_sample=False)
    assert "I cannot help with that." in loaded.decode(tokens[0])
    steerguard.unwrap(model)


def test_a_policy_without_guidance_or_detectors_wraps_and_acts():
    rules = """
rules:
  - {id: r, when: {always: true}, then: {action: refuse}}
default: {action: allow}"""
    with guarded(shared_model(), policy(rules=rules, detector=False)) as wrapped, wrapped.guard.collect() as reports:
        run(wrapped, prompts(2))
        assert wrapped.guard.plan.artifacts == ()
    assert [report.applied for report in reports] == ["refuse", "refuse"]


def test_wrap_and_unwrap_in_turns_do_not_pile_up():
    model = fresh_model()
    before = state_of(model)
    plain = run(model, prompts(2))
    for _ in range(3):
        with guarded(model, policy(-1e6), registry=registry_for(shared_model())) as wrapped:
            run(wrapped, prompts(2))
    assert state_of(model) == before
    assert torch.equal(run(model, prompts(2))[0], plain[0])


def test_what_the_plan_cannot_carry_out_is_refused_by_name_before_any_artifact_is_looked_for():
    from steerguard.errors import UnsupportedPlanError
    from steerguard.policy.load import parse_policy

    document = parse_policy(
        """
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {name: search, version: 1.0.0, description: for tests, owner: tests}
target: {modalities: [text]}
guidance:
  - {id: search, method: inference_guard, critic: no-such-family@^1}
  - {id: steer, method: inferaligner, artifact: no-such-family@^1}
rules:
  - {id: r, when: {always: true}, then: {action: guide, use: [search]}}
default: {action: allow}
budget: {on_exceeded: fallback, fallback: [steer]}
refusal: {template: "No."}
""",
        file="search.yaml",
    )
    with pytest.raises(UnsupportedPlanError, match="`steer`"):
        steerguard.wrap(
            shared_model(), document, tokenizer=tokenizer(), registry=registry_for(shared_model()), audit=memory_log()
        )


def _only_log(folder):
    """The records of the one log in a folder."""
    (path,) = folder.glob("*.jsonl")
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_policy_that_is_refused_at_wrap_is_recorded_in_a_log_that_is_closed_again(tmp_path):
    with pytest.raises(MissingVariantError):
        steerguard.wrap(
            fresh_model("llama", num_blocks=3),
            policy(),
            tokenizer=tokenizer(),
            registry=registry_for(shared_model()),
            audit=tmp_path / "audit",
        )
    opened, rejected, closed = _only_log(tmp_path / "audit")
    assert (opened["type"], opened["content"], closed["type"]) == ("log.open", "none", "log.close")
    assert (rejected["type"], rejected["scope"], rejected["code"]) == ("policy.reject", "guard", "MissingVariantError")
    assert rejected["rejected"] == {"name": "test", "version": "1.0.0", "digest": policy().digest}


def test_a_policy_that_cannot_be_read_is_recorded_without_its_name():
    sink = MemorySink()
    with pytest.raises(PolicyNotFoundError):
        steerguard.wrap(shared_model(), "no-such-policy", tokenizer=tokenizer(), audit=memory_log(sink))
    record = json.loads(sink.lines[1])
    assert (record["type"], record["code"], record["rejected"]) == ("policy.reject", "PolicyNotFoundError", None)
    assert b"no-such-policy" not in sink.content


def test_where_the_refusal_cannot_be_recorded_the_error_says_so(tmp_path):
    (tmp_path / "audit").write_text("not a folder")
    with pytest.raises(PolicyNotFoundError) as caught:
        steerguard.wrap(shared_model(), "no-such-policy", tokenizer=tokenizer(), audit=tmp_path / "audit")
    assert caught.value.__notes__ == ["The audit log could not record this failure: AuditSinkError."]


def test_a_log_that_wrap_opened_is_closed_when_wrap_fails_late(tmp_path, monkeypatch):
    def fail(*_arguments):
        raise UnsupportedArchitectureError("No fence can stand here.")

    monkeypatch.setattr(wrapping, "raise_fence", fail)
    model = shared_model()
    before = state_of(model)
    with pytest.raises(UnsupportedArchitectureError):
        steerguard.wrap(model, policy(), tokenizer=tokenizer(), registry=registry_for(model), audit=tmp_path / "audit")
    kinds = [record["type"] for record in _only_log(tmp_path / "audit")]
    assert kinds[-3:] == ["policy.load", "policy.reject", "log.close"]
    assert state_of(model) == before


def test_a_log_of_the_callers_stays_open_when_wrap_fails():
    sink = MemorySink()
    log = memory_log(sink)
    with pytest.raises(PolicyNotFoundError):
        steerguard.wrap(shared_model(), "no-such-policy", tokenizer=tokenizer(), audit=log)
    with guarded(shared_model(), audit=log) as wrapped:
        run(wrapped, prompts(1))
    log.close()
    kinds = [json.loads(line)["type"] for line in sink.lines]
    assert kinds[:2] == ["log.open", "policy.reject"]
    assert "guard.decision" in kinds


def test_other_weights_are_recorded_as_an_artifact_that_does_not_fit():
    model, sink = fresh_model(), MemorySink()
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.down_proj.weight.add_(torch.randn_like(block.mlp.down_proj.weight))
    with pytest.raises(IncompatibleModelError):
        steerguard.wrap(
            model, policy(), tokenizer=tokenizer(), registry=registry_for(shared_model()), audit=memory_log(sink)
        )
    failed, rejected = [json.loads(line) for line in sink.lines[1:3]]
    digests = {entry.reference: entry.digest for entry in registry_for(shared_model()).entries()}
    assert (failed["type"], failed["code"]) == ("artifact.verify_failed", "IncompatibleModelError")
    assert failed["digest"] == digests[failed["ref"]]
    assert (rejected["type"], rejected["code"]) == ("policy.reject", "IncompatibleModelError")


def test_weights_that_change_under_a_guard_are_recorded_when_they_do_not_fit():
    sink = MemorySink()
    with guarded(fresh_model(), registry=registry_for(shared_model()), audit=memory_log(sink)) as wrapped:
        changed = {name: tensor + torch.randn_like(tensor) for name, tensor in wrapped.state_dict().items()}
        with pytest.raises(IncompatibleModelError):
            wrapped.load_state_dict(changed)
        with pytest.raises(IncompatibleModelError):
            run(wrapped, prompts(1))
        failed, error = [json.loads(line) for line in sink.lines[4:]]
    assert (failed["type"], failed["code"]) == ("artifact.verify_failed", "IncompatibleModelError")
    assert failed["ref"] in {"harmful-intent/tiny@1.0.0", "inferaligner/tiny@1.0.0"}
    assert (error["type"], error["code"], error["stage"]) == ("guard.error", "IncompatibleModelError", "load")
