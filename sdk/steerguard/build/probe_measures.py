"""What the build of any probe measures: its calibration, and scores of prompts that it was not made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steerguard.artifacts.calibration import Calibration, calibration_from_scores
from steerguard.build.contrast import PromptSet
from steerguard.build.left_out_kinds import kinds_by_group, of_kinds
from steerguard.build.probe_figures import ScoredSet, unseen_figures
from steerguard.build.recipe_probe import CalibratedRecipe
from steerguard.build.steps import BuildContext, part_states_of
from steerguard.detect.probe import Probe
from steerguard.errors import CalibrationError


@dataclass(frozen=True, slots=True, kw_only=True)
class BenignSplits:
    """Benign prompts of the splits that measure."""

    calibration: PromptSet
    """What thresholds come from."""
    held_out: PromptSet
    """Of the kinds that thresholds are for."""
    left_out: dict[str, PromptSet]
    """By group: prompts of both splits whose kinds the calibration leaves out."""


def benign_splits(context: BuildContext, recipe: CalibratedRecipe) -> BenignSplits:
    """Return the benign prompts of the splits that measure.

    Raises:
        CalibrationError: no benign prompts of the split `calibration`.
        RecipeError: a kind that the calibration leaves out does not exist.
    """
    benign = context.data.benign
    groups = kinds_by_group(benign, recipe.calibration_kinds_left_out)
    kept = benign.without_kinds(tuple(kind for kinds in groups.values() for kind in kinds))
    unseen = benign.chosen([index for index, split in enumerate(benign.splits) if split != "build"])
    if len(kept.split("calibration")) == 0:
        raise CalibrationError(
            "There are no prompts to calibrate on.",
            where=f"prompts.benign: {context.recipe.document.prompts.benign}",
            expected="rows of the split calibration",
            found="none",
        )
    return BenignSplits(
        calibration=kept.split("calibration"),
        held_out=kept.split("held_out"),
        left_out={group: of_kinds(unseen, kinds) for group, kinds in groups.items()},
    )


def calibrate(context: BuildContext, recipe: CalibratedRecipe, probe: Probe, prompts: PromptSet) -> Calibration:
    """Return the benign scores of a probe, read with the weight type that the model is served in."""
    return calibration_from_scores(
        _scores(context, probe, prompts, recipe.calibration_weights, "calibration"),
        score=probe.meaning,
        source=f"{len(prompts)} benign prompts of the project's own contrast set, split calibration{without(recipe)}, "
        f"{recipe.calibration_weights} weights",
    )


def measured_figures(
    context: BuildContext, recipe: CalibratedRecipe, probe: Probe, calibration: Calibration, benign: BenignSplits
) -> list[dict[str, Any]]:
    """Return AUROC and gate rates of the split `held_out`, and of each group that the calibration leaves out."""
    weights = recipe.calibration_weights

    def scored(key: str, name: str, prompts: PromptSet, step: str) -> ScoredSet:
        scores = _scores(context, probe, prompts, weights, step) if len(prompts) else []
        return ScoredSet(id=key, name=name, scores=scores)

    harmful = context.data.harmful.split("held_out")
    return unseen_figures(
        scored("harmful", "own harmful prompts, split held_out", harmful, "held-out harmful"),
        scored("benign", f"own benign prompts, split held_out{without(recipe)}", benign.held_out, "held-out benign"),
        [
            scored(
                group_id(group),
                f"own benign prompts of the kinds {group}, splits calibration and held_out",
                prompts,
                f"benign {group}",
            )
            for group, prompts in benign.left_out.items()
        ],
        calibration,
        weights,
    )


def _scores(context: BuildContext, probe: Probe, prompts: PromptSet, weights: str, step: str) -> list[float]:
    return probe.score(part_states_of(context, prompts, probe.parts, weights=weights, step=step)).tolist()


def group_id(group: str) -> str:
    """Return how figures name a group of kinds that the calibration leaves out."""
    return f"benign_{group.replace('*', '').strip('_.-')}"


def without(recipe: CalibratedRecipe) -> str:
    """Return which kinds the calibration leaves out, to follow the name of a set."""
    left_out = recipe.calibration_kinds_left_out
    return f", without the kinds {', '.join(left_out)}" if left_out else ""
