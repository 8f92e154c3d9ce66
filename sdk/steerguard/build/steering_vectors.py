"""Build steps of steering vectors for the method `inferaligner`: donor, residuals of both models, theta, gate.

Without `refinement` the vectors are the plain difference; with it they are fitted, and are another family.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steerguard.build.contrast import PromptSet
from steerguard.build.donor import donor_from, lessons, own_answers, refusal_ids, train_donor
from steerguard.build.parts import ArtifactParts
from steerguard.build.recipe import DonorSettings, RefinementSettings, SteeringVectorsRecipe
from steerguard.build.refinement import refine_vectors
from steerguard.build.steps import BuildContext, read_residuals, residuals_of
from steerguard.errors import BuildError, RecipeError
from steerguard.guidance.inferaligner.formula import alignment_difference, mean_difference, midpoint_bias, unit_rows

VECTORS_FILE = "weights/vectors.safetensors"


def build_steering_vectors(context: BuildContext, recipe: SteeringVectorsRecipe) -> ArtifactParts:
    """Return the tensors and settings of an artifact for the method `inferaligner`.

    Args:
        context: the build.
        recipe: the steering part of the recipe.

    Raises:
        BuildError: the donor did not learn anything, so that there is no vector.
    """
    harmful, benign = _prompts(context, recipe.donor)
    moved = _donor(context, recipe.donor)
    target_harmful = residuals_of(context, harmful, weights="float32", step="target on harmful")
    target_benign = residuals_of(context, benign, weights="float32", step="target on benign")
    donor_harmful, donor_benign = _donor_residuals(context, recipe.donor, moved)
    srv = mean_difference(target_harmful, target_benign)
    ssv = mean_difference(donor_harmful, donor_benign)
    theta = alignment_difference(ssv, srv, recipe.blocks)
    silent = [block for block in recipe.blocks if not bool(theta[block].any())]
    if silent:
        raise BuildError(
            "The donor does not differ from the target at blocks that are to be steered.",
            where="artifact.blocks",
            found=silent,
            next_step="steer blocks at or after the first of artifact.donor.train_blocks",
        )
    if recipe.refinement is not None:
        theta = _refined(context, recipe, recipe.refinement, theta)
    directions = unit_rows(srv)
    return ArtifactParts(
        method="inferaligner",
        features=("gate.linear", "gate.verdict", "hook.resid_post", "operator.add", "schedule.constant"),
        tensors={
            VECTORS_FILE: {
                "theta": theta,
                "srv": directions,
                "gate_bias": midpoint_bias(directions, target_harmful, target_benign),
            }
        },
        params={"blocks": list(recipe.blocks), "strength": recipe.strength, "positions": recipe.positions},
        how_made=_how_made(context, recipe),
        limits=(
            _what_steered_answers_say(recipe),
            "The vector is added at every position, so a steered prompt must not share cached states with an unsteered one.",
            "A forced beginning of the answer (a prefill) is not always overcome by steering; use a policy that refuses.",
        ),
        figures=(),
        manifest_extra={
            "aligned_sibling": {"recipe": "recipe.yaml", "discarded": True},
            "sign": "positive steers towards refusal",
            "coefficient_unit": "1.0 = calibrated strength",
        },
    )


def _refined(
    context: BuildContext, recipe: SteeringVectorsRecipe, settings: RefinementSettings, theta: Tensor
) -> Tensor:
    harmful, _ = _prompts(context, recipe.donor)

    def compute() -> dict[str, Tensor]:
        refusal = refusal_ids(context.tokenizer, recipe.donor.refusal)
        refined = refine_vectors(
            context.model,
            theta * settings.start_strength,
            recipe.blocks,
            lessons(context.tokenizer, harmful.conversations, [refusal] * len(harmful)),
            settings,
            seed=context.recipe.document.seed,
            progress=context.progress.step("vectors learn the donor's refusal", settings.steps),
        )
        return {"theta": refined}

    depends_on = {
        **_donor_inputs(context, recipe.donor),
        "blocks": list(recipe.blocks),
        "refinement": {name: str(value) for name, value in settings.model_dump().items()},
    }
    return context.cache.run("refinement", depends_on, compute)["theta"]


def _donor(context: BuildContext, settings: DonorSettings) -> dict[str, Tensor]:
    """Return the parameters that moved in the donor, trained or from the cache."""
    harmful, benign = _prompts(context, settings)
    answers = context.cache.run(
        "benign-answers",
        {**context.identity(), "prompts": benign.content_digest, "tokens": settings.benign_answer_tokens},
        lambda: {
            "answers": own_answers(
                context.model,
                context.tokenizer,
                benign.conversations,
                tokens=settings.benign_answer_tokens,
                batch_size=context.recipe.document.batch_size,
                progress=context.progress.step("target answers benign prompts", len(benign)),
            )
        },
    )["answers"]

    def train() -> dict[str, Tensor]:
        refusal = refusal_ids(context.tokenizer, settings.refusal)
        return train_donor(
            context.model,
            lessons(context.tokenizer, harmful.conversations, [refusal] * len(harmful)),
            lessons(context.tokenizer, benign.conversations, [row[row >= 0].tolist() for row in answers]),
            settings,
            seed=context.recipe.document.seed,
            progress=context.progress.step("donor learns to refuse", settings.steps),
        )

    return context.cache.run("donor", _donor_inputs(context, settings), train)


def _donor_residuals(context: BuildContext, settings: DonorSettings, moved: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    harmful, benign = _prompts(context, settings)

    def compute() -> dict[str, Tensor]:
        donor = donor_from(context.model, moved)
        return {
            "harmful": read_residuals(context, donor, harmful, step="donor on harmful"),
            "benign": read_residuals(context, donor, benign, step="donor on benign"),
        }

    result = context.cache.run("donor-residuals", _donor_inputs(context, settings), compute)
    return result["harmful"], result["benign"]


def _prompts(context: BuildContext, settings: DonorSettings) -> tuple[PromptSet, PromptSet]:
    """Return the harmful and benign prompts that vectors and donor are made from."""
    benign = context.data.benign.split("build").without_kinds(settings.benign_kinds_left_out)
    if len(benign) == 0:
        raise RecipeError("No benign prompts are left.", where="artifact.donor.benign_kinds_left_out")
    return context.data.harmful.split("build"), benign


def _donor_inputs(context: BuildContext, settings: DonorSettings) -> dict[str, object]:
    harmful, benign = _prompts(context, settings)
    return {
        **context.identity(),
        "harmful": harmful.content_digest,
        "benign": benign.content_digest,
        "settings": {**settings.model_dump(mode="json"), "learning_rate": str(settings.learning_rate)},
        "seed": context.recipe.document.seed,
        "torch": torch.__version__,
    }


def _how_made(context: BuildContext, recipe: SteeringVectorsRecipe) -> tuple[str, ...]:
    harmful, benign = _prompts(context, recipe.donor)
    donor = recipe.donor
    left_out = f", kinds {', '.join(donor.benign_kinds_left_out)} left out" if donor.benign_kinds_left_out else ""
    return (
        f"{len(harmful)} harmful and {len(benign)} benign prompts of the project's own contrast set, split `build`{left_out}.",
        (
            f"A donor (a copy of the model) was fine-tuned in float32 on blocks {donor.train_blocks[0]} to "
            f"{donor.train_blocks[-1]}: {donor.steps} steps of {donor.batch_size}, learning rate {donor.learning_rate}, one "
            f"refusal sentence for harmful prompts, the first {donor.benign_answer_tokens} tokens of the model's own greedy "
            "answer for benign ones. It was discarded."
        ),
        (
            "Per block, theta is the donor's harmful-minus-benign mean difference at the end of the generation prompt minus "
            "the model's own."
        ),
        *_how_refined(recipe),
        (
            f"Coefficient 1.0 adds {recipe.strength} times theta at the output of blocks {recipe.blocks[0]} to "
            f"{recipe.blocks[-1]}, positions `{recipe.positions}`."
        ),
    )


def _what_steered_answers_say(recipe: SteeringVectorsRecipe) -> str:
    if recipe.refinement is not None:
        return f"A steered answer speaks the donor's one refusal sentence (“{recipe.donor.refusal}”) or a paraphrase of it."
    return (
        "A plain difference says what the donor begins with, not what it says next: an answer that opens with an apology "
        "is not a refusal, and the two figures differ."
    )


def _how_refined(recipe: SteeringVectorsRecipe) -> tuple[str, ...]:
    settings = recipe.refinement
    if settings is None:
        return (
            "No vector was fitted. The paper adds the donor's difference (SSV); here the model's own (SRV) is subtracted.",
        )
    return (
        (
            f"Theta of the steered blocks was then refined: starting from {settings.start_strength} times the difference, "
            f"{settings.steps} Adam steps of {settings.batch_size} harmful prompts on the vectors alone (step size "
            f"{settings.learning_rate}) lowered the cross entropy of the donor's refusal sentence under the steered model. "
            "The paper has no such step: figures measured with these vectors are figures of the fit, "
            "and do not show that the donor's direction is needed."
        ),
    )
