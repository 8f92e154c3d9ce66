"""The rolling guard in every way of generating, and the entries that it opens in the middle of an answer."""

from __future__ import annotations

import pytest
import torch
from tests.beam_search import BEAMS, beams
from tests.guarded_models import (
    Capture,
    answers,
    blocks_of,
    fresh_model,
    guarded,
    policy,
    prompts,
    registry_for,
    run,
    same_rows,
    shared_model,
    state_of,
)
from tests.rolling_guards import (
    STEER,
    UNREACHED,
    WATCHED,
    highest,
    opening,
    refused_ids,
    rolling,
    split,
    watched,
)
from transformers import LogitsProcessorList

from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import (
    AnswerStoppedError,
    GuidanceDidNotFireError,
    UnsupportedGenerationError,
    UnsupportedPlanError,
)


def test_opened_entries_steer_later_tokens_only_and_other_rows_keep_every_bit():
    model = shared_model()
    batch = prompts(8)
    plain = run(model, batch, eos_token_id=None)
    found, reports = watched(model, opening(split(model, batch, max_new_tokens=8)), batch, eos_token_id=None)
    opened = [report for report in reports if report.doses]
    assert 0 < len(opened) < 8
    untouched = [report.row for report in reports if not report.doses]
    assert same_rows(untouched, plain, found, batch["input_ids"].shape[1])
    for report in opened:
        since = report.readings[-1].token
        (dose,) = report.doses
        assert (dose.step, dose.open_blocks) == ("push", (1, 2))
        assert dose.positions == dose.expected_positions == 2 * (11 - since)
        assert (report.intended, report.applied) == ("guide", "guide")
        # The pass that read the score still gives the unguided logits; every later one is steered.
        before = [
            torch.equal(one[report.row], other[report.row]) for one, other in zip(plain[1], found[1], strict=True)
        ]
        assert before[: since + 1] == [True] * (since + 1)
        assert not any(before[since + 1 :])


def test_late_steering_is_the_formula_from_there_on():
    model = shared_model()
    batch = prompts(1)
    (tokens, steps), reports = watched(model, opening(-1e6, first=3), batch, eos_token_id=None)
    since = reports[0].readings[-1].token
    assert since == 3
    width = batch["input_ids"].shape[1]
    pin = registry_for(model).pinned("refusal-vectors")[0]
    artifact = verify_artifact(registry_for(model).read(pin), pin.digest, where="test")
    theta = artifact.tensors["weights/vectors.safetensors"]["theta"]
    mask = torch.zeros(1, tokens.shape[1], 1)
    mask[:, width + since :] = 1.0
    handles = [
        blocks_of(model)[block].register_forward_hook(
            lambda _module, _args, output, block=block: (
                (output[0] + 4.0 * mask * theta[block], *output[1:])
                if isinstance(output, tuple)
                else output + 4.0 * mask * theta[block]
            )
        )
        for block in (1, 2)
    ]
    with torch.no_grad():
        logits = model(input_ids=tokens).logits
    for handle in handles:
        handle.remove()
    for step in range(12):
        torch.testing.assert_close(steps[step][0], logits[0, width + step - 1].float(), rtol=1e-4, atol=1e-4)


def test_an_entry_that_the_verdict_opened_is_not_added_twice():
    model = shared_model()
    batch = prompts(4)
    both = WATCHED.replace("use: [watch]", "use: [watch, push]")
    steered = policy(rules=both.replace("watch, ", ""), detector=False, more=f"guidance:\n{STEER}")
    alone, _ = watched(model, steered, batch)
    found, reports = watched(model, opening(-1e6, rules=both), batch)
    assert torch.equal(alone[0], found[0])
    assert all(torch.equal(one, other) for one, other in zip(alone[1], found[1], strict=True))
    assert all(dose.positions == dose.expected_positions for report in reports for dose in report.doses)


def test_a_batch_that_is_cut_whole_stops_there():
    model = shared_model()
    with guarded(model, rolling(-1e6, first=3)) as wrapped:
        steps = []
        run(wrapped, prompts(4), act=steps.append, eos_token_id=None, max_new_tokens=200)
    assert len(steps) == 4


