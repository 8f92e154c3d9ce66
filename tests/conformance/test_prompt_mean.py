"""A guard whose probe reads prompt means: the score by hand, padding, batches, prefilled answers, closed rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.guarded_models import (
    ARCHITECTURES,
    CONTENTS,
    blocks_of,
    conversation,
    guarded,
    policy,
    prompts,
    registry_for,
    run,
    same_rows,
    shared_model,
    tokenizer,
)
from tests.unit.engine.test_request import NoWaiting

from steerguard.artifacts.verify import verify_artifact
from steerguard.build.own_calibration import calibrate
from steerguard.detect.probe import PROBE_FILE
from steerguard.engine.outcome import read_verdicts
from steerguard.engine.request import GuidedRequest
from steerguard.models.chat import render

PARTS = {"probe_blocks": (0, 0, 1, 1), "probe_over": ("end", "prompt_mean", "end", "prompt_mean")}
EPSILON = {torch.float32: 1e-4, torch.bfloat16: 0.3}


def registry(model):
    return registry_for(model, **PARTS)


def artifact_of(model):
    store = registry(model)
    (pin,) = store.pinned("harmful-intent")
    return verify_artifact(store.read(pin), pin.digest)


def scores(model, batch, **settings):
    """Scores of `generate` in monitor mode."""
    with guarded(model, policy(0.0), mode="monitor", registry=registry(model)) as wrapped:
        with wrapped.guard.collect() as reports:
            wrapped.generate(**batch, max_new_tokens=2, do_sample=False, **settings)
        return [report.readings[0].score for report in reports]


def middle(model, batch):
    found = sorted(scores(model, batch))
    return (found[len(found) // 2 - 1] + found[len(found) // 2]) / 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_score_equals_numpy_on_plain_forwards_one_by_one(architecture):
    model = shared_model(architecture)
    tensors = artifact_of(model).tensors[PROBE_FILE]
    found = scores(model, prompts(6))
    for text, score in zip(CONTENTS, found, strict=False):
        seen = {}
        blocks = blocks_of(model)
        handles = [
            blocks[number].register_forward_hook(
                lambda _m, _a, out, number=number, seen=seen: seen.update(
                    {number: (out if isinstance(out, torch.Tensor) else out[0])[0].double().numpy()}
                )
            )
            for number in (0, 1)
        ]
        with torch.no_grad():
            model(**render(tokenizer(), [conversation(text)]))
        for handle in handles:
            handle.remove()
        read = [seen[0][-1], seen[0][4:].mean(axis=0), seen[1][-1], seen[1][4:].mean(axis=0)]
        wanted = np.mean(
            [
                state @ w + b
                for state, w, b in zip(read, tensors["weight"].double().numpy(), tensors["bias"].tolist(), strict=True)
            ]
        )
        assert score == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("dtype", EPSILON, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "llava"])
def test_padding_side_batch_size_and_a_prefilled_answer_do_not_move_the_score(architecture, dtype):
    model = shared_model(architecture, dtype)
    left = torch.tensor(scores(model, prompts(8)))
    right = torch.tensor(scores(model, prompts(8, "right")))
    many = torch.tensor(scores(model, prompts(32)))[:8]
    alone = torch.tensor([scores(model, render(tokenizer(), [conversation(text)]))[0] for text in CONTENTS])
    answered = torch.tensor(scores(model, prompts(8, prefills=["Sure, here is", None, "x" * 30, "No"] * 2)))
    assert left.std() > 2.5 * EPSILON[dtype]
    for other in (right, many, alone, answered):
        assert (left - other).abs().max() < EPSILON[dtype]


def test_check_explain_and_uncached_generation_read_the_same_score():
    model, batch = shared_model(), prompts(4)
    cached, uncached = scores(model, batch), scores(model, batch, use_cache=False)
    assert cached == pytest.approx(uncached, abs=1e-6)
    with guarded(model, policy(0.0), registry=registry(model)) as wrapped:
        for text, score in zip(CONTENTS, cached, strict=False):
            decision = wrapped.guard.check(conversation(text))
            assert decision.readings[0].score == pytest.approx(score, abs=1e-4)
            assert f"`d` read {decision.readings[0].score:.4f}" in str(wrapped.guard.explain(conversation(text)))


def test_the_scores_of_a_calibration_are_those_of_the_engine():
    model = shared_model()
    chats = [conversation(text) for text in CONTENTS]
    own = calibrate(artifact_of(model), model, tokenizer(), chats, source="tests")
    assert own.calibration.score.startswith("mean over parts")
    found = [float(text) for text in own.calibration.benign_scores]
    assert found == pytest.approx(sorted(scores(model, prompts(8))), abs=1e-5)


def test_closed_rows_are_bit_identical_and_the_first_logits_of_a_monitored_run_untouched():
    model, batch = shared_model(), prompts(8)
    plain = run(model, batch)
    threshold = middle(model, batch)
    with guarded(model, policy(threshold), registry=registry(model)) as wrapped, wrapped.guard.collect() as reports:
        assert wrapped.guard.plan.cost.passes == 1
        steered = run(wrapped, batch)
    closed = [row for row, report in enumerate(reports) if report.intended == "allow"]
    assert 0 < len(closed) < 8
    assert same_rows(closed, plain, steered, batch["input_ids"].shape[1])
    with guarded(model, policy(threshold), mode="monitor", registry=registry(model)) as wrapped:
        watched = run(wrapped, batch)
    assert torch.equal(watched[0], plain[0])
    assert all(torch.equal(one, other) for one, other in zip(watched[1], plain[1], strict=True))


def test_a_state_that_is_not_finite_anywhere_in_the_prompt_refuses_the_row():
    model, batch = shared_model(), prompts(3)
    first = int(batch["attention_mask"][1].argmax())

    def spoil(_module, _arguments, output):
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        if hidden.shape[1] == 1:
            return None
        hidden = hidden.clone()
        hidden[1, first + 5] = math.nan
        return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

    with guarded(model, policy(1e6), registry=registry(model)) as wrapped, wrapped.guard.collect() as reports:
        handle = blocks_of(model)[0].register_forward_hook(spoil)
        try:
            wrapped.generate(**batch, max_new_tokens=2, do_sample=False)
        finally:
            handle.remove()
    assert [report.cause for report in reports] == ["default", "non_finite", "default"]
    assert reports[1].applied == "refuse"


def test_a_prompt_without_a_fifth_token_is_refused():
    model = shared_model()
    with guarded(model, policy(-1e6), registry=registry(model)) as wrapped:
        request = GuidedRequest(
            owner=None,
            program=wrapped.guard.engine.program,
            prompt_mask=torch.ones(2, 6, dtype=torch.bool),
            ends=(3, 4),
            steers=True,
            cached=True,
        )
        for block in request.program.blocks:
            request.at_block(block, torch.ones(2, 6, 32))
        short, enough = read_verdicts(request, "enforce")
    assert (short.verdict.cause, short.applied, short.open) == ("non_finite", "refuse", ())
    assert (enough.verdict.cause, enough.applied) == ("rule", "guide")


def test_reading_a_prompt_mean_does_not_wait_for_the_device():
    model, batch = shared_model(), prompts(3)
    with guarded(model, policy(0.0), registry=registry(model)) as wrapped:
        engine = wrapped.guard.engine
        request = GuidedRequest(
            owner=None,
            program=engine.program,
            prompt_mask=batch["attention_mask"].bool(),
            ends=engine.generation_prompt.ends(batch["input_ids"], batch["attention_mask"]),
            steers=False,
            cached=True,
        )
        hidden = torch.randn(*batch["input_ids"].shape, 32)
        with NoWaiting():
            for block in request.program.blocks:
                request.at_block(block, hidden)
    assert set(request.parts_read.values()) == {4}
