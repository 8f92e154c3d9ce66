"""A cache that goes from turn to turn changes how long a call takes, and never what comes of it."""

from __future__ import annotations

import pytest
import torch
from tests.cached_turns import (
    AT_THE_END,
    EVER,
    EVERYWHERE,
    NEVER,
    RECURRENT,
    STEPS,
    TEXT_CLASSES,
    agree,
    kept,
    middle,
    next_turn,
    same_bits,
    turn_of,
    turns_of,
)
from tests.guarded_models import (
    conversation,
    guarded,
    policy,
    prompts,
    run,
    shared_model,
    tokenizer,
)
from transformers import DynamicCache

from steerguard.errors import UnsupportedGenerationError


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("settings", [AT_THE_END, EVERYWHERE])
@pytest.mark.parametrize("architecture", TEXT_CLASSES)
def test_three_turns_with_one_cache_are_three_turns_without(architecture, settings, kind):
    model, batch = shared_model(architecture), prompts(4)
    document = policy(middle(model, batch, settings), settings=settings)
    with guarded(model, document) as wrapped:
        found = turns_of(wrapped, batch, kept(model, kind))
    for cached, alone in found:
        agree(cached, alone)
    assert 0 < sum(bool(report.doses) for report in found[0][0].reports) < 4


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("architecture", TEXT_CLASSES)
def test_a_conversation_that_nothing_changes_runs_no_column_twice(architecture, kind):
    model, batch = shared_model(architecture), prompts(3)
    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        found = turns_of(wrapped, batch, kept(model, kind))
    before = 0
    for cached, alone in found:
        agree(cached, alone)
        held = 0 if architecture in RECURRENT else before
        assert alone.columns - cached.columns == held
        prompt = [report.usage.prompt_tokens for report in cached.reports]
        hidden = [alone.columns - (STEPS - 1) - tokens for tokens in prompt]
        # Only the padding of the first turn, and of what was asked later, is hidden.
        assert all(held - gap <= one <= held for one, gap in zip(cached.cached, hidden, strict=True))
        assert alone.cached == [0, 0, 0]
        assert {report.usage.extra_forward_tokens for report in cached.reports} == {0}
        before = alone.columns


@pytest.mark.parametrize("architecture", [name for name in TEXT_CLASSES if name not in RECURRENT])
def test_closed_rows_keep_every_bit_of_the_unguided_conversation_with_a_cache(architecture):
    model, first = shared_model(architecture), prompts(3)
    settings = {"max_new_tokens": STEPS, "min_new_tokens": STEPS}
    batch, cache, plain = first, kept(model), []
    for _ in range(3):
        plain.append(run(model, batch, past_key_values=cache, **settings))
        batch = next_turn(batch, plain[-1][0])
    batch, cache = first, kept(model)
    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        for tokens, logits in plain:
            found = turn_of(wrapped, batch, past_key_values=cache)
            assert torch.equal(found.tokens, tokens)
            assert all(
                torch.equal(one.view(torch.int32), other.view(torch.int32))
                for one, other in zip(found.logits, logits, strict=True)
            )
            batch = next_turn(batch, found.tokens)
    assert found.cached[0] > 0


