"""Beam search and beam sampling under guidance: closed prompts bit by bit, every beam guarded and counted."""

from __future__ import annotations

import pytest
import torch
from tests.beam_search import BEAMS, beams, compare, require_identical
from tests.guarded_models import (
    ARCHITECTURES,
    blocks_of,
    fresh_model,
    guarded,
    policy,
    prompts,
    registry_for,
    run,
    shared_model,
    split_of,
    splitting_threshold,
    state_of,
    tokenizer,
)
from transformers import StoppingCriteria, StoppingCriteriaList

from steerguard.errors import GuidanceDidNotFireError, UnguidedForwardError

WAYS = {
    "beams": {},
    "two answers": {"num_return_sequences": 2},
    "early stopping": {"early_stopping": True, "num_return_sequences": BEAMS},
    "never stopping": {"early_stopping": "never", "length_penalty": 2.0},
    "short answers": {"length_penalty": -1.5},
    "sampled": {"do_sample": True, "temperature": 1.3, "num_return_sequences": 2},
    "uncached": {"use_cache": False},
    "repetition": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    "stop strings": {"stop_strings": ["mo", "assi"], "tokenizer": tokenizer(), "num_return_sequences": 2},
    "no end": {"eos_token_id": None, "num_return_sequences": 2},
    "two ends": {"eos_token_id": [2, 40], "num_return_sequences": 2},
}


