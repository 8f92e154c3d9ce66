"""Build steps of a refusal direction: what is contrasted, and the difference of means.

    prompts   r_l = mean over harmful of h_l - mean over benign of h_l          at the end of the generation prompt
    answers   r_l = mean of h_l while refusing - mean of h_l while answering    over answer positions, harmful prompts

Reference: Arditi et al., arXiv 2406.11717, section 2.3, for `prompts`. The paper takes the difference at several positions
after the instruction and picks block and position by three measures; here the position is the end of the generation
prompt, where verdicts are read as well, and the recipe names the block. `answers` is for a model that was not trained to
refuse: harmful and benign prompts then differ in harm alone, so what refusing looks like is read from forced refusals.
"""

from __future__ import annotations

from torch import Tensor

from steerguard.build.contrast import PromptSet
from steerguard.build.donor_kinds import drawn_for_build, own_first_ids
from steerguard.build.estimators import answer_contrast
from steerguard.build.parts import ArtifactParts
from steerguard.build.recipe_refusal_direction import RefusalDirectionRecipe
from steerguard.build.steps import BuildContext, residuals_of
from steerguard.build.vector_inputs import VectorInputs, answer_means_of
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
    theta, made, limit = _answers(context, recipe) if recipe.contrast == "answers" else _differences(context, recipe)
    silent = [block for block in recipe.blocks if not bool(theta[block].any())]
    if silent:
        raise BuildError(
            "What is contrasted does not differ at blocks that are to be steered.",
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
                f"Mode `add` at coefficient 1.0 adds {recipe.strength} times theta at the output of blocks {blocks}, "
                f"positions `{recipe.positions}`. Mode `ablate` removes the component along theta of block {source} at "
                "the input and the output of every block."
            ),
        ),
        limits=(
            limit,
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


_BY_PROMPTS = (
    "Per block, theta is the mean over harmful minus the mean over benign prompts of the float32 residual at the end of the "
    "generation prompt. Nothing was trained or fitted."
)
_HARM_ALONE = (
    "A difference of harmful and benign prompts says `harmful`; it says `refuse` only in a model that was trained to refuse "
    "harmful prompts."
)


def _differences(context: BuildContext, recipe: RefusalDirectionRecipe) -> tuple[Tensor, tuple[str, ...], str]:
    """Return harmful minus benign prompts, float32 `[num_blocks, width]`, what it was taken from, and its limit."""
    if recipe.donor is not None:
        residuals = VectorInputs(context, recipe.donor).residuals()
        theta = mean_difference(residuals.donor_harmful, residuals.donor_benign)
        made = (*how_donor_was_made(context, recipe.donor), "The means are those of the donor.", _BY_PROMPTS)
        return theta, made, _HARM_ALONE
    harmful, benign = _prompts(context, recipe, "harmful"), _prompts(context, recipe, "benign")
    theta = mean_difference(
        residuals_of(context, harmful, weights="float32", step="target on harmful"),
        residuals_of(context, benign, weights="float32", step="target on benign"),
    )
    prompts = (
        f"{len(harmful)} harmful and {len(benign)} benign prompts of the project's own contrast set, split `build`"
    )
    left_out = _left_out(recipe.harmful_kinds_left_out, recipe.benign_kinds_left_out)
    return theta, (f"{prompts}{left_out}.", "The means are those of the model itself.", _BY_PROMPTS), _HARM_ALONE


def _answers(context: BuildContext, recipe: RefusalDirectionRecipe) -> tuple[Tensor, tuple[str, ...], str]:
    """Return refusing minus answering, float32 `[num_blocks, width]`, what it was taken from, and its limit."""
    assert recipe.wordings is not None, "the recipe checks that this contrast has refusals"
    harmful = _prompts(context, recipe, "harmful")
    refusals = [tuple(context.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in recipe.wordings]
    forced = [refusals[number % len(refusals)] for number in range(len(harmful))]
    positions = recipe.response_tokens or max(len(refusal) for refusal in refusals)
    own = own_first_ids(context, harmful, positions)
    theta = answer_contrast(
        answer_means_of(context, harmful, forced, step="target refusing"),
        answer_means_of(context, harmful, own, step="target complying"),
    )
    prompts = f"{len(harmful)} harmful prompts of the project's own contrast set, split `build`"
    made = (
        f"{prompts}{_left_out(recipe.harmful_kinds_left_out)}.",
        (
            f"The model itself was read twice after each of them: with a refusal forced, {_in_turn(recipe.wordings)}, and with "
            f"the first {positions} tokens of its own greedy answer."
        ),
        (
            "Per block, theta is the mean while refusing minus the mean while answering of the float32 residual, over the "
            "answer's positions. Nothing was trained or fitted, and no other model was read."
        ),
        "The paper contrasts harmful with benign prompts; in a model that was not trained to refuse they differ in harm alone.",
    )
    return theta, made, "Steered answers sound like the refusals that were forced, and may repeat themselves."


def _in_turn(wordings: tuple[str, ...]) -> str:
    return f'"{wordings[0]}"' if len(wordings) == 1 else f"{len(wordings)} wordings in turn"


def _left_out(*kinds: tuple[str, ...]) -> str:
    named = [kind for group in kinds for kind in group]
    return f", kinds {', '.join(named)} left out" if named else ""


def _prompts(context: BuildContext, recipe: RefusalDirectionRecipe, name: str) -> PromptSet:
    prompts = context.data.harmful if name == "harmful" else context.data.benign
    left_out = recipe.harmful_kinds_left_out if name == "harmful" else recipe.benign_kinds_left_out
    return drawn_for_build(context, prompts, left_out, recipe.max_prompts, where=f"artifact.{name}_kinds_left_out")
