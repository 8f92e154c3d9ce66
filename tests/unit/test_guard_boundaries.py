"""What reaches the guard from outside: weights, inputs, arguments, names, callbacks and logs."""

from __future__ import annotations

import json

import pytest
import torch
from tests.guarded_models import fresh_model, guarded, memory_log, policy, prompts, registry_for, run, tokenizer
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

import steerguard
from steerguard.audit.privacy.keys import ContentKey
from steerguard.errors import (
    AuditError,
    IncompatibleModelError,
    NotWrappedError,
    UnsupportedArchitectureError,
    UnsupportedGenerationError,
    UnsupportedPlanError,
    WrapError,
)
from steerguard.testing import MemorySink

REFUSE_ALL = policy(-1e6, "refuse")


def _records(sink):
    return [json.loads(line) for line in sink.content.splitlines()]


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.half(),
        lambda model: setattr(model.get_decoder().layers[2], "mlp", fresh_model(seed=5).get_decoder().layers[2].mlp),
        lambda model: [weight.mul_(-1.5) for weight in model.get_decoder().layers[3].parameters()],
    ],
    ids=["cast", "a module replaced", "edited in place"],
)
def test_exchanged_weights_are_checked_before_the_next_request(change):
    with guarded(fresh_model(), policy()) as wrapped:
        run(wrapped, prompts(2))
        with torch.no_grad():
            change(wrapped)
        for _ in range(2):
            with pytest.raises(IncompatibleModelError):
                run(wrapped, prompts(2))


def test_an_interrupted_check_of_the_weights_leaves_the_guard_closed(monkeypatch):
    with guarded(fresh_model(), policy()) as wrapped:

        def interrupt(_model):
            raise KeyboardInterrupt

        monkeypatch.setattr(wrapped.guard, "_check_weights", interrupt)
        with pytest.raises(KeyboardInterrupt):
            wrapped.load_state_dict(wrapped.state_dict())
        with pytest.raises(IncompatibleModelError, match="interrupted"):
            run(wrapped, prompts(2))


def test_a_foreign_error_with_any_name_is_recorded_and_raised_as_it_is():
    strange = type("Ünfug " + "x" * 300, (Exception,), {})
    sink = MemorySink()

    def fail(*_arguments):
        raise strange

    with guarded(fresh_model(), policy(), audit=memory_log(sink)) as wrapped:
        wrapped.get_decoder().layers[0].register_forward_hook(fail)
        with pytest.raises(strange):
            run(wrapped, prompts(2))
    assert [record["code"] for record in _records(sink) if record["type"] == "guard.error"] == ["Exception"]


class _Overwrites(LogitsProcessor):
    """A processor that edits the ids that it is shown."""

    def __call__(self, input_ids, scores):
        input_ids.fill_(5)
        return scores


def test_the_recorded_prompt_is_the_one_that_was_judged():
    sink, key = MemorySink(), ContentKey(b"k" * 32)
    log = steerguard.AuditLog.open(sink=sink, key=key)
    batch = prompts(1)
    ids = batch["input_ids"][0].tolist()
    with guarded(fresh_model(), policy(1e6), audit=log) as wrapped:
        wrapped.generate(**batch, max_new_tokens=2, logits_processor=LogitsProcessorList([_Overwrites()]))
    found = [record["content"]["in"] for record in _records(sink) if record["type"] == "guard.decision"]
    assert found == [key.tag_tokens(ids)]


class _Tee(StoppingCriteria):
    """A criterion of the app that keeps every token it sees."""

    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores, **kwargs):
        self.seen += input_ids[:, -1].tolist()
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("settings", [{"do_sample": False}, {"do_sample": True}, {"min_new_tokens": 2}])
def test_callbacks_of_the_app_see_only_filler_in_refused_rows(settings):
    tee = _Tee()
    with guarded(fresh_model(), REFUSE_ALL) as wrapped:
        named = {"pad_token_id": 0, "stopping_criteria": StoppingCriteriaList([tee]), **settings}
        wrapped.generate(**prompts(3), max_new_tokens=4, **named)
    assert set(tee.seen) == {0}


