"""Build steps of vectors for the method `fitted_refusal`: where to start, the fit, and what the card says of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steerguard.build.contrast import PromptSet
from steerguard.build.donor import Lesson, lessons, refusal_ids
from steerguard.build.donor_kinds import drawn_for_build, own_first_ids
from steerguard.build.estimators import on_blocks, ssv_minus_srv
from steerguard.build.fitting import fit_vectors
from steerguard.build.parts import ArtifactParts
from steerguard.build.recipe_vectors import FittedRefusalRecipe
from steerguard.build.steps import BuildContext
from steerguard.build.vector_inputs import VectorInputs
from steerguard.build.vectors_card import how_donor_was_made
from steerguard.guidance.vector_schedules import VECTORS_FILE
from steerguard.models.chat import encode_prompts

# The last steps over which the card's loss is a mean: single steps are noisy.
_LAST_STEPS = 10


def build_fitted_refusal(context: BuildContext, recipe: FittedRefusalRecipe) -> ArtifactParts:
    """Return the tensors and settings of an artifact for the method `fitted_refusal`.

    Args:
        context: the build.
        recipe: the steering part of the recipe.

    Raises:
        RecipeError: no harmful prompts are left, or no benign ones to keep.
        BuildError: the loss is not finite, or the donor cannot be opened.
    """
    fitted = _fitted(context, recipe)
    return ArtifactParts(
        method="fitted_refusal",
        features=("gate.verdict", "hook.resid_post", "operator.add", "schedule.constant"),
        tensors={VECTORS_FILE: {"theta": fitted["theta"]}},
        params={"blocks": list(recipe.blocks), "strength": recipe.strength, "positions": recipe.positions},
        how_made=_how_made(context, recipe),
        limits=(
            (
                f"A steered answer speaks one of the {len(recipe.sentences)} sentences that the vectors were fitted to, "
                "or a paraphrase of one."
            ),
            "The vector is added at the positions named above, so a steered prompt must not share cached states with an unsteered one.",
            "A forced beginning of the answer (a prefill) is not always overcome by steering; use a policy that refuses.",
        ),
        figures=_figures(fitted["losses"], len(_harmful_prompts(context, recipe))),
        manifest_extra={
            **({"aligned_sibling": {"recipe": "recipe.yaml", "discarded": True}} if recipe.donor is not None else {}),
            "sign": "positive steers towards refusal",
            "coefficient_unit": "1.0 = calibrated strength",
        },
    )


def _fitted(context: BuildContext, recipe: FittedRefusalRecipe) -> dict[str, Tensor]:
    harmful, benign = _harmful_prompts(context, recipe), _kept_prompts(context, recipe)
    inputs = None if recipe.donor is None else VectorInputs(context, recipe.donor)
    settings = recipe.model_dump(mode="json", exclude={"donor", "strength", "type", "method"})
    depends_on: dict[str, Any] = {
        **context.batched_identity(),
        "harmful": harmful.content_digest,
        "benign": None if benign is None else benign.content_digest,
        "start": None if inputs is None else dict(inputs.donor.identity),
        "settings": {name: str(value) if isinstance(value, float) else value for name, value in settings.items()},
        "seed": context.recipe.document.seed,
        "torch": torch.__version__,
    }

    def compute() -> dict[str, Tensor]:
        start = torch.zeros(context.facts.num_blocks, context.facts.hidden_size)
        if inputs is not None:
            start = on_blocks(ssv_minus_srv(inputs.residuals()), recipe.blocks) * recipe.start_strength
        kept: list[Lesson] = []
        if benign is not None:
            answers = own_first_ids(context, benign, recipe.keep_answer_tokens)
            kept = lessons(context.tokenizer, benign.conversations, answers)
        theta, losses = fit_vectors(
            context.model,
            start,
            [prompt.ids for prompt in encode_prompts(context.tokenizer, harmful.conversations)],
            [refusal_ids(context.tokenizer, sentence) for sentence in recipe.sentences],
            kept,
            recipe,
            seed=context.recipe.document.seed,
            progress=context.progress.step("vectors learn to refuse", recipe.steps),
        )
        return {"theta": theta, "losses": losses}

    return context.cache.run("fitted-refusal", depends_on, compute)


def _harmful_prompts(context: BuildContext, recipe: FittedRefusalRecipe) -> PromptSet:
    left_out, where = recipe.harmful_kinds_left_out, "artifact.harmful_kinds_left_out"
    return drawn_for_build(context, context.data.harmful, left_out, recipe.max_prompts, where=where)


def _kept_prompts(context: BuildContext, recipe: FittedRefusalRecipe) -> PromptSet | None:
    if recipe.keep_weight == 0:
        return None
    left_out, where = recipe.keep_kinds_left_out, "artifact.keep_kinds_left_out"
    return drawn_for_build(context, context.data.benign, left_out, recipe.max_prompts, where=where)


def _figures(losses: Tensor, harmful: int) -> tuple[dict[str, Any], ...]:
    last = losses[-_LAST_STEPS:]
    return tuple(
        {
            "id": f"build_fit_loss_{name}",
            "title": f"cross entropy of the sentences, {described}",
            "set": "own harmful prompts, split build",
            "value": f"{float(values.mean()):.4f}",
            "n": harmful,
            "weights": "float32",
        }
        for name, described, values in (
            ("first", "first step", losses[:1]),
            ("last", f"mean of the last {len(last)} steps", last),
        )
    )


def _how_made(context: BuildContext, recipe: FittedRefusalRecipe) -> tuple[str, ...]:
    harmful, benign = _harmful_prompts(context, recipe), _kept_prompts(context, recipe)
    kinds = recipe.harmful_kinds_left_out
    left_out = f", kinds {', '.join(kinds)} left out" if kinds else ""
    sentences = [f"{len(harmful)} harmful prompts of the project's own contrast set, split `build`{left_out}."]
    if recipe.donor is None:
        begin = "zero"
    else:
        sentences += how_donor_was_made(context, recipe.donor)
        begin = f"{recipe.start_strength} times the donor's difference SSV - SRV"
    sentences.append(
        f"The vectors of the steered blocks were fitted by gradient, starting from {begin}: {recipe.steps} Adam steps of "
        f"{recipe.batch_size} harmful prompts (step size {recipe.learning_rate}, falling to a tenth) lowered the cross "
        f"entropy of {len(recipe.sentences)} refusal sentences, one drawn per example, under the steered model. "
        "No weight of the model moved."
    )
    if benign is not None:
        sentences.append(
            f"Each step also held the steered model to the first {recipe.keep_answer_tokens} tokens of its own answers to "
            f"{len(benign)} benign prompts, weight {recipe.keep_weight}."
        )
    sentences.append(
        "No paper has these steps: figures measured with these vectors are figures of the fit, not of InferAligner."
    )
    sentences.append(
        f"Coefficient 1.0 adds {recipe.strength} times theta at the output of blocks "
        f"{', '.join(str(block) for block in recipe.blocks)}, positions `{recipe.positions}`."
    )
    return tuple(sentences)
