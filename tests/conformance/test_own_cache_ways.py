"""A cache that goes from turn to turn in every way of generating, and beside inputs and models that it cannot go on with."""

from __future__ import annotations

import pytest
import torch
from tests.cached_turns import (
    AT_THE_END,
    EVER,
    EVERY_MODALITY,
    EVERYWHERE,
    NEVER,
    STEPS,
    agree,
    kept,
    middle,
    next_turn,
    same_bits,
    turn_of,
    turns_of,
)
from tests.guarded_models import (
    fresh_model,
    guarded,
    policy,
    prompts,
    registry_for,
    shared_model,
)
from tests.multimodal_prompts import MULTIMODAL_CLASSES, modality_prompts
from tests.rolling_guards import opening, rolling
from transformers.generation.streamers import BaseStreamer

WAYS = {
    "beams": {"num_beams": 3},
    "several answers": {"num_return_sequences": 2, "do_sample": True},
    "sampling": {"do_sample": True, "temperature": 1.3},
    "a chunked prefill": {"prefill_chunk_size": 5},
    "chunks that end in one column": {"prefill_chunk_size": 2},
    "hidden states": {"return_dict_in_generate": True, "output_hidden_states": True},
}


@pytest.mark.parametrize("threshold", ["never", "some"])
@pytest.mark.parametrize("settings", [AT_THE_END, EVERYWHERE, "coefficient: 4.0, gate: per_block"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_generating_agrees_over_three_turns(way, settings, threshold):
    model, batch = shared_model(), prompts(2)
    limit = NEVER if threshold == "never" else middle(model, batch, settings)
    with guarded(model, policy(limit, settings=settings)) as wrapped:
        cache = kept(model)
        for _ in range(3):
            found = turn_of(wrapped, batch, past_key_values=cache, **WAYS[way])
            agree(found, turn_of(wrapped, batch, **WAYS[way]))
            batch = next_turn(batch, found.tokens[: 2 * len(found.tokens) // 2 : len(found.tokens) // 2])


def test_beams_go_on_behind_a_cache_of_as_many_rows():
    model, batch, cache = shared_model(), prompts(2), kept(shared_model())
    doubled = {name: tensor.repeat_interleave(2, dim=0) for name, tensor in batch.items()}
    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        first = turn_of(wrapped, doubled, past_key_values=cache)
        following = next_turn(batch, first.tokens[::2])
        found = turn_of(wrapped, following, past_key_values=cache, num_beams=2)
        agree(found, turn_of(wrapped, following, num_beams=2))
        assert all(found.cached)
        third = next_turn(following, found.tokens)
        after = turn_of(wrapped, third, past_key_values=cache)
    assert not any(after.cached)


class _Parts(BaseStreamer):
    def __init__(self):
        self.parts = []

    def put(self, value):
        self.parts += torch.as_tensor(value).reshape(-1).tolist()

    def end(self):
        self.parts.append(None)


@pytest.mark.parametrize("strategy", ["buffer", "window", "unsafe_passthrough"])
def test_streams_agree_over_two_turns(strategy):
    model, batch, cache = shared_model(), prompts(1), kept(shared_model())
    document = policy(NEVER, settings=AT_THE_END, more=f"streaming: {{strategy: {strategy}}}")
    with guarded(model, document) as wrapped:
        for _ in range(2):
            streamer = _Parts()
            found = turn_of(wrapped, batch, past_key_values=cache, streamer=streamer)
            agree(found, turn_of(wrapped, batch))
            assert streamer.parts == [*found.tokens[0].tolist(), None]
            batch = next_turn(batch, found.tokens)
    assert all(found.cached)


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize(("kind", "architecture"), [("dynamic", "llama"), ("static", "llama"), ("dynamic", "gemma2")])
def test_prompt_means_go_on_from_the_sums_of_the_earlier_prompt(architecture, kind, chunk):
    model, batch, settings = shared_model(architecture), prompts(3), {"prefill_chunk_size": chunk}
    registry = registry_for(model, probe_blocks=(0, 1, 1), probe_over=("prompt_mean", "end", "prompt_mean"))
    with guarded(model, policy(NEVER, settings=AT_THE_END), registry=registry) as wrapped:
        found = turns_of(wrapped, batch, kept(model, kind), **settings)
    before = 0
    for cached, alone in found:
        agree(cached, alone)
        # What was generated is run again; a static cache and a window that has moved on cannot be cropped.
        spared = before if (kind, architecture) == ("dynamic", "llama") else 0
        assert alone.columns - cached.columns == spared
        before = alone.columns - (STEPS - 1)


def test_prompt_means_start_over_where_their_sums_are_unknown():
    model, batch, cache = shared_model(), prompts(3), kept(shared_model())
    registry = registry_for(model, probe_blocks=(0, 3), probe_over=("prompt_mean", "prompt_mean"))
    with guarded(model, policy(NEVER, settings=AT_THE_END + ", blocks: [2]"), registry=registry) as wrapped:
        # Two passes: the first one has the sums, and keeps nothing.
        assert wrapped.guard.plan.cost.passes == 2
        found = turns_of(wrapped, batch, cache)
    for cached, alone in found:
        agree(cached, alone)
        assert set(cached.cached) == {0}


def test_a_prefilled_answer_lies_outside_the_mean_and_starts_over():
    model, cache = shared_model(), kept(shared_model())
    registry = registry_for(model, probe_blocks=(0, 1), probe_over=("end", "prompt_mean"))
    batch = prompts(3, prefills=["Sure", None, "I"])
    with guarded(model, policy(NEVER, settings=AT_THE_END), registry=registry) as wrapped:
        found = turns_of(wrapped, batch, cache)
    for cached, alone in found:
        agree(cached, alone)
        assert set(cached.cached) == {0}


@pytest.mark.parametrize("settings", ["coefficient: 4.0, blocks: [0, 2]", AT_THE_END + ", blocks: [0, 2]"])
def test_a_plan_of_two_passes_reads_the_whole_prompt_in_its_first(settings):
    model, batch = shared_model(), prompts(4)
    with guarded(model, policy(middle(model, batch, settings), settings=settings)) as wrapped:
        assert wrapped.guard.plan.cost.passes == 2
        found = turns_of(wrapped, batch, kept(model))
    for cached, alone in found:
        agree(cached, alone)
        assert [one.usage.extra_forward_tokens for one in cached.reports] == [
            one.usage.prompt_tokens for one in cached.reports
        ]


@pytest.mark.parametrize("settings", [AT_THE_END, EVERYWHERE])
def test_monitoring_goes_on_behind_every_cache(settings):
    model, batch = shared_model(), prompts(3)
    with guarded(model, policy(EVER, settings=settings), mode="monitor") as wrapped:
        found = turns_of(wrapped, batch, kept(model))
    for cached, alone in found:
        agree(cached, alone)
        assert {report.intended for report in cached.reports} == {"guide"}
    assert all(found[1][0].cached)


@pytest.mark.parametrize("make", [rolling, opening])
@pytest.mark.parametrize("reached", [True, False])
def test_a_rolling_guard_agrees_over_three_turns(make, reached):
    model, batch = shared_model(), prompts(3)
    with guarded(model, make(EVER if reached else NEVER)) as wrapped:
        found = turns_of(wrapped, batch, kept(model))
    for cached, alone in found:
        agree(cached, alone)
        assert [one.readings for one in cached.reports if one.readings]
    # What a watch may open counts as open: such a plan changes all columns once a rule opens it.
    assert any(found[1][0].cached) == (make is rolling and not reached)


@pytest.mark.parametrize("architecture", MULTIMODAL_CLASSES)
def test_images_and_sounds_are_computed_again(architecture):
    model, batch = shared_model(architecture), modality_prompts(architecture, 2, with_modality=(0, 1))
    text = ("input_ids", "attention_mask")
    document = policy(NEVER, settings=AT_THE_END, modalities=EVERY_MODALITY)
    with guarded(model, document) as wrapped:
        cache = kept(model)
        for _ in range(3):
            found, alone = turn_of(wrapped, batch, past_key_values=cache), turn_of(wrapped, batch)
            agree(found, alone)
            assert same_bits(found, alone)
            assert set(found.cached) == {0}
            width = batch["input_ids"].shape[1]
            longer = next_turn(batch, found.tokens, prompts(2))
            added = longer["input_ids"].shape[1] - width
            batch = {
                name: longer[name]
                if name in text
                else torch.cat((value, torch.zeros(2, added, dtype=value.dtype)), dim=1)
                if name.endswith("token_type_ids")
                else value
                for name, value in batch.items()
            }


def test_inputs_beside_the_tokens_are_computed_again():
    model, batch, cache = shared_model("gpt2"), prompts(2), kept(shared_model("gpt2"))
    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        for _ in range(2):
            marked = {**batch, "token_type_ids": torch.full_like(batch["input_ids"], 5)}
            found, alone = turn_of(wrapped, marked, past_key_values=cache), turn_of(wrapped, marked)
            assert same_bits(found, alone)
            batch = next_turn(batch, found.tokens)
        found, alone = turn_of(wrapped, batch, past_key_values=cache), turn_of(wrapped, batch)
        assert same_bits(found, alone)
        assert found.cached == [0, 0]


def test_positions_that_depend_on_the_length_are_computed_again():
    model = fresh_model()
    model.config.rope_parameters = {**model.config.rope_parameters, "rope_type": "dynamic", "factor": 2.0}
    with guarded(model, policy(NEVER, settings=AT_THE_END), registry=registry_for(model)) as wrapped:
        found = turns_of(wrapped, prompts(2), kept(model), turns=2)
    for cached, alone in found:
        assert same_bits(cached, alone)
        assert cached.cached == [0, 0]


def test_a_changed_model_starts_over():
    model, batch = fresh_model(), prompts(2)
    cache = kept(model)
    registry = registry_for(model)
    with guarded(model, policy(NEVER, settings=AT_THE_END), registry=registry) as wrapped:
        batch = next_turn(batch, turn_of(wrapped, batch, past_key_values=cache).tokens)
        with torch.no_grad():
            wrapped.model.layers[0].self_attn.q_proj.weight.mul_(1.0001)
        found, alone = turn_of(wrapped, batch, past_key_values=cache), turn_of(wrapped, batch)
    assert same_bits(found, alone)
    assert found.cached == [0, 0]
