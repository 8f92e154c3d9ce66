"""Sampled answers to each prompt, and what is read of them at the ends of blocks."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from pydantic import ValidationError

from steerguard.build.contrast import load_contrast
from steerguard.build.recipe_rollouts import OffPolicySettings, RolloutSettings
from steerguard.build.rollout_states import reads_at, states_of
from steerguard.build.rollouts import _Temperatures, rollouts_of
from steerguard.build.step_cache import StepCache
from steerguard.build.steps import BuildContext, SilentProgress
from steerguard.models.chat import encode_prompts
from steerguard.models.inspect import inspect_model
from steerguard.testing import tiny_model

SETTINGS = RolloutSettings(
    per_prompt=2,
    tokens=6,
    block_tokens=2,
    temperature=1.0,
    begin=("Sure", "To do this"),
    begin_share=0.5,
    off_policy=OffPolicySettings(per_prompt=1, temperature=2.0, tokens=2),
)


@pytest.fixture
def context(workshop):
    recipe = workshop.recipe()
    model = tiny_model("llama").eval()
    return BuildContext(
        recipe=recipe,
        model=model,
        tokenizer=workshop.tokenizer,
        facts=inspect_model(model, workshop.tokenizer),
        data=load_contrast(recipe),
        cache=StepCache(workshop.folder / "cache"),
        progress=SilentProgress(),
        model_digest="sha256:tiny",
    )


def answered(context, settings=SETTINGS):
    return rollouts_of(context, context.data.harmful.split("build"), settings, weights="float32", step="roll-outs")


def test_every_prompt_has_its_answers_and_they_differ(context):
    rollouts = answered(context)
    assert (len(rollouts), rollouts.per_prompt, rollouts.ids.shape[1]) == (12, 3, 6)
    assert rollouts.prompt_of.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert rollouts.hot.tolist() == [0, 0, 2] * 4
    for answers in rollouts.ids.unflatten(0, (4, 3)):
        assert len({tuple(row) for row in answers.tolist()}) == 3
    assert {begin is None for begin in rollouts.begins} == {True, False}


def test_answers_are_the_same_again_and_the_generator_is_left_alone(context):
    torch.manual_seed(11)
    first = answered(dataclasses.replace(context, cache=StepCache(None)))
    after = torch.rand(1)
    torch.manual_seed(11)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(first.ids, answered(dataclasses.replace(context, cache=StepCache(None))).ids)


def test_a_build_that_was_killed_goes_on_with_the_chunk_at_which_it_stopped(context, workshop):
    whole = answered(context)
    files = sorted((workshop.folder / "cache").glob("rollouts-*.safetensors"))
    # Batches of four hold one prompt with its three answers.
    assert len(files) == 4
    files[1].unlink()
    resumed = dataclasses.replace(context, cache=StepCache(workshop.folder / "cache"))
    assert torch.equal(answered(resumed).ids, whole.ids)
    assert resumed.cache.reused == ["rollouts"] * 3


def test_only_token_ids_are_kept(context, workshop):
    answered(context)
    for path in (workshop.folder / "cache").iterdir():
        assert b"break the lock" not in path.read_bytes()


def test_long_prompts_are_left_out_and_the_others_keep_their_answers(context):
    rows = context.data.harmful.split("build")
    begins = answered(context).begins
    lengths = [len(row.ids) for row in encode_prompts(context.tokenizer, rows.conversations, begins)]
    limit = sorted(lengths)[1]
    fewer = answered(context, SETTINGS.model_copy(update={"max_prompt_tokens": limit}))
    assert 1 < len(fewer.prompts) == sum(length <= limit for length in lengths) < 4
    kept = {name: place for place, name in enumerate(rows.ids)}
    whole = answered(context)
    for place, name in enumerate(fewer.prompts.ids):
        at = kept[name]
        assert fewer.begins[place] == whole.begins[at]
        assert torch.equal(fewer.ids[3 * place : 3 * place + 3], whole.ids[3 * at : 3 * at + 3])


def test_hot_answers_cool_down_behind_their_first_tokens():
    warm = _Temperatures(SETTINGS, torch.tensor([False, True]), width=5)
    scores = torch.ones(2, 3)
    assert warm(torch.zeros(2, 5), scores)[:, 0].tolist() == [1.0, 0.5]
    assert warm(torch.zeros(2, 6), scores)[:, 0].tolist() == [1.0, 0.5]
    assert warm(torch.zeros(2, 7), scores)[:, 0].tolist() == [1.0, 1.0]


def test_the_newest_token_of_an_unfinished_answer_and_the_end_of_a_turn_are_not_read():
    assert reads_at(torch.tensor([6, 4, 3, 1]), 2, 3).tolist() == [[1, 3, 5], [1, 3, 3], [1, 2, 2], [0, 0, 0]]


def test_states_are_those_of_a_forward_over_prompt_and_answer(context):
    rollouts = answered(context)
    ids = rollouts.ids.clone()
    # One answer ended with its fourth token, and one at once.
    ids[1, 4:], ids[2, 1:] = -1, -1
    rollouts = dataclasses.replace(rollouts, ids=ids)
    states = states_of(context, rollouts, (1, 3), block_tokens=2, weights="float32", step="states")
    assert states.read[:3].tolist() == [[1, 3, 5], [1, 3, 3], [0, 0, 0]]
    assert not states.means[2].any()
    assert not states.newest[2].any()
    prompts = encode_prompts(context.tokenizer, rollouts.prompts.conversations, rollouts.begins)
    for answer, of in enumerate(rollouts.prompt_of.tolist()):
        prompt = list(prompts[of].ids)
        for block in range(3):
            read = int(states.read[answer, block])
            if read == 0:
                continue
            row = torch.tensor([prompt + ids[answer, :read].tolist()])
            with torch.no_grad():
                hidden = context.model(row, output_hidden_states=True).hidden_states
            for part, number in enumerate((1, 3)):
                # The last entry of hidden_states is behind the final norm; block 3 is the last of this model's four.
                found = hidden[number + 1][0, len(prompt) :] if number < 3 else None
                if found is not None:
                    assert torch.allclose(states.means[answer, block, part], found.mean(dim=0), atol=1e-4)
                    assert torch.allclose(states.newest[answer, block, part].float(), found[-1], atol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        {"tokens": 7},
        {"tokens": 2},
        {"begin": ()},
        {"begin": ("Sure", "Sure")},
        {"off_policy": {"per_prompt": 1, "temperature": 2.0, "tokens": 3}},
        {"off_policy": {"per_prompt": 1, "temperature": 2.0, "tokens": 6}},
        {"temperature": 0.0},
        {"per_prompt": 1},
    ],
)
def test_settings_that_contradict_each_other_are_refused(changed):
    fields = {**SETTINGS.model_dump(), **changed}
    with pytest.raises(ValidationError):
        RolloutSettings.model_validate(fields)