@pytest.mark.parametrize(("threshold", "applied"), [(NEVER, "allow"), (EVER, "guide")])
def test_the_pattern_of_the_documentation_of_transformers(threshold, applied):
    model = shared_model()
    with guarded(model, policy(threshold, settings=AT_THE_END)) as wrapped:
        cache, messages = DynamicCache(config=model.config), []
        for asked in ("how to cook", "x", "hello there"):
            messages += conversation(asked)
            inputs = tokenizer().apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            found = turn_of(wrapped, inputs, past_key_values=cache)
            agree(found, turn_of(wrapped, inputs))
            assert [report.applied for report in found.reports] == [applied]
            answer = tokenizer().decode(found.tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            messages.append({"role": "assistant", "content": answer})


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2", "lfm2"])
def test_the_cache_of_a_dictionary_output_goes_on_in_the_next_turn(architecture):
    model, batch, cache = shared_model(architecture), prompts(3), None
    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        for turn in range(3):
            columns = batch["input_ids"].shape[1]
            output = wrapped.generate(
                **batch, past_key_values=cache, return_dict_in_generate=True, max_new_tokens=STEPS, do_sample=False
            )
            alone = wrapped.generate(**batch, max_new_tokens=STEPS, do_sample=False)
            assert torch.equal(output.sequences, alone)
            assert cache is None or output.past_key_values is cache
            cache = output.past_key_values
            assert cache.get_seq_length() == output.sequences.shape[1] - 1
            spared = [report.usage.cached_tokens > 0 for report in output.guidance]
            assert spared == [turn > 0 and architecture not in RECURRENT] * 3
            batch = next_turn(batch, output.sequences)
            assert batch["input_ids"].shape[1] > columns


def test_a_class_whose_cache_has_another_name_raises_and_gives_none_back():
    model, batch = shared_model("falcon_mamba"), prompts(2)
    with guarded(model, policy(NEVER)) as wrapped:
        output = wrapped.generate(**batch, return_dict_in_generate=True, max_new_tokens=2)
        assert output.past_key_values is None
        with pytest.raises(UnsupportedGenerationError, match="takes none"):
            wrapped.generate(**batch, past_key_values=DynamicCache(), max_new_tokens=2)
        with pytest.raises(UnsupportedGenerationError, match="cache_params"):
            wrapped.generate(**batch, cache_params=DynamicCache(), max_new_tokens=2)


def test_what_was_steered_is_computed_again_in_the_next_turn():
    model, batch = shared_model(), prompts(4)
    cache = kept(model)
    with guarded(model, policy(middle(model, batch, AT_THE_END), settings=AT_THE_END)) as wrapped:
        first = turn_of(wrapped, batch, past_key_values=cache)
        assert any(report.doses for report in first.reports)
        batch = next_turn(batch, first.tokens)
        second, alone = turn_of(wrapped, batch, past_key_values=cache), turn_of(wrapped, batch)
    assert second.columns == alone.columns
    assert second.cached == [0] * 4
    agree(second, alone)
    assert same_bits(second, alone)


@pytest.mark.parametrize("refused", ["all", "some"])
def test_the_cache_of_a_refused_batch_comes_back_empty_and_goes_on(refused):
    model, batch, cache = shared_model(), prompts(4), kept(shared_model())
    threshold = EVER if refused == "all" else middle(model, batch, AT_THE_END)
    with guarded(model, policy(threshold, "refuse")) as wrapped:
        output = wrapped.generate(**batch, past_key_values=cache, return_dict_in_generate=True, max_new_tokens=12)
        applied = [report.applied for report in output.guidance]
        assert ("allow" in applied) == (refused == "some")
        assert "refuse" in applied
        assert output.past_key_values is cache
        assert cache.get_seq_length() == 0
        assert all(layer.keys is None for layer in cache.layers)
        found = turns_of(wrapped, next_turn(batch, output.sequences), cache, turns=2, max_new_tokens=8)
    for cached, alone in found:
        agree(cached, alone)


def test_a_prompt_that_the_cache_does_not_begin_is_computed_as_if_there_were_none():
    model, cache = shared_model(), kept(shared_model())
    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        turn_of(wrapped, prompts(3), past_key_values=cache)
        other = next_turn(prompts(3, "right"), prompts(3)["input_ids"])
        for batch in (other, {name: tensor[:2] for name, tensor in other.items()}):
            found, alone = turn_of(wrapped, batch, past_key_values=cache), turn_of(wrapped, batch)
            agree(found, alone)
            assert same_bits(found, alone)
            assert set(found.cached) == {0}
            cache.reset()


@pytest.mark.parametrize("hidden", [True, False])
def test_rows_that_ended_before_their_neighbours_go_on_whether_their_filler_is_hidden_or_not(hidden):
    model, batch, cache = shared_model(), prompts(4), kept(shared_model())
    plain = run(model, batch, max_new_tokens=6, min_new_tokens=6)[0][:, batch["input_ids"].shape[1] :]
    # One row ends after two tokens, by a token that the others do not say.
    end = next(int(token) for token in plain[0, 1:4] if token not in plain[1:] and token != plain[0, 0])
    settings = {"min_new_tokens": None, "max_new_tokens": 6, "eos_token_id": end}
    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        first = turn_of(wrapped, batch, past_key_values=cache, **settings)
        assert first.tokens[0, -1] == 0
        following = next_turn(batch, first.tokens)
        if hidden:
            filler = torch.zeros_like(following["input_ids"], dtype=torch.bool)
            width = batch["input_ids"].shape[1]
            filler[:, width : first.tokens.shape[1]] = first.tokens[:, width:] == 0
            following["attention_mask"] = following["attention_mask"].masked_fill(filler, 0)
        found, alone = turn_of(wrapped, following, past_key_values=cache), turn_of(wrapped, following)
    assert all(found.cached)
    agree(found, alone)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side(side, architecture):
    model, batch, cache = shared_model(architecture), prompts(4, side), kept(shared_model(architecture))
    # On the right a row goes on from a filler that sees nothing in a window, where transformers computes noise; so the
    # rows are asked further by the same tokens in every run.
    answers = prompts(4)["input_ids"][:, :STEPS]
    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        for turn in range(3):
            settings = {"max_new_tokens": 1, "min_new_tokens": 1, "past_key_values": cache}
            found = turn_of(wrapped, batch, **settings)
            alone = turn_of(wrapped, batch, max_new_tokens=1, min_new_tokens=1)
            assert found.scores == pytest.approx(alone.scores, abs=1e-3)
            assert found.verdicts == alone.verdicts
            if (side, architecture) != ("right", "gemma2"):
                agree(found, alone)
            assert all(one > 0 for one in found.cached) == (turn > 0)
            batch = next_turn(batch, torch.cat((batch["input_ids"], answers), dim=1))


def test_an_answer_that_is_continued_has_its_verdict_in_the_cache_and_is_computed_again():
    model, batch, cache = shared_model(), prompts(3), kept(shared_model())
    threshold = middle(model, batch, AT_THE_END)
    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        tokens = turn_of(wrapped, batch, past_key_values=cache).tokens
        shown = torch.ones(3, tokens.shape[1] - batch["input_ids"].shape[1], dtype=torch.long)
        longer = {"input_ids": tokens, "attention_mask": torch.cat((batch["attention_mask"], shown), dim=1)}
        # The stricter policy of one request is another plan over the same unguided states.
        stricter = policy(threshold, settings=AT_THE_END)
        found = turn_of(wrapped, longer, past_key_values=cache, policy=stricter)
        agree(found, turn_of(wrapped, longer, policy=stricter))
    assert found.cached == [0, 0, 0]
    assert 0 < sum(bool(report.doses) for report in found.reports) < 3


def test_a_stricter_policy_goes_on_behind_what_another_plan_has_left_untouched():
    model, batch, cache = shared_model(), prompts(4), kept(shared_model())
    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        batch = next_turn(batch, turn_of(wrapped, batch, past_key_values=cache).tokens)
        scores = sorted(turn_of(wrapped, batch).scores)
        stricter = policy((scores[1] + scores[2]) / 2, settings=AT_THE_END)
        found = turn_of(wrapped, batch, past_key_values=cache, policy=stricter)
        agree(found, turn_of(wrapped, batch, policy=stricter))
    assert all(found.cached)
    assert sum(bool(report.doses) for report in found.reports) == 2
