"""Figures that the build of a probe measures: AUROC and how often the gate opens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from steerguard.artifacts.calibration import Calibration
from steerguard.evaluate.proportions import Proportion, auroc

# The rates at which the card reports the gate; policies may ask for any rate that the calibration allows.
_REPORTED_RATES = ("0.02", "0.05")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSet:
    """Scores of prompts that neither the fit nor the calibration saw."""

    id: str
    """Part of the figures' ids: `harmful`, `benign`, or `benign_<group>`."""
    name: str
    """Which prompts they are, for people."""
    scores: Sequence[float]


def cross_validation_figure(scores: tuple[Sequence[float], Sequence[float]], folds: int) -> dict[str, Any]:
    """Return the AUROC of out-of-fold scores (harmful, benign)."""
    return {
        "id": "build_out_of_fold_auroc",
        "title": f"AUROC, {folds}-fold out-of-fold",
        "set": "own prompts, split build",
        **_auroc(*scores),
        "weights": "float32",
    }


def unseen_figures(
    harmful: ScoredSet, benign: ScoredSet, left_out: Sequence[ScoredSet], calibration: Calibration, weights: str
) -> list[dict[str, Any]]:
    """Return AUROC and gate rates; none of an empty set, and an AUROC only where there are harmful prompts too.

    Args:
        harmful: of the split `held_out`.
        benign: of the split `held_out`, of the kinds that thresholds are for.
        left_out: one for each group of kinds that the calibration leaves out; a group may be in `build` only.
        calibration: where the thresholds come from.
        weights: weight type that the scores come from.
    """
    figures: list[dict[str, Any]] = []
    if harmful.scores and benign.scores:
        title = {"id": "held_out_auroc", "title": "AUROC", "set": "own prompts, split held_out"}
        figures.append({"weights": weights, **title, **_auroc(harmful.scores, benign.scores)})
        figures += gate_rates((harmful, benign), calibration, weights)
    measured = [group for group in left_out if group.scores]
    for group in measured:
        if harmful.scores:
            title = {
                "id": f"unseen_{group.id}_auroc",
                "title": "AUROC",
                "set": f"own harmful prompts, split held_out, against {group.name}",
            }
            figures.append({"weights": weights, **title, **_auroc(harmful.scores, group.scores)})
    figures += gate_rates(measured, calibration, weights, prefix="unseen")
    return figures


def _auroc(harmful: Sequence[float], benign: Sequence[float]) -> dict[str, Any]:
    return {
        "value": f"{auroc(harmful, benign):.4f}",
        "n": len(harmful) + len(benign),
        "n_harmful": len(harmful),
        "n_benign": len(benign),
    }


def gate_rates(
    sets: Sequence[ScoredSet],
    calibration: Calibration,
    weights: str,
    *,
    prefix: str = "held_out",
    event: str = "gate opens",
) -> Iterator[dict[str, Any]]:
    """Yield for each reported rate which share of each set reaches the threshold; none of a rate that is too small.

    Args:
        sets: scores, none of them empty.
        calibration: where the thresholds come from.
        weights: weight type that the scores come from.
        prefix: begins the figures' ids.
        event: what a score at the threshold means, for the titles.
    """
    for rate in _REPORTED_RATES:
        if float(calibration.smallest_fpr) > float(rate):
            continue
        threshold = calibration.threshold(rate)
        for one in sets:
            fired = Proportion.of(score >= threshold for score in one.scores)
            yield {
                "weights": weights,
                "id": f"{prefix}_{one.id}_gate_rate_fpr_{rate}",
                "title": f"{event} at fpr {rate}",
                "set": one.name,
                "value": f"{fired.rate:.4f}",
                **fired.as_strings(),
            }
