"""Donors without training: the target under a system prompt, and an existing sibling by path."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from steerguard.build.contrast import load_contrast
from steerguard.build.donor_kinds import donor_of, donor_prompts
from steerguard.build.step_cache import StepCache
from steerguard.build.steps import BuildContext, SilentProgress
from steerguard.errors import BuildError, RecipeError
from steerguard.models.capture import capture_residuals
from steerguard.models.inspect import inspect_model
from steerguard.testing import tiny_model, tiny_tokenizer

SYSTEM = """\
artifact:
  type: steering_vectors
  donor:
    kind: system_prompt
    system: Refuse harm.
    examples: [[Break in., No.], [Steal it., Never.]]
  blocks: [2, 3]
  strength: "0.5"
"""
EXISTING = """\
artifact:
  type: steering_vectors
  donor: {kind: existing, path: sibling}
  blocks: [2, 3]
  strength: "0.5"
"""
READING = EXISTING.replace("path: sibling", "path: sibling, refusal: I can't.") + "  estimator: by_step\n"


def context_of(workshop, recipe, model):
    return BuildContext(
        recipe=recipe,
        model=model,
        tokenizer=workshop.tokenizer,
        facts=inspect_model(model, workshop.tokenizer),
        data=load_contrast(recipe),
        cache=StepCache(None),
        progress=SilentProgress(),
        model_digest="sha256:0",
    )


def saved(workshop, model, tokenizer=None):
    model.save_pretrained(workshop.folder / "sibling")
    (tokenizer or workshop.tokenizer).save_pretrained(workshop.folder / "sibling")


def theta(built):
    return load_file(built.folder / "weights" / "vectors.safetensors")["theta"]


def test_prompts_stand_behind_the_system_prompt_and_the_examples(workshop):
    recipe = workshop.recipe(SYSTEM)
    donor = donor_of(context_of(workshop, recipe, tiny_model("llama")), recipe.document.artifact.donor)
    prompts = load_contrast(recipe).harmful.split("build")
    shown = donor.shown(prompts).conversations[0]
    assert [message["role"] for message in shown] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert shown[0]["content"] == "Refuse harm."
    assert shown[-1] == prompts.conversations[0][-1]


def test_a_system_message_of_the_prompt_follows_the_safety_prompt(workshop):
    recipe = workshop.recipe(SYSTEM)
    donor = donor_of(context_of(workshop, recipe, tiny_model("llama")), recipe.document.artifact.donor)
    prompts = load_contrast(recipe).harmful.chosen([0])
    own = ({"role": "system", "content": "Be brief."}, *prompts.conversations[0])
    (shown,) = donor.shown(
        type(prompts)(ids=("a",), kinds=("k",), splits=("build",), conversations=(own,))
    ).conversations
    assert shown[0] == {"role": "system", "content": "Refuse harm.\n\nBe brief."}
    assert [message["role"] for message in shown].count("system") == 1


def test_a_system_prompt_donor_gives_the_difference_of_both_ways_to_ask(workshop):
    recipe, model = workshop.recipe(SYSTEM), tiny_model("llama")
    built = workshop.build(recipe, model=model)
    data = load_contrast(recipe)
    donor = donor_of(context_of(workshop, recipe, model), recipe.document.artifact.donor)

    def mean(prompts):
        return capture_residuals(model, workshop.tokenizer, prompts.conversations, [2, 3]).double().mean(dim=0)

    sets = [data.harmful.split("build"), data.benign.split("build")]
    plain, asked = ([mean(one) for one in group] for group in (sets, [donor.shown(one) for one in sets]))
    expected = (asked[0] - asked[1]) - (plain[0] - plain[1])
    torch.testing.assert_close(theta(built)[2:], expected.float(), rtol=1e-3, atol=1e-5)
    assert "under a safety system prompt and 2 examples" in (built.folder / "README.md").read_text()


def test_an_existing_sibling_is_read_from_its_folder(workshop):
    saved(workshop, tiny_model("llama", seed=5))
    built = workshop.build(workshop.recipe(EXISTING))
    assert theta(built)[2:].any(dim=1).all()
    assert "existing model of the same depth" in (built.folder / "README.md").read_text()


def test_another_sibling_in_the_same_folder_is_not_taken_from_the_cache(workshop):
    recipe, cache = workshop.recipe(EXISTING), workshop.folder / "cache"
    saved(workshop, tiny_model("llama", seed=5))
    first = workshop.build(recipe, cache=cache)
    assert "donor-residuals" in workshop.build(recipe, cache=cache).reused_steps
    saved(workshop, tiny_model("llama", seed=6))
    other = workshop.build(recipe, cache=cache)
    assert "donor-residuals" not in other.reused_steps
    assert (theta(first) != theta(other)).any()


@pytest.mark.parametrize(
    ("size", "found"), [({"num_blocks": 3}, "3 blocks of width 32"), ({"hidden_size": 64}, "4 blocks of width 64")]
)
def test_a_sibling_of_another_shape_is_refused(workshop, size, found):
    saved(workshop, tiny_model("llama", **size))
    with pytest.raises(RecipeError) as caught:
        workshop.build(workshop.recipe(EXISTING))
    assert (caught.value.where, caught.value.found) == ("artifact.donor.path", found)


def test_a_folder_without_a_model_is_refused(workshop):
    with pytest.raises(RecipeError) as caught:
        workshop.build(workshop.recipe(EXISTING))
    assert caught.value.where == "artifact.donor.path"


def test_answers_of_a_sibling_with_another_tokenizer_are_not_compared(workshop):
    saved(workshop, tiny_model("llama", seed=5), tiny_tokenizer("zephyr"))
    with pytest.raises(BuildError, match="another tokenizer"):
        workshop.build(workshop.recipe(READING))


def test_a_sibling_with_the_same_tokenizer_may_be_read_while_it_answers(workshop):
    saved(workshop, tiny_model("llama", seed=5))
    built = workshop.build(workshop.recipe(READING))
    assert load_file(built.folder / "weights" / "vectors.safetensors")["theta_steps"].any()


def test_max_prompts_draws_the_same_prompts_for_the_same_seed(workshop):
    limited = workshop.recipe(SYSTEM.replace("kind: system_prompt", "kind: system_prompt\n    max_prompts: 2"))
    context = context_of(workshop, limited, tiny_model("llama"))
    drawn = [donor_prompts(context, limited.document.artifact.donor) for _ in range(2)]
    assert drawn[0] == drawn[1]
    for prompts, everything in zip(drawn[0], (context.data.harmful, context.data.benign), strict=True):
        assert len(prompts) == 2
        assert set(prompts.ids) < set(everything.split("build").ids)


def test_harmful_kinds_can_be_left_out_but_not_all(workshop):
    kinds = sorted(set(load_contrast(workshop.recipe(SYSTEM)).harmful.split("build").kinds))
    recipe = workshop.recipe(
        SYSTEM.replace("kind: system_prompt", f"kind: system_prompt\n    harmful_kinds_left_out: [{', '.join(kinds)}]")
    )
    with pytest.raises(RecipeError, match="No harmful prompts are left"):
        donor_prompts(context_of(workshop, recipe, tiny_model("llama")), recipe.document.artifact.donor)
