"""Build steps of a refusal direction: residuals of harmful and benign prompts, and their difference of means.

    r_l = mean over harmful of h_l - mean over benign of h_l          at the end of the generation prompt

Reference: Arditi et al., arXiv 2406.11717, section 2.3. The paper takes the difference at several positions after the
instruction and picks block and position by three measures; here the position is the end of the generation prompt, where
verdicts are read as well, and the recipe names the block.
"""

from __future__ import annotations

from torch import Tensor

from steerguard.build.contrast import PromptSet
from steerguard.build.donor_kinds import drawn_for_build
from steerguard.build.parts import ArtifactParts
from steerguard.build.recipe_refusal_direction import RefusalDirectionRecipe
from steerguard.build.steps import BuildContext, residuals_of
from steerguard.build.vector_inputs import VectorInputs
from steerguard.build.vectors_card import how_donor_was_made
from steerguard.errors import BuildError
from steerguard.guidance.inferaligner.formula import mean_difference
from steerguard.guidance.vector_schedules import VECTORS_FILE


def build_refusal_direction(context: BuildContext, recipe: RefusalDirectionRecipe) -> ArtifactParts:
    """Return the tensors and settings of an artifact for the method `refusal_direction`.

    Args:
        context: the build.
        recipe: the steering part of the recipe.

    Raises:
        RecipeError: no prompts of a class are left.
        BuildError: a block that the recipe names has no difference.
    """
    theta, made = _differences(context, recipe)
    silent = [block for block in recipe.blocks if not bool(theta[block].any())]
    if silent:
        raise BuildError(
            "Harmful and benign prompts do not differ at blocks that are to be steered.",
            where="artifact.blocks",
            found=silent,
            next_step="name other blocks, or look whether both prompt files hold the same prompts",
        )
    blocks, source = ", ".join(str(block) for block in recipe.blocks), recipe.blocks[0]
    return ArtifactParts(
        method="refusal_direction",
        features=(
            "gate.verdict",
            "hook.resid_post",
            "hook.resid_pre",
            "operator.ablate",
            "operator.add",
            "schedule.constant",
        ),
        tensors={VECTORS_FILE: {"theta": theta}},
        params={
            "ablated_blocks": list(range(context.facts.num_blocks)),
            "blocks": list(recipe.blocks),
            "positions": recipe.positions,
            "source_block": source,
            "strength": recipe.strength,
        },
        how_made=(
            *made,
            (
                "Per block, theta is the mean over harmful minus the mean over benign prompts of the float32 residual at "
                "the end of the generation prompt. Nothing was trained or fitted."
            ),
            (
                f"Mode `add` at coefficient 1.0 adds {recipe.strength} times theta at the output of blocks {blocks}, "
                f"positions `{recipe.positions}`. Mode `ablate` removes the component along theta of block {source} at "
                "the input and the output of every block."
            ),
        ),
        limits=(
            (
                "A difference of harmful and benign prompts says `harmful`; it says `refuse` only in a model that was "
                "trained to refuse harmful prompts."
            ),
            "Mode `ablate` takes refusals away.",
            "Prompt positions may be changed too, so a steered prompt must not share cached states with an unsteered one.",
        ),
        figures=(),
        manifest_extra={
            **({"aligned_sibling": {"recipe": "recipe.yaml", "discarded": True}} if recipe.donor is not None else {}),
            "sign": "positive steers towards refusal",
            "coefficient_unit": "1.0 = calibrated strength (add), the whole component (ablate)",
        },
    )


def _differences(context: BuildContext, recipe: RefusalDirectionRecipe) -> tuple[Tensor, tuple[str, ...]]:
    """Return the difference of every block, float32 `[num_blocks, width]`, and sentences on what it was taken from."""
    if recipe.donor is not None:
        residuals = VectorInputs(context, recipe.donor).residuals()
        return mean_difference(residuals.donor_harmful, residuals.donor_benign), (
            *how_donor_was_made(context, recipe.donor),
            "The means are those of the donor.",
        )
    harmful, benign = _prompts(context, recipe, "harmful"), _prompts(context, recipe, "benign")
    left_out = (*recipe.harmful_kinds_left_out, *recipe.benign_kinds_left_out)
    without = f", kinds {', '.join(left_out)} left out" if left_out else ""
    return mean_difference(
        residuals_of(context, harmful, weights="float32", step="target on harmful"),
        residuals_of(context, benign, weights="float32", step="target on benign"),
    ), (
        (
            f"{len(harmful)} harmful and {len(benign)} benign prompts of the project's own contrast set, split "
            f"`build`{without}."
        ),
        "The means are those of the model itself.",
    )


def _prompts(context: BuildContext, recipe: RefusalDirectionRecipe, name: str) -> PromptSet:
    prompts = context.data.harmful if name == "harmful" else context.data.benign
    left_out = recipe.harmful_kinds_left_out if name == "harmful" else recipe.benign_kinds_left_out
    return drawn_for_build(context, prompts, left_out, recipe.max_prompts, where=f"artifact.{name}_kinds_left_out")
