"""Figures that the build of a cost model measures: AUROC by length, pooled and within questions, and rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from steerguard.artifacts.calibration import Calibration
from steerguard.build.cost_inputs import CostClass
from steerguard.build.cost_lengths import area_by_length, costs_at
from steerguard.build.recipe_cost import CostModelRecipe
from steerguard.evaluate.proportions import Proportion, auroc


def cost_figures(
    recipe: CostModelRecipe,
    classes: Sequence[CostClass],
    costs: Sequence[Tensor],
    threshold: float,
    calibration: Calibration,
) -> tuple[Mapping[str, Any], ...]:
    """Return what the build measured; everything but the calibration is out of fold by question.

    Args:
        recipe: lengths and folds.
        classes: answers with labels.
        costs: per class the cost of each reading, out of fold.
        threshold: of the cost model.
        calibration: costs of benign answers that nothing was fitted to.
    """
    how = f"{recipe.folds}-fold out-of-fold by question"
    return (
        *_areas(recipe, classes, costs, how),
        *_own_areas(recipe, classes, costs, how),
        *_rates(recipe, classes, costs, threshold, how),
        _rate(
            "calibration_benign_flagged",
            "share at or above the threshold",
            "own benign answers, split calibration, at their end",
            [float(text) >= threshold for text in calibration.benign_scores],
            recipe.calibration_weights,
        ),
    )


def _areas(
    recipe: CostModelRecipe, classes: Sequence[CostClass], costs: Sequence[Tensor], how: str
) -> Iterator[dict[str, Any]]:
    """Yield the AUROCs of the labelled answers, by length."""
    for length in (*recipe.prefixes, None):
        area = area_by_length(classes, costs, length)
        shared = {
            "set": f"labelled answers, {_cut(length)}, {how}",
            "n_harmful": area.harmful,
            "n_benign": area.harmless,
            "weights": recipe.weights,
        }
        name = _name(length)
        yield {
            "id": f"labelled_auroc_{name}",
            "title": "AUROC",
            "value": f"{area.pooled:.4f}",
            "n": area.harmful + area.harmless,
            **shared,
        }
        if area.questions:
            yield {
                "id": f"labelled_within_auroc_{name}",
                "title": f"AUROC within a question, mean over {area.questions} questions",
                "value": f"{area.within:.4f}",
                "n": area.harmful + area.harmless,
                **shared,
            }


def _own_areas(
    recipe: CostModelRecipe, classes: Sequence[CostClass], costs: Sequence[Tensor], how: str
) -> Iterator[dict[str, Any]]:
    """Yield the AUROC of own answers, those to harmful prompts against those to benign ones, by length."""
    by_name = {one.name: (one, own) for one, own in zip(classes, costs, strict=True)}
    if not {"own harmful", "own benign"} <= set(by_name):
        return
    for length in (*(prefix for prefix in recipe.prefixes if prefix < recipe.answers.tokens), None):
        harmful, benign = (costs_at(*by_name[name], length) for name in ("own harmful", "own benign"))
        yield {
            "id": f"own_auroc_{_name(length)}",
            "title": "AUROC",
            "set": f"own answers to harmful prompts against those to benign ones, {_cut(length)}, {how}",
            "value": f"{auroc(harmful, benign):.4f}",
            "n": len(harmful) + len(benign),
            "n_harmful": len(harmful),
            "n_benign": len(benign),
            "weights": recipe.weights,
        }


def _rates(
    recipe: CostModelRecipe, classes: Sequence[CostClass], costs: Sequence[Tensor], threshold: float, how: str
) -> Iterator[dict[str, Any]]:
    """Yield which share of each kind of answers reaches the threshold at its end."""
    flagged: dict[tuple[str, bool], list[bool]] = {}
    for one, own in zip(classes, costs, strict=True):
        for bad, cost in zip(one.harmful, costs_at(one, own, None), strict=True):
            flagged.setdefault((one.name, bad), []).append(cost >= threshold)
    titles = {
        ("labelled", True): ("labelled_harmful", "harmful labelled answers"),
        ("labelled", False): ("labelled_harmless", "harmless labelled answers"),
        ("own benign", False): ("own_benign", "own benign answers, split build"),
        ("own harmful", True): ("own_harmful", "own answers to harmful prompts, split build"),
    }
    for key, outcomes in flagged.items():
        name, title = titles[key]
        yield _rate(
            f"{name}_flagged",
            "share at or above the threshold",
            f"{title}, at their end, {how}",
            outcomes,
            recipe.weights,
        )


def _rate(name: str, title: str, where: str, outcomes: Sequence[bool], weights: str) -> dict[str, Any]:
    share = Proportion.of(outcomes)
    return {
        "id": name,
        "title": title,
        "set": where,
        "value": f"{share.rate:.4f}",
        "weights": weights,
        **share.as_strings(),
    }


def _cut(length: int | None) -> str:
    return "at their end" if length is None else f"cut after {length} tokens"


def _name(length: int | None) -> str:
    return "end" if length is None else str(length)
