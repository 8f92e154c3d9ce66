"""Build steps of a probe artifact: what the parts read, estimator, cross-validation, calibration."""

from __future__ import annotations

from steerguard.artifacts.calibration import Calibration
from steerguard.artifacts.probe_params import PROMPT_MEAN_FEATURE, probe_params
from steerguard.build.parts import ArtifactParts
from steerguard.build.probe_figures import cross_validation_figure
from steerguard.build.probe_measures import benign_splits, calibrate, measured_figures, without
from steerguard.build.probe_search import ChosenProbe, choose_probe, read_parts
from steerguard.build.probes import fit_probe, out_of_fold_scores
from steerguard.build.recipe_probe import ProbeRecipe
from steerguard.build.steps import BuildContext, part_states_of
from steerguard.detect.probe import PROBE_FILE


def build_probe(context: BuildContext, recipe: ProbeRecipe) -> ArtifactParts:
    """Return the tensors, settings and calibration of a probe artifact.

    The probe is fitted on residuals of the `build` split, in float32 whatever the weights are; the calibration scores come from the model in the
    weight type that it is served in.

    Args:
        context: the build.
        recipe: the probe part of the recipe.

    Raises:
        BuildError: scikit-learn is missing, or a class has fewer prompts than folds.
        CalibrationError: no benign prompts of the split `calibration`.
        RecipeError: a kind that the calibration leaves out does not exist.
    """
    measured = benign_splits(context, recipe)
    sets = context.data.harmful.split("build"), context.data.benign.split("build")
    read = read_parts(recipe)
    every = (
        part_states_of(context, sets[0], read, weights=recipe.weights, step="target on harmful"),
        part_states_of(context, sets[1], read, weights=recipe.weights, step="target on benign"),
    )
    chosen = choose_probe(context, recipe, *every, (sets[0].content_digest, sets[1].content_digest))
    columns = [read.index(part) for part in chosen.parts]
    harmful, benign = every[0][:, columns], every[1][:, columns]
    seed, penalty, joint = context.recipe.document.seed, chosen.inverse_penalty, chosen.joint
    probe = fit_probe(harmful, benign, chosen.parts, chosen.estimator, inverse_penalty=penalty, joint=joint, seed=seed)
    out_of_fold = out_of_fold_scores(
        harmful, benign, chosen.estimator, inverse_penalty=penalty, folds=recipe.folds, seed=seed, joint=joint
    )
    calibration = calibrate(context, recipe, probe, measured.calibration)
    means = any(over == "prompt_mean" for over in probe.over)
    return ArtifactParts(
        method="linear_probe",
        features=(
            "calibration.split_conformal",
            "hook.resid_post",
            "probe.linear",
            *((PROMPT_MEAN_FEATURE,) if means else ()),
        ),
        tensors={PROBE_FILE: {"weight": probe.weight, "bias": probe.bias}},
        params=probe_params(probe.parts),
        how_made=_how_made(context, recipe, chosen, calibration),
        limits=(
            (
                "A small model does not separate borderline-safe from unsafe questions, nor benign requests on the same "
                "topics in the same style as harmful ones: expect false positives there."
            ),
            "Thresholds as false-positive rates hold on average for benign prompts like those of the calibration split.",
            *(
                (f"Benign prompts of the kinds {', '.join(measured.left_out)} did not enter the calibration.",)
                if measured.left_out
                else ()
            ),
            "Long, many-turn or unusual system prompts shift the score.",
        ),
        figures=(
            cross_validation_figure(out_of_fold, recipe.folds),
            *measured_figures(context, recipe, probe, calibration, measured),
        ),
        compared=() if chosen.compared is None else (chosen.compared,),
        calibration=calibration,
        manifest_extra={"sign": "positive means harmful"},
    )


def _how_made(
    context: BuildContext, recipe: ProbeRecipe, chosen: ChosenProbe, calibration: Calibration
) -> tuple[str, ...]:
    harmful, benign = context.data.harmful.split("build"), context.data.benign.split("build")
    return (
        f"{len(harmful)} harmful and {len(benign)} benign prompts of the project's own contrast set, split `build`.",
        _classifiers(chosen),
        (
            f"Calibrated on {calibration.n} other benign prompts, split `calibration`{without(recipe)}, with "
            f"{recipe.calibration_weights} weights: the smallest false-positive rate that a policy may ask for is {calibration.smallest_fpr}."
        ),
    )


def _classifiers(chosen: ChosenProbe) -> str:
    """Say what was fitted on what."""
    ends = ", ".join(str(block) for block, over in chosen.parts if over == "end")
    means = ", ".join(str(block) for block, over in chosen.parts if over == "prompt_mean")
    estimator = chosen.estimator.replace("_", " ")
    fitted = f"One linear classifier ({estimator}) per block"
    score = "the score is their mean"
    if chosen.joint:
        fitted, score = f"One linear classifier ({estimator}) on all parts together", "its decision value is the score"
    elif means:
        fitted = f"One linear classifier ({estimator}) per part"
    prompt_means = f", and on the prompt mean (float32, from the fifth token on), blocks {means}" if means else ""
    return f"{fitted} on the residual at the end of the generation prompt, blocks {ends}{prompt_means}; {score}."
