"""Build steps of a probe artifact: residuals, estimator, cross-validation, calibration."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from steerguard.artifacts.calibration import Calibration, calibration_from_scores
from steerguard.build.contrast import PromptSet
from steerguard.build.parts import ArtifactParts
from steerguard.build.probes import fit_probe, out_of_fold_scores
from steerguard.build.recipe import ProbeRecipe
from steerguard.build.steps import BuildContext, residuals_of
from steerguard.detect.linear_probe import PROBE_FILE, LinearProbe
from steerguard.errors import CalibrationError
from steerguard.evaluate.proportions import Proportion, auroc

# The rates at which the card reports the gate; policies may ask for any rate that the calibration allows.
_REPORTED_RATES = ("0.02", "0.05")


def build_probe(context: BuildContext, recipe: ProbeRecipe) -> ArtifactParts:
    """Return the tensors, settings and calibration of a probe artifact.

    The probe is fitted on float32 residuals of the `build` split; the calibration scores come from the model in the
    weight type that it is served in.

    Args:
        context: the build.
        recipe: the probe part of the recipe.

    Raises:
        BuildError: scikit-learn is missing, or a class has fewer prompts than folds.
        CalibrationError: no benign prompts of the split `calibration`.
    """
    harmful = _read(context, recipe, context.data.harmful.split("build"), "float32", "target on harmful")
    benign = _read(context, recipe, context.data.benign.split("build"), "float32", "target on benign")
    seed = context.recipe.document.seed
    probe = fit_probe(
        harmful, benign, recipe.blocks, recipe.estimator, inverse_penalty=recipe.inverse_penalty, seed=seed
    )
    out_of_fold = out_of_fold_scores(
        harmful, benign, recipe.estimator, inverse_penalty=recipe.inverse_penalty, folds=recipe.folds, seed=seed
    )
    calibration = _calibrate(context, recipe, probe)
    return ArtifactParts(
        method="linear_probe",
        features=("calibration.split_conformal", "hook.resid_post", "probe.linear"),
        tensors={PROBE_FILE: {"weight": probe.weight, "bias": probe.bias}},
        params={"blocks": list(recipe.blocks), "read": "generation_prompt_end", "reduce": "mean"},
        how_made=_how_made(context, recipe, calibration),
        limits=(
            (
                "A small model does not separate borderline-safe from unsafe questions, nor benign requests on the same "
                "topics in the same style as harmful ones: expect false positives there."
            ),
            "Thresholds as false-positive rates hold on average for benign prompts like those of the calibration split.",
            "Long, many-turn or unusual system prompts shift the score.",
        ),
        figures=(
            _cross_validation_figure(out_of_fold, recipe),
            *_held_out_figures(context, recipe, probe, calibration),
        ),
        calibration=calibration,
        manifest_extra={"sign": "positive means harmful"},
    )


def _read(context: BuildContext, recipe: ProbeRecipe, prompts: PromptSet, weights: str, step: str) -> Tensor:
    return residuals_of(context, prompts, weights=weights, step=step)[:, list(recipe.blocks)]


def _calibrate(context: BuildContext, recipe: ProbeRecipe, probe: LinearProbe) -> Calibration:
    prompts = context.data.benign.split("calibration")
    if len(prompts) == 0:
        raise CalibrationError(
            "There are no prompts to calibrate on.",
            where=f"prompts.benign: {context.recipe.document.prompts.benign}",
            expected="rows of the split calibration",
            found="none",
        )
    scores = probe.score(_read(context, recipe, prompts, recipe.calibration_weights, "calibration")).tolist()
    return calibration_from_scores(
        scores,
        score="mean over blocks of weight . h + bias at the end of the generation prompt",
        source=f"{len(prompts)} benign prompts of the project's own contrast set, split calibration, "
        f"{recipe.calibration_weights} weights",
    )


def _cross_validation_figure(scores: tuple[list[float], list[float]], recipe: ProbeRecipe) -> dict[str, Any]:
    harmful, benign = scores
    return {
        "id": "build_out_of_fold_auroc",
        "title": f"AUROC, {recipe.folds}-fold out-of-fold",
        "set": "own prompts, split build",
        "value": f"{auroc(harmful, benign):.4f}",
        "n": len(harmful) + len(benign),
        "n_harmful": len(harmful),
        "n_benign": len(benign),
        "weights": "float32",
    }


def _held_out_figures(
    context: BuildContext, recipe: ProbeRecipe, probe: LinearProbe, calibration: Calibration
) -> list[dict[str, Any]]:
    """Return AUROC and gate rates on the split `held_out`, where both classes have one."""
    scores: dict[str, list[float]] = {}
    for name, prompts in (("harmful", context.data.harmful), ("benign", context.data.benign)):
        held_out = prompts.split("held_out")
        if len(held_out) == 0:
            return []
        residuals = _read(context, recipe, held_out, recipe.calibration_weights, f"held-out {name}")
        scores[name] = probe.score(residuals).tolist()
    common = {"weights": recipe.calibration_weights}
    figures: list[dict[str, Any]] = [
        {
            **common,
            "id": "held_out_auroc",
            "title": "AUROC",
            "set": "own prompts, split held_out",
            "value": f"{auroc(scores['harmful'], scores['benign']):.4f}",
            "n": len(scores["harmful"]) + len(scores["benign"]),
            "n_harmful": len(scores["harmful"]),
            "n_benign": len(scores["benign"]),
        }
    ]
    for rate in _REPORTED_RATES:
        if float(calibration.smallest_fpr) > float(rate):
            continue
        threshold = calibration.threshold(rate)
        for name in ("harmful", "benign"):
            fired = Proportion.of(score >= threshold for score in scores[name])
            figures.append(
                {
                    **common,
                    "id": f"held_out_{name}_gate_rate_fpr_{rate}",
                    "title": f"gate opens at fpr {rate}",
                    "set": f"own {name} prompts, split held_out",
                    "value": f"{fired.rate:.4f}",
                    **fired.as_strings(),
                }
            )
    return figures


def _how_made(context: BuildContext, recipe: ProbeRecipe, calibration: Calibration) -> tuple[str, ...]:
    harmful, benign = context.data.harmful.split("build"), context.data.benign.split("build")
    return (
        f"{len(harmful)} harmful and {len(benign)} benign prompts of the project's own contrast set, split `build`.",
        (
            f"One linear classifier ({recipe.estimator.replace('_', ' ')}) per block on the float32 residual at the end of "
            f"the generation prompt, blocks {', '.join(str(block) for block in recipe.blocks)}; the score is their mean."
        ),
        (
            f"Calibrated on {calibration.n} other benign prompts, split `calibration`, with {recipe.calibration_weights} "
            f"weights: the smallest false-positive rate that a policy may ask for is {calibration.smallest_fpr}."
        ),
    )
