"""Several answers per prompt, dictionary outputs, kinds of cache, pipelines: each sequence with its decision."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import (
    ARCHITECTURES,
    TEMPLATE,
    answers,
    blocks_of,
    conversation,
    fresh_model,
    guarded,
    policy,
    prompts,
    registry_for,
    run,
    same_rows,
    shared_model,
    split_of,
    state_of,
    tokenizer,
)
from transformers import StaticCache, pipeline

from steerguard.errors import UnsupportedGenerationError

SAMPLED = {"do_sample": True, "temperature": 1.2, "num_return_sequences": 3}
STEP_RECORDS = {
    "scores": {"output_scores": True},
    "logits": {"output_logits": True},
    "hidden_states": {"output_hidden_states": True},
    "attentions": {"output_attentions": True},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_closed_prompts_keep_every_bit_of_all_their_answers(architecture):
    model = shared_model(architecture)
    batch = prompts(4)
    width = batch["input_ids"].shape[1]
    plain = run(model, batch, **SAMPLED)
    with guarded(model, policy(split_of(model, 4))) as wrapped, wrapped.guard.collect() as reports:
        found = run(wrapped, batch, **SAMPLED)
    assert [report.row for report in reports] == list(range(12))
    closed = [report.row for report in reports if report.applied == "allow"]
    assert 0 < len(closed) < 12
    assert same_rows(closed, plain, found, width)
    for prompt in range(4):
        own = reports[3 * prompt : 3 * prompt + 3]
        assert len({(report.intended, report.readings, report.doses) for report in own}) == 1
    with guarded(model, policy(split_of(model, 4))) as wrapped, wrapped.guard.collect() as single:
        run(wrapped, batch)
    assert [report.intended for report in reports[::3]] == [report.intended for report in single]


def test_answers_of_one_open_prompt_differ_and_each_has_its_own_usage():
    batch = prompts(2)
    width = batch["input_ids"].shape[1]
    with guarded(shared_model(), policy(-1e6)) as wrapped, wrapped.guard.collect() as reports:
        tokens, _ = run(wrapped, batch, **SAMPLED)
    found = answers(tokens, width)
    assert len({tuple(ids) for ids in found}) > 3
    for ids, report in zip(found, reports, strict=True):
        assert report.usage.generated_tokens == len(ids)
        assert report.doses[0].positions > 0


def test_every_answer_of_a_refused_prompt_holds_the_template():
    model = shared_model()
    batch = prompts(4)
    with guarded(model, policy(split_of(model, 4), "refuse")) as wrapped, wrapped.guard.collect() as reports:
        tokens, _ = run(wrapped, batch, **{**SAMPLED, "max_new_tokens": 30})
    texts = tokenizer().batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    assert {report.applied for report in reports} == {"allow", "refuse"}
    for report in reports:
        assert (texts[report.row] == TEMPLATE) == (report.applied == "refuse")


def test_one_answer_that_stops_being_finite_refuses_all_answers_of_its_prompt():
    model = fresh_model()
    armed = []

    def poison(_module, _inputs, output):
        if armed:
            output = output.clone()
            output[4] = float("nan")
            return output
        return None

    blocks_of(model)[3].register_forward_hook(poison)
    with guarded(model, policy(-1e6), registry=registry_for(shared_model())) as wrapped:
        armed.append(True)
        with wrapped.guard.collect() as reports:
            run(wrapped, prompts(2), **SAMPLED)
    assert [report.applied for report in reports] == ["guide"] * 3 + ["refuse"] * 3
    assert [report.cause for report in reports] == ["rule"] * 3 + ["non_finite"] * 3


@pytest.mark.parametrize("settings", [{"num_beams": 2, "num_return_sequences": 2}, SAMPLED], ids=["beams", "sampled"])
def test_a_dictionary_output_carries_one_report_per_returned_sequence(settings):
    with guarded(shared_model(), policy(split_of(shared_model(), 4))) as wrapped, wrapped.guard.collect() as reports:
        torch.manual_seed(3)
        found = wrapped.generate(**prompts(4), max_new_tokens=4, return_dict_in_generate=True, **settings)
    assert len(found.guidance) == len(found.sequences) == 4 * settings["num_return_sequences"]
    assert list(found.guidance) == reports
    assert found.past_key_values.get_seq_length() == found.sequences.shape[1] - 1


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("name", STEP_RECORDS)
def test_records_of_the_steps_work_without_refusals_and_raise_with_one(name, beams):
    model = fresh_model()
    model.set_attn_implementation("eager")
    batch = prompts(4)
    asked = {"return_dict_in_generate": True, "max_new_tokens": 4, "num_beams": beams, "do_sample": False}
    plain = model.generate(**batch, **asked, **STEP_RECORDS[name])
    registry = registry_for(shared_model())
    with guarded(model, policy(1e6), registry=registry) as wrapped:
        found = wrapped.generate(**batch, **asked, **STEP_RECORDS[name])
    for one, other in zip(plain[name], found[name], strict=True):
        pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
        assert all(torch.equal(left, right) for left, right in pairs)
    with guarded(model, policy(split_of(shared_model(), 4), "refuse"), registry=registry) as wrapped:
        before = state_of(wrapped)
        with wrapped.guard.collect() as reports, pytest.raises(UnsupportedGenerationError, match=f"`{name}`"):
            wrapped.generate(**batch, **asked, **STEP_RECORDS[name])
        assert reports == []
        assert state_of(wrapped) == before
        without = wrapped.generate(**batch, **asked)
    assert without.get("beam_indices") is None


def test_recorded_hidden_states_are_those_that_the_model_went_on_with():
    model = fresh_model()
    batch = prompts(2)
    asked = {"return_dict_in_generate": True, "output_hidden_states": True, "max_new_tokens": 3, "do_sample": False}
    with guarded(model, policy(-1e6), registry=registry_for(shared_model())) as wrapped:
        first = wrapped.generate(**batch, **asked)
        # The library installs its recording hooks in the first such call, so the second meets them in another order.
        before = state_of(wrapped)
        seen = {}
        handles = [
            blocks_of(model)[block].register_forward_pre_hook(
                lambda _m, args, kwargs, block=block: seen.setdefault(block, []).append(
                    (args[0] if args else kwargs["hidden_states"]).clone()
                ),
                with_kwargs=True,
            )
            for block in range(4)
        ]
        second = wrapped.generate(**batch, **asked)
        for handle in handles:
            handle.remove()
        assert state_of(wrapped) == before
    assert len(second.hidden_states) > 1
    for step, (one, other) in enumerate(zip(first.hidden_states, second.hidden_states, strict=True)):
        for block in range(4):
            assert torch.equal(other[block], seen[block][step])
            assert torch.equal(one[block], other[block])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_closed_rows_are_identical_with_every_guided_kind_of_cache(cache, architecture):
    model = shared_model(architecture)
    batch = prompts(6)
    plain = run(model, batch, cache_implementation=cache)
    with guarded(model, policy(split_of(model, 6))) as wrapped, wrapped.guard.collect() as reports:
        found = run(wrapped, batch, cache_implementation=cache)
        dynamic = run(wrapped, batch)
    closed = [report.row for report in reports[:6] if report.applied == "allow"]
    assert 0 < len(closed) < 6
    width = batch["input_ids"].shape[1]
    assert same_rows(closed, plain, found, width)
    assert [report.doses for report in reports[:6]] == [report.doses for report in reports[6:]]
    assert torch.allclose(found[1][1], dynamic[1][1], atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_a_cache_that_was_filled_without_guidance_is_refused_by_name(settings):
    model = shared_model()
    cache = StaticCache(config=model.config, max_cache_len=64)
    model.generate(**prompts(1), past_key_values=cache, max_new_tokens=2)
    with guarded(model, policy(1e6)) as wrapped, pytest.raises(UnsupportedGenerationError, match="past_key_values"):
        wrapped.generate(**prompts(1), past_key_values=cache, max_new_tokens=2, **settings)


@pytest.mark.parametrize("settings", [{"num_beams": 2}, SAMPLED], ids=["beams", "sampled"])
def test_a_pipeline_returns_guided_and_refused_answers(settings):
    model = fresh_model()
    chats = [conversation(text) for text in ("hello there", "how to cook")]
    count = settings.get("num_return_sequences", 1)
    with guarded(model, policy(-1e6, "refuse"), registry=registry_for(shared_model())) as wrapped:
        generator = pipeline("text-generation", model=wrapped, tokenizer=tokenizer())
        with wrapped.guard.collect() as reports:
            found = generator(chats, max_new_tokens=30, return_full_text=False, **settings)
    assert [[one["generated_text"] for one in each] for each in found] == [[TEMPLATE] * count] * 2
    assert len(reports) == 2 * count


@pytest.mark.parametrize("settings", [{"num_beams": 2}, SAMPLED], ids=["beams", "sampled"])
def test_inference_mode_changes_nothing(settings):
    batch = prompts(4)
    with guarded(shared_model(), policy(split_of(shared_model(), 4))) as wrapped:
        plain, _ = run(wrapped, batch, **settings)
        with torch.inference_mode():
            found, _ = run(wrapped, batch, **settings)
    assert torch.equal(plain, found)
