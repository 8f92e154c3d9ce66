"""Build steps of steering vectors for the method `inferaligner`: donor, residuals, estimator, search, gate.

All vectors are closed forms of residuals. Vectors fitted by gradient are a method of their own, `fitted_refusal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from steerguard.build.estimators import (
    Residuals,
    answer_contrast,
    by_phase,
    by_step,
    cross,
    cross_centred,
    on_blocks,
    response_mean,
    ssv,
    ssv_minus_srv,
)
from steerguard.build.parts import ArtifactParts
from steerguard.build.recipe_vectors import SCHEDULES, Estimator, SteeringVectorsRecipe
from steerguard.build.search import ChosenVectors, search_vectors
from steerguard.build.steps import BuildContext
from steerguard.build.vector_inputs import VectorInputs
from steerguard.build.vectors_card import how_donor_was_made, how_estimated
from steerguard.errors import BuildError
from steerguard.guidance.inferaligner.formula import mean_difference, midpoint_bias, unit_rows
from steerguard.guidance.vector_schedules import VECTORS_FILE

_CONSTANT = {"ssv": ssv, "ssv_minus_srv": ssv_minus_srv, "cross": cross, "cross_centred": cross_centred}


def build_steering_vectors(context: BuildContext, recipe: SteeringVectorsRecipe) -> ArtifactParts:
    """Return the tensors and settings of an artifact for the method `inferaligner`.

    Args:
        context: the build.
        recipe: the steering part of the recipe.

    Raises:
        BuildError: the donor did not learn anything, so that there is no vector, or no setting of the search is within
            its limits.
    """
    inputs = VectorInputs(context, recipe.donor)
    residuals = inputs.residuals()
    vectors = {name: _estimate(name, inputs, residuals, recipe) for name in recipe.tried_estimators}
    if recipe.search is not None:
        chosen = search_vectors(context, recipe, recipe.search, vectors)
    else:
        assert recipe.blocks is not None
        assert recipe.strength is not None
        estimator = recipe.tried_estimators[0]
        constant = estimator not in SCHEDULES
        chosen = ChosenVectors(
            estimator=estimator,
            blocks=recipe.blocks,
            strength=recipe.strength,
            positions=(recipe.positions or "all") if constant else None,
        )
    kept = {name: on_blocks(tensor, chosen.blocks) for name, tensor in vectors[chosen.estimator].items()}
    _check_not_silent(kept, chosen.blocks)
    srv = mean_difference(residuals.target_harmful, residuals.target_benign)
    directions = unit_rows(srv)
    schedule = SCHEDULES.get(chosen.estimator, "constant")
    return ArtifactParts(
        method="inferaligner",
        features=("gate.linear", "gate.verdict", "hook.resid_post", "operator.add", f"schedule.{schedule}"),
        tensors={
            VECTORS_FILE: {
                **kept,
                "srv": directions,
                "gate_bias": midpoint_bias(directions, residuals.target_harmful, residuals.target_benign),
            }
        },
        params=_params(chosen, kept, schedule),
        how_made=(
            *how_donor_was_made(context, recipe.donor),
            how_estimated(chosen.estimator),
            "No vector was fitted.",
            _what_is_added(chosen, schedule),
        ),
        limits=_limits(chosen),
        figures=(),
        compared=() if chosen.compared is None else (chosen.compared,),
        manifest_extra={
            "aligned_sibling": {"recipe": "recipe.yaml", "discarded": True},
            "sign": "positive steers towards refusal",
            "coefficient_unit": "1.0 = calibrated strength",
        },
    )


def _estimate(
    estimator: Estimator, inputs: VectorInputs, residuals: Residuals, recipe: SteeringVectorsRecipe
) -> dict[str, Tensor]:
    """Return the tensors of one estimator at every block, by name."""
    match estimator:
        case "by_phase":
            return by_phase(inputs.answers(with_benign=False), recipe.response_tokens)
        case "by_step":
            return by_step(inputs.answers(with_benign=False), recipe.response_tokens)
        case "answer_contrast":
            assert recipe.donor.refusal is not None
            refusing, complying = inputs.contrast(recipe.wordings or (recipe.donor.refusal,), recipe.response_tokens)
            return {"theta": answer_contrast(refusing, complying, recipe.response_tokens)}
        case "response_mean":
            return {"theta": response_mean(inputs.answers(with_benign=True), recipe.response_tokens)}
        case _:
            return {"theta": _CONSTANT[estimator](residuals)}


def _check_not_silent(vectors: Mapping[str, Tensor], blocks: tuple[int, ...]) -> None:
    silent = [block for block in blocks if not any(bool(tensor[..., block, :].any()) for tensor in vectors.values())]
    if silent:
        raise BuildError(
            "The donor does not differ from the target at blocks that are to be steered.",
            where="artifact.blocks",
            found=silent,
            next_step="steer blocks at or after the first of artifact.donor.train_blocks",
        )


def _params(chosen: ChosenVectors, vectors: Mapping[str, Tensor], schedule: str) -> dict[str, Any]:
    params: dict[str, Any] = {"blocks": list(chosen.blocks), "strength": chosen.strength}
    if chosen.positions is not None:
        params["positions"] = chosen.positions
    if schedule != "constant":
        params["schedule"] = schedule
    if "theta_steps" in vectors:
        params["steps"] = vectors["theta_steps"].shape[0]
    return params


def _what_is_added(chosen: ChosenVectors, schedule: str) -> str:
    where = f"positions `{chosen.positions}`" if chosen.positions is not None else f"schedule `{schedule}`"
    return (
        f"Coefficient 1.0 adds {chosen.strength} times theta at the output of blocks "
        f"{', '.join(str(block) for block in chosen.blocks)}, {where}."
    )


def _limits(chosen: ChosenVectors) -> tuple[str, ...]:
    if chosen.estimator == "by_step":
        says = "A steered answer speaks the refusal that was forced on the donor, word by word, and then runs on unsteered."
    else:
        says = (
            "A plain difference says what the donor begins with, not always what it says next: an answer that opens with "
            "an apology is not a refusal, and the two figures differ."
        )
    return (
        says,
        "Prompt positions may be changed too, so a steered prompt must not share cached states with an unsteered one.",
        "A forced beginning of the answer (a prefill) is not always overcome by steering; use a policy that refuses.",
    )
