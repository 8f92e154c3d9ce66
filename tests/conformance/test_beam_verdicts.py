"""One verdict per prompt, whatever its beams do: refused prompts, broken beams, copies that differ."""

from __future__ import annotations

import pytest
import torch
from tests.beam_search import BEAMS, beams, filled
from tests.guarded_models import (
    ARCHITECTURES,
    CONTENTS,
    TEMPLATE,
    Capture,
    answers,
    blocks_of,
    conversation,
    fresh_model,
    guarded,
    policy,
    prompts,
    registry_for,
    shared_model,
    split_of,
    tokenizer,
)
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from steerguard.models.chat import render


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prompt_has_the_verdict_and_the_answer_alone_that_it_has_in_a_batch(architecture):
    model = shared_model(architecture)
    batch = prompts(6)
    width = batch["input_ids"].shape[1]
    with guarded(model, policy(split_of(model, 6))) as wrapped:
        with wrapped.guard.collect() as together:
            tokens, _ = beams(wrapped, batch, num_return_sequences=2)
        for row in range(6):
            single = render(tokenizer(), [conversation(text) for text in CONTENTS[row : row + 1]])
            with wrapped.guard.collect() as alone:
                own, _ = beams(wrapped, single, num_return_sequences=2)
            assert [report.intended for report in alone] == [
                report.intended for report in together[2 * row : 2 * row + 2]
            ]
            assert abs(alone[0].readings[0].score - together[2 * row].readings[0].score) < 1e-4
            assert filled(own[:, single["input_ids"].shape[1] :]) == filled(tokens[2 * row : 2 * row + 2, width:])


@pytest.mark.parametrize("settings", [{}, {"do_sample": True}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("returned", [1, 2, BEAMS])
def test_every_returned_sequence_of_a_refused_prompt_holds_the_template(returned, settings):
    model = shared_model()
    batch = prompts(6)
    width = batch["input_ids"].shape[1]
    with guarded(model, policy(split_of(model, 6), "refuse")) as wrapped, wrapped.guard.collect() as reports:
        tokens, _ = beams(wrapped, batch, max_new_tokens=30, num_return_sequences=returned, **settings)
    assert tokens.shape[0] == len(reports) == 6 * returned
    refused = [report.row for report in reports if report.applied == "refuse"]
    assert 0 < len(refused) < 6 * returned
    for row in refused:
        assert tokenizer().decode(tokens[row, width:], skip_special_tokens=True) == TEMPLATE
        assert reports[row].usage.generated_tokens == len(tokenizer()(TEMPLATE)["input_ids"]) + 1
    for prompt in range(6):
        assert len({reports[prompt * returned + answer].applied for answer in range(returned)}) == 1


@pytest.mark.parametrize("settings", [{}, {"do_sample": True}, {"early_stopping": True}, {"length_penalty": 3.0}])
def test_a_batch_of_refused_prompts_runs_exactly_one_forward_pass(settings):
    model = shared_model()
    passes = []
    with guarded(model, policy(-1e6, "refuse")) as wrapped:
        handle = blocks_of(model)[0].register_forward_hook(lambda *_: passes.append(None))
        tokens, _ = beams(wrapped, prompts(4), max_new_tokens=30, **settings)
        handle.remove()
    assert len(passes) == 1
    width = prompts(4)["input_ids"].shape[1]
    assert tokenizer().batch_decode(tokens[:, width:], skip_special_tokens=True) == [TEMPLATE] * 4


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-2.0, 0.0, 1.0, 8.0])
def test_a_refused_prompt_does_not_make_its_neighbours_search_longer(early_stopping, length_penalty):
    model = shared_model()
    batch = prompts(6)
    width = batch["input_ids"].shape[1]
    settings = {
        "early_stopping": early_stopping,
        "length_penalty": length_penalty,
        "max_new_tokens": 40,
        # A random model seldom ends an answer by itself.
        "eos_token_id": [2, *range(40, 100)],
    }
    with guarded(model, policy(split_of(model, 6), "refuse")) as wrapped, wrapped.guard.collect() as reports:
        _, steps = beams(wrapped, batch, **settings)
    allowed = [report.row for report in reports if report.applied == "allow"]
    assert 0 < len(allowed) < 6
    alone = {name: tensor[allowed] for name, tensor in batch.items()}
    _, wanted = beams(model, alone, **settings)
    assert len(steps) == len(wanted)
    assert len(wanted) < 40 or (early_stopping is not True and length_penalty > 0)
    assert width == alone["input_ids"].shape[1]


class _Seen(StoppingCriteria):
    """A criterion of the app that keeps the candidates that it is asked about."""

    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, _scores, **_kwargs):
        self.seen.append(input_ids.clone())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