@pytest.mark.parametrize("action", ["guide", "refuse"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_closed_prompts_are_the_unguided_beam_search_bit_by_bit(architecture, action):
    model = shared_model(architecture)
    batch = prompts(6)
    threshold = split_of(model, 6)
    plain, found, reports = compare(model, policy(threshold, action), batch)
    closed = [report.row for report in reports if report.applied == "allow"]
    assert 0 < len(closed) < 6
    require_identical(closed, plain, found, batch["input_ids"].shape[1], returned=1)
    if action == "guide":
        # The log-probabilities of an open prompt differ from the first step on: guidance does act.
        opened = [row for row in range(6) if row not in closed]
        assert all(not torch.equal(plain[1][0][row * BEAMS], found[1][0][row * BEAMS]) for row in opened)


@pytest.mark.parametrize("action", ["guide", "refuse"])
@pytest.mark.parametrize("way", WAYS)
def test_closed_prompts_are_identical_in_every_way_of_searching(way, action):
    model = shared_model()
    batch = prompts(6)
    settings = WAYS[way]
    plain, found, reports = compare(model, policy(split_of(model, 6), action), batch, **settings)
    returned = settings.get("num_return_sequences", 1)
    assert [report.row for report in reports] == list(range(6 * returned))
    applied = [reports[prompt * returned].applied for prompt in range(6)]
    closed = [prompt for prompt in range(6) if applied[prompt] == "allow"]
    assert 0 < len(closed) < 6
    require_identical(closed, plain, found, batch["input_ids"].shape[1], returned=returned)


@pytest.mark.parametrize("way", ["beams", "sampled", "uncached"])
def test_coefficient_zero_is_the_unguided_search(way):
    model = shared_model("qwen2")
    batch = prompts(4)
    plain, found, reports = compare(model, policy(-1e6, settings="coefficient: 0.0"), batch, **WAYS[way])
    assert torch.equal(plain[0], found[0])
    assert {report.applied for report in reports} == {"guide"}
    assert all(torch.equal(one, other) for one, other in zip(plain[1], found[1], strict=True))


def test_one_beam_is_greedy_search():
    batch = prompts(6)
    with guarded(shared_model(), policy(splitting_threshold(rows=6))) as wrapped:
        greedy, _ = run(wrapped, batch)
        one, _ = beams(wrapped, batch, num_beams=1)
    assert torch.equal(greedy, one)


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("positions", ["all", "decode", "prefill"])
def test_doses_follow_from_the_passes_of_the_loop(positions, use_cache):
    document = policy(split_of(shared_model(), 6), settings=f"coefficient: 4.0, positions: {positions}")
    batch = prompts(6)
    with guarded(shared_model(), document) as wrapped, wrapped.guard.collect() as reports:
        _, steps = beams(wrapped, batch, num_return_sequences=2, use_cache=use_cache, early_stopping=True)
    fed_back = len(steps) - 1
    assert fed_back > 1
    for report in reports:
        length = int(batch["attention_mask"][report.row // 2].sum())
        per_block = {"all": length + fed_back, "decode": fed_back, "prefill": length}[positions]
        wanted = [2 * per_block] if report.intended == "guide" else []
        assert [dose.positions for dose in report.doses] == wanted
        assert [dose.expected_positions for dose in report.doses] == wanted


@pytest.mark.parametrize("step", [0, 2])
def test_hooks_that_are_gone_between_two_steps_of_a_search_raise(step):
    with guarded(shared_model(), policy(-1e6)) as wrapped:
        count = iter(range(100))

        class Sabotage(StoppingCriteria):
            def __call__(self, input_ids, _scores, **_kwargs):
                if next(count) == step:
                    for block in blocks_of(wrapped):
                        block._forward_hooks.clear()
                return torch.zeros(input_ids.shape[0], dtype=torch.bool)

        with wrapped.guard.collect() as reports, pytest.raises(GuidanceDidNotFireError, match="positions"):
            beams(wrapped, prompts(2), min_new_tokens=8, stopping_criteria=StoppingCriteriaList([Sabotage()]))
        assert reports == []
        assert wrapped.guard.hooked_blocks == ()


def test_usage_counts_every_beam_and_adds_up_to_what_went_through_the_model():
    model = shared_model()
    rows = []
    batch = prompts(4)
    with guarded(model, policy(1e6)) as wrapped, wrapped.guard.collect() as reports:
        handle = blocks_of(model)[0].register_forward_hook(lambda _m, _i, output: rows.append(output.shape[0]))
        _, steps = beams(wrapped, batch, num_return_sequences=2)
        handle.remove()
    assert len(rows) == len(steps)
    # The prefill gives the first token of every beam; each later pass feeds one token of each beam.
    assert sum(report.usage.generated_tokens for report in reports) == sum(rows)
    assert {report.usage.prompt_tokens for report in reports} <= set(batch["attention_mask"].sum(1).tolist())
    assert {report.usage.extra_forward_tokens for report in reports} == {0}


def test_a_successful_search_leaves_no_trace():
    model = fresh_model()
    beams(model, prompts(2))
    with guarded(model, policy(split_of(model, 6)), registry=registry_for(shared_model())) as wrapped:
        before = state_of(wrapped)
        for way in ("beams", "sampled", "uncached"):
            beams(wrapped, prompts(6), **WAYS[way])
            assert state_of(wrapped) == before


def test_a_search_started_by_hand_is_refused():
    with guarded(shared_model(), policy(1e6)) as wrapped, pytest.raises(UnguidedForwardError):
        wrapped._beam_search(prompts(2)["input_ids"])


def test_a_streamer_beside_beams_raises_as_without_a_guard_and_ends_the_stream():
    ended = []

    class Streamer:
        def put(self, value):
            raise AssertionError

        def end(self):
            ended.append(True)

    with guarded(shared_model(), policy(1e6)) as wrapped, pytest.raises(ValueError, match="beam search"):
        wrapped.generate(**prompts(1), num_beams=2, streamer=Streamer(), max_new_tokens=2)
    assert ended == [True]


def test_more_answers_than_beams_raise_as_without_a_guard():
    with guarded(shared_model(), policy(1e6)) as wrapped, pytest.raises(ValueError, match="num_return_sequences"):
        wrapped.generate(**prompts(1), num_beams=2, num_return_sequences=3, max_new_tokens=2)


def test_records_of_the_steps_are_those_of_the_unguided_search():
    model = shared_model()
    batch = prompts(4)
    asked = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    plain, _ = beams(model, batch, **asked)
    with guarded(model, policy(1e6)) as wrapped:
        found, _ = beams(wrapped, batch, **asked)
    for name in ("sequences", "sequences_scores", "beam_indices"):
        assert torch.equal(plain[name], found[name])
    for name in ("scores", "logits"):
        assert all(torch.equal(one, other) for one, other in zip(plain[name], found[name], strict=True))
    assert len(found.guidance) == 4


def test_a_pass_before_the_prefill_is_charged_for_every_beam():
    model = fresh_model()
    batch = prompts(4)
    document = policy(split_of(shared_model(), 4), settings="coefficient: 4.0, blocks: [0]")
    registry = registry_for(model, steered_blocks=(0,))
    positions = []
    with guarded(model, document, registry=registry) as wrapped, wrapped.guard.collect() as reports:
        handle = blocks_of(model)[0].register_forward_hook(lambda _m, _i, output: positions.append(output.shape[:2]))
        beams(wrapped, batch, num_return_sequences=2)
        handle.remove()
    rows, width = 4 * BEAMS, batch["input_ids"].shape[1]
    assert [tuple(shape) for shape in positions[:3]] == [(rows, width), (rows, width), (rows, 1)]
    assert {report.applied for report in reports} == {"allow", "guide"}
    extra = sum(report.usage.extra_forward_tokens for report in reports)
    assert extra == BEAMS * int(batch["attention_mask"].sum())