@pytest.mark.parametrize(
    "inputs",
    [
        {"input_ids": torch.ones(5, dtype=torch.int64)},
        {"input_ids": torch.ones(0, 5, dtype=torch.int64)},
        {"input_ids": torch.ones(2, 0, dtype=torch.int64)},
        {"input_ids": torch.ones(2, 5)},
        {"input_ids": torch.ones(2, 5, dtype=torch.int64), "attention_mask": torch.ones(2, 4, dtype=torch.int64)},
        {"input_ids": torch.ones(2, 5, dtype=torch.int64), "attention_mask": torch.full((2, 5), 2)},
        {"input_ids": torch.ones(2, 5, dtype=torch.int64), "position_ids": torch.zeros(2, 5, dtype=torch.int64)},
    ],
    ids=["one dimension", "no rows", "no columns", "floats", "short mask", "mask of twos", "positions"],
)
def test_inputs_that_cannot_be_placed_are_refused_by_name(inputs):
    with guarded(fresh_model(), policy()) as wrapped, pytest.raises(UnsupportedGenerationError):
        wrapped.generate(**inputs, max_new_tokens=2)


@pytest.mark.parametrize(
    "arguments",
    [{"mode": "enforc"}, {"policy": {"kind": "GuidancePolicy"}}, {"audit": MemorySink()}],
    ids=["mode", "policy", "audit"],
)
def test_arguments_of_the_wrong_kind_are_refused_before_anything_happens(arguments, tmp_path):
    model = fresh_model()
    named = {"policy": policy(), "registry": registry_for(model), "audit": tmp_path / "audit", **arguments}
    with pytest.raises(WrapError):
        steerguard.wrap(model, named.pop("policy"), tokenizer=tokenizer(), **named)
    assert not (tmp_path / "audit").exists()


def test_a_model_without_weights_is_refused():
    with pytest.raises(UnsupportedArchitectureError, match="not loaded"):
        steerguard.wrap(fresh_model().to("meta"), policy(), tokenizer=tokenizer())


@pytest.mark.parametrize("template", ["   ", "no<|im_end|>yes"], ids=["blank", "control token"])
def test_a_refusal_template_must_be_plain_text(template, tmp_path):
    model, document = fresh_model(), policy(-1e6, "refuse")
    changed = document.model_copy(update={"refusal": document.refusal.model_copy(update={"template": template})})
    with pytest.raises(UnsupportedPlanError, match="plain text"):
        steerguard.wrap(model, changed, tokenizer=tokenizer(), registry=registry_for(model), audit=tmp_path)


def test_a_guard_can_go_on_with_another_log_when_the_first_is_gone():
    first, second = memory_log(), MemorySink()
    with guarded(fresh_model(), policy(), audit=first) as wrapped:
        first.close()
        with pytest.raises(AuditError):
            run(wrapped, prompts(1))
        wrapped.guard.use_audit(memory_log(second))
        run(wrapped, prompts(1))
    kinds = [record["type"] for record in _records(second)]
    assert kinds[:4] == ["log.open", "artifact.load", "artifact.load", "policy.load"]
    assert "guard.decision" in kinds


def test_a_broken_log_does_not_replace_a_working_one():
    with guarded(fresh_model(), policy()) as wrapped:
        closed = memory_log()
        closed.close()
        with pytest.raises(AuditError):
            wrapped.guard.use_audit(closed)
        run(wrapped, prompts(1))


def test_a_guard_whose_model_is_gone_says_so():
    model = fresh_model()
    steerguard.wrap(model, policy(), tokenizer=tokenizer(), registry=registry_for(model), audit=memory_log())
    guard = model.guard
    del model
    with pytest.raises(NotWrappedError, match="no longer exists"):
        guard.check([{"role": "user", "content": "hi"}])