@pytest.mark.parametrize("settings", [{}, {"do_sample": True}], ids=["greedy", "sampled"])
def test_callbacks_see_only_filler_behind_refused_prompts(settings):
    seen, shown = _Seen(), []

    class Keep(Capture):
        def __call__(self, input_ids, scores):
            shown.append(input_ids.clone())
            return scores

    model = shared_model()
    batch = prompts(6)
    width = batch["input_ids"].shape[1]
    with guarded(model, policy(split_of(model, 6), "refuse")) as wrapped, wrapped.guard.collect() as reports:
        wrapped.generate(
            **batch,
            num_beams=BEAMS,
            max_new_tokens=6,
            logits_processor=LogitsProcessorList([Keep()]),
            stopping_criteria=StoppingCriteriaList([seen]),
            **settings,
        )
    assert len(seen.seen) > 1
    for tensors in (seen.seen, shown):
        for tensor in tensors:
            candidates = tensor.view(6, -1, tensor.shape[1])
            for report in reports:
                if report.applied == "refuse":
                    assert torch.equal(candidates[report.row, :, :width], batch["input_ids"][[report.row]].expand(
                        candidates.shape[1], -1
                    ))  # fmt: skip
                    assert set(candidates[report.row, :, width:].flatten().tolist()) <= {0}


@pytest.mark.parametrize("settings", [{}, {"do_sample": True}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("from_pass", [0, 2], ids=["prefill", "decode"])
def test_a_beam_that_stops_being_finite_refuses_its_whole_prompt_and_no_other(from_pass, settings):
    model = fresh_model()
    armed = {"pass": None}

    def poison(_module, _inputs, output):
        if armed["pass"] is None:
            return None
        armed["pass"] += 1
        if armed["pass"] != from_pass + 1:
            return None
        output = output.clone()
        output[2 * BEAMS + 1] = float("nan")
        return output

    blocks_of(model)[3].register_forward_hook(poison)
    settings = {**settings, "num_return_sequences": 2, "max_new_tokens": 8, "min_new_tokens": 8}
    with guarded(model, policy(-1e6), registry=registry_for(shared_model())) as wrapped:
        clean, _ = beams(wrapped, prompts(4), **settings)
        armed["pass"] = 0
        with wrapped.guard.collect() as reports:
            tokens, _ = beams(wrapped, prompts(4), **settings)
        armed["pass"] = None
    assert [report.cause for report in reports] == ["rule"] * 4 + ["non_finite"] * 2 + ["rule"] * 2
    assert [report.applied for report in reports] == ["guide"] * 4 + ["refuse"] * 2 + ["guide"] * 2
    width = prompts(4)["input_ids"].shape[1]
    for row in (4, 5):
        assert TEMPLATE.startswith(tokenizer().decode(answers(tokens, width)[row], skip_special_tokens=True))
    others = [0, 1, 2, 3, 6, 7]
    assert [filled(tokens[:, width:])[row] for row in others] == [filled(clean[:, width:])[row] for row in others]


@pytest.mark.parametrize("settings", ["coefficient: 4.0", "coefficient: 4.0, gate: per_block"])
@pytest.mark.parametrize("action", ["guide", "refuse"])
@pytest.mark.parametrize("copy", range(BEAMS))
def test_copies_that_read_differently_share_the_stricter_verdict(copy, action, settings):
    model = fresh_model()
    batch = prompts(4)
    threshold = split_of(shared_model(), 4)
    document = policy(threshold, action, **({"settings": settings} if action == "guide" else {}))
    with guarded(model, document, registry=registry_for(shared_model())) as wrapped:
        with wrapped.guard.collect() as clean:
            beams(wrapped, batch, num_return_sequences=2)
        scores = [report.readings[0].score for report in clean[::2]]
        closed, opened = scores.index(min(scores)), scores.index(max(scores))
        calls = []

        def swap(_module, _inputs, output):
            """In the prefill, one copy of a closed prompt reads like a prompt that is not closed, and the reverse."""
            calls.append(None)
            if len(calls) > 1:
                return None
            output = output.clone()
            rows = [closed * BEAMS + copy, opened * BEAMS + copy]
            output[rows] = output[rows[::-1]]
            return output

        handle = blocks_of(model)[0].register_forward_hook(swap)
        with wrapped.guard.collect() as reports:
            beams(wrapped, batch, num_return_sequences=2)
        handle.remove()
    for prompt in (closed, opened):
        own = reports[2 * prompt : 2 * prompt + 2]
        assert [report.applied for report in own] == [action] * 2
        assert own[0].readings == own[1].readings
        assert own[0].readings[0].score >= threshold
        assert own[0].doses == own[1].doses
    others = [row for row in range(4) if row not in {closed, opened}]
    assert [reports[2 * row].intended for row in others] == [clean[2 * row].intended for row in others]


def test_a_criterion_that_names_the_answered_candidates_only_ends_the_search():
    class ThreeTokens(StoppingCriteria):
        def __call__(self, input_ids, _scores, **_kwargs):
            generated = input_ids[:, width:]
            return (generated != 0).any(dim=1) & (generated.shape[1] >= 3)

    model = shared_model()
    batch = prompts(6)
    width = batch["input_ids"].shape[1]
    criteria = StoppingCriteriaList([ThreeTokens()])
    with guarded(model, policy(split_of(model, 6), "refuse")) as wrapped, wrapped.guard.collect() as reports:
        _, steps = beams(wrapped, batch, max_new_tokens=20, stopping_criteria=criteria)
    assert {report.applied for report in reports} == {"allow", "refuse"}
    assert len(steps) == 3