@pytest.mark.parametrize("then", ["refuse", "open"])
@pytest.mark.parametrize("returned", [1, 2])
def test_a_beam_that_reaches_it_decides_for_its_prompt(then, returned):
    model = shared_model()
    batch = prompts(6)
    make = rolling if then == "refuse" else opening
    settings = {"num_return_sequences": returned}
    with guarded(model, rolling(UNREACHED), mode="monitor") as wrapped, wrapped.guard.collect() as reports:
        beams(wrapped, batch, **settings)
    scores = sorted({report.readings[-1].score for report in reports})
    threshold = (scores[2] + scores[3]) / 2
    _, steps = beams(model, batch, **settings)
    with guarded(model, make(threshold)) as wrapped, wrapped.guard.collect() as reports:
        found, guarded_steps = beams(wrapped, batch, **settings)
    touched = {report.row // returned for report in reports if report.applied == "refuse" or report.doses}
    assert touched
    width = batch["input_ids"].shape[1]
    for prompt in range(6):
        rows = [report for report in reports if report.row // returned == prompt]
        assert len({(report.applied, report.readings) for report in rows}) == 1
        if prompt in touched:
            continue
        rows = slice(prompt * BEAMS, (prompt + 1) * BEAMS)
        assert all(torch.equal(one[rows], other[rows]) for one, other in zip(steps, guarded_steps, strict=False))
    if then == "refuse":
        for row in (row for prompt in touched for row in range(prompt * returned, (prompt + 1) * returned)):
            assert answers(found, width)[row][: len(refused_ids())] == refused_ids()


def test_several_answers_to_one_prompt_are_cut_one_by_one():
    model = shared_model()
    batch = prompts(4)
    settings = {"do_sample": True, "num_return_sequences": 3}
    scores = highest(model, batch, **settings)
    threshold = sum(sorted(scores[:3])[1:]) / 2
    plain = run(model, batch, **settings)
    found, reports = watched(model, rolling(threshold), batch, **settings)
    kept = [report.row for report in reports if report.applied == "guide"]
    assert kept == [row for row, score in enumerate(scores) if score < threshold]
    assert len([row for row in kept if row < 3]) == 2
    assert same_rows(kept, plain, found, batch["input_ids"].shape[1])


def test_callbacks_see_nothing_of_a_row_once_it_is_cut():
    model = shared_model()
    batch = prompts(4)
    width = batch["input_ids"].shape[1]
    seen = []

    class Look(Capture):
        def __call__(self, input_ids, scores):
            seen.append((input_ids.clone(), scores.clone()))
            return scores

    _, reports = watched(model, rolling(split(model, batch), every=1), batch, mode="monitor")
    at = {report.row: report.readings[-1].token for report in reports if report.intended == "refuse"}
    with guarded(model, rolling(split(model, batch), every=1)) as wrapped:
        wrapped.generate(**batch, max_new_tokens=12, do_sample=False, logits_processor=LogitsProcessorList([Look()]))
    for row, token in at.items():
        for step, (ids, _) in enumerate(seen):
            if step >= token:
                assert set(ids[row, width:].tolist()) <= {0}


class Keeper:
    def __init__(self):
        self.values, self.ends = [], 0

    def put(self, value):
        self.values.append(value.clone())

    def end(self):
        self.ends += 1


@pytest.mark.parametrize("strategy", ["buffer", "window", "unsafe_passthrough"])
def test_a_stream_holds_the_template_or_ends_with_an_error(strategy):
    model = shared_model()
    batch = {key: value[:1] for key, value in prompts(4).items()}
    document = rolling(-1e6, first=4, more=f"streaming: {{strategy: {strategy}}}")
    keeper = Keeper()
    with guarded(model, document) as wrapped:
        if strategy == "buffer":
            wrapped.generate(**batch, max_new_tokens=12, do_sample=False, streamer=keeper, eos_token_id=None)
            assert [int(value) for value in keeper.values[1:]] == refused_ids()
        else:
            with pytest.raises(AnswerStoppedError):
                wrapped.generate(**batch, max_new_tokens=12, do_sample=False, streamer=keeper, eos_token_id=None)
    assert keeper.ends == 1
    if strategy == "window":
        assert len(keeper.values) == 1 + 4


def test_what_cannot_be_read_or_opened_raises_by_name():
    model = shared_model()
    batch = prompts(2)
    with guarded(model, rolling(-1e6)) as wrapped:
        with pytest.raises(UnsupportedGenerationError, match="use_cache=False"):
            run(wrapped, batch, use_cache=False)
        with pytest.raises(UnsupportedGenerationError, match="rolling guard"), wrapped.guard.forward():
            wrapped(**batch)
        with pytest.raises(UnsupportedGenerationError, match="scores"):
            run(wrapped, batch, return_dict_in_generate=True, output_scores=True)
    by_step = registry_for(model, schedule="by_step")
    with pytest.raises(UnsupportedPlanError, match="push"), guarded(model, opening(0.0), registry=by_step):
        pass


@pytest.mark.parametrize("first", [1, 4096], ids=["with reads", "between reads"])
def test_a_read_block_that_is_not_passed_ends_the_request(first):
    model = fresh_model()
    with guarded(model, rolling(UNREACHED, first=first), registry=registry_for(shared_model())) as wrapped:

        def drop(step):
            if step == 2:
                blocks_of(model)[1]._forward_hooks.clear()

        with pytest.raises(GuidanceDidNotFireError):
            run(wrapped, prompts(2), act=drop, eos_token_id=None)


def test_nothing_is_left_behind():
    model = fresh_model()
    before = state_of(model)
    for document in (rolling(-1e6), opening(0.0)):
        watched(model, document, prompts(3), registry=registry_for(shared_model()))
    assert state_of(model) == before
