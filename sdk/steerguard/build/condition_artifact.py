"""Build steps of a cosine condition: directions between harmful and benign prompts, calibration, figures.

Reference: conditional activation steering (CAST), arXiv 2409.05907: the condition vector is the first principal
component of pairs of a prompt that meets the condition and one that does not, each pair centred on its midpoint, read as
the mean over the prompt (METHODS G2). Here the pairs are drawn by the recipe's seed, and what is read is the recipe's.
The first component of pairs of unlike prompts says how long they are and what shape they have; for such prompts there is
the direction of a logistic regression, which the paper does not have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steerguard.artifacts.probe_params import COSINE_FEATURE, COSINE_METHOD, PROMPT_MEAN_FEATURE, Part, probe_params
from steerguard.build.parts import ArtifactParts
from steerguard.build.probe_measures import benign_splits, calibrate, measured_figures, without
from steerguard.build.probes import fit_probe
from steerguard.build.recipe_probe import ConditionRecipe
from steerguard.build.steps import BuildContext, part_states_of
from steerguard.detect.cosine import CosineProbe
from steerguard.detect.probe import PROBE_FILE
from steerguard.errors import BuildError
from steerguard.guidance.inferaligner.formula import mean_difference, unit_rows


def build_condition(context: BuildContext, recipe: ConditionRecipe) -> ArtifactParts:
    """Return the tensors, settings and calibration of a condition.

    Args:
        context: the build.
        recipe: the condition part of the recipe.

    Raises:
        BuildError: harmful and benign prompts do not differ in a part.
        CalibrationError: no benign prompts of the split `calibration`.
        RecipeError: a kind that the calibration leaves out does not exist.
    """
    measured = benign_splits(context, recipe)
    sets = context.data.harmful.split("build"), context.data.benign.split("build")
    parts = recipe.parts
    harmful = part_states_of(context, sets[0], parts, weights=recipe.weights, step="target on harmful")
    benign = part_states_of(context, sets[1], parts, weights=recipe.weights, step="target on benign")
    probe = CosineProbe(
        id="build",
        blocks=tuple(block for block, _ in parts),
        over=tuple(over for _, over in parts),
        direction=directions(
            harmful,
            benign,
            recipe.estimator,
            seed=context.recipe.document.seed,
            inverse_penalty=recipe.inverse_penalty or 1.0,
        ),
        similarity=recipe.similarity,
    )
    calibration = calibrate(context, recipe, probe, measured.calibration)
    where = ", ".join(f"block {block} ({over.replace('_', ' ')})" for block, over in parts)
    return ArtifactParts(
        method=COSINE_METHOD,
        features=(
            "calibration.split_conformal",
            "hook.resid_post",
            COSINE_FEATURE,
            *((PROMPT_MEAN_FEATURE,) if recipe.mean_blocks else ()),
        ),
        tensors={PROBE_FILE: {"direction": probe.direction}},
        params={**probe_params(parts), "similarity": recipe.similarity},
        how_made=(
            f"{len(sets[0])} harmful and {len(sets[1])} benign prompts of the project's own contrast set, split `build`.",
            (
                f"One direction per part, estimator {recipe.estimator.replace('_', ' ')}{_penalty(recipe)}, from float32 "
                f"states of {recipe.weights} weights, at {where}."
            ),
            f"The score is the {probe.meaning}.",
            (
                f"Calibrated on {calibration.n} other benign prompts, split `calibration`{without(recipe)}, with "
                f"{recipe.calibration_weights} weights: the smallest false-positive rate that a policy may ask for is "
                f"{calibration.smallest_fpr}."
            ),
        ),
        limits=(
            "A condition separates a narrow domain; on mixed traffic a linear probe separates better.",
            *(
                ("With the tanh the score depends on the length of the hidden state, so it moves with weight types.",)
                if recipe.similarity == "tanh_projection"
                else ()
            ),
            "Thresholds as false-positive rates hold on average for benign prompts like those of the calibration split.",
            "Long, many-turn or unusual system prompts shift the score.",
        ),
        figures=tuple(measured_figures(context, recipe, probe, calibration, measured)),
        calibration=calibration,
        manifest_extra={"sign": "a high score means close to the condition"},
    )


def directions(harmful: Tensor, benign: Tensor, estimator: str, *, seed: int, inverse_penalty: float = 1.0) -> Tensor:
    """Return one unit direction per part, pointing from benign to harmful, float32 `[parts, width]`.

    Args:
        harmful: float32 `[n, parts, width]`.
        benign: float32 `[m, parts, width]`.
        estimator: `mean_difference`; `pca_pairs`, the first principal component of the pairs' halves; or
            `logistic_regression`, the weights of one for each part.
        seed: draws the pairs, or seeds the solver.
        inverse_penalty: `C` of the logistic regression.

    Raises:
        BuildError: a part has no direction, or scikit-learn is needed and not installed.
    """
    if estimator == "mean_difference":
        found = unit_rows(mean_difference(harmful, benign))
    elif estimator == "logistic_regression":
        # The parts' names are for the probe, which is not kept: only its weights are.
        parts: list[Part] = [(part, "end") for part in range(harmful.shape[1])]
        fitted = fit_probe(harmful, benign, parts, "logistic_regression", inverse_penalty=inverse_penalty, seed=seed)
        found = unit_rows(fitted.weight)
    else:
        found = _first_components(harmful, benign, seed)
    silent = [part for part in range(found.shape[0]) if not bool(found[part].any())]
    if silent:
        raise BuildError(
            "Harmful and benign prompts do not differ where the condition is to be read.",
            where="artifact.blocks",
            found=f"parts {silent}",
            next_step="name other blocks, or look whether both prompt files hold the same prompts",
        )
    return found


def _penalty(recipe: ConditionRecipe) -> str:
    return "" if recipe.inverse_penalty is None else f" with inverse penalty {recipe.inverse_penalty}"


def _first_components(harmful: Tensor, benign: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    count = min(len(harmful), len(benign))
    one = harmful[torch.randperm(len(harmful), generator=generator)[:count]].double()
    other = benign[torch.randperm(len(benign), generator=generator)[:count]].double()
    # Centred on its midpoint, a pair is plus and minus half its difference, so the mean is zero and one half suffices.
    halves = (one - other) / 2
    rows = []
    for part in range(halves.shape[1]):
        _, _, right = torch.linalg.svd(halves[:, part], full_matrices=False)
        component = right[0]
        # The sign of a principal component is arbitrary; harmful prompts are to project higher.
        towards = (halves[:, part] @ component).sum()
        rows.append(component * torch.sign(towards))
    return unit_rows(torch.stack(rows).float())
