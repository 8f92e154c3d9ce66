"""Figures of labelled answers with intervals, for `cost_model.py`: AUROCs whose resamples draw whole questions.

Answers to one question are alike, so questions are the unit that is drawn; two models are drawn together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from steerguard.build.cost_data import LabelledSet
from steerguard.build.cost_lengths import Area
from steerguard.evaluate.bootstrap import auroc_interval
from steerguard.evaluate.proportions import Proportion, auroc

RESAMPLES = 2000
SEED = 0

Figures = dict[str, Any]


def pooled(harmful: Sequence[bool], scores: Sequence[float]) -> float:
    """Return the AUROC over all answers."""
    high, low = ([score for bad, score in zip(harmful, scores, strict=True) if bad is side] for side in (True, False))
    return auroc(high, low)


def draws(rows: LabelledSet) -> list[np.ndarray[Any, Any]]:
    """Return resamples as row numbers: whole questions are drawn; the same for every model."""
    groups: dict[str, list[int]] = {}
    for index, question in enumerate(rows.questions):
        groups.setdefault(question, []).append(index)
    kept = [np.array(group) for group in groups.values()]
    generator = np.random.default_rng(SEED)
    return [
        np.concatenate([kept[place] for place in generator.integers(0, len(kept), size=len(kept))])
        for _ in range(RESAMPLES)
    ]


def areas_of_draws(rows: LabelledSet, scores: Sequence[float]) -> np.ndarray[Any, Any]:
    """Return the AUROC of each resample."""
    values, bad = np.asarray(scores), np.asarray(rows.harmful)
    return np.array([auroc(values[d][bad[d]].tolist(), values[d][~bad[d]].tolist()) for d in draws(rows)])


def with_interval(rows: LabelledSet, scores: Sequence[float]) -> Figures:
    """Return the AUROC over all answers with the 95 % interval over questions."""
    low, high = np.percentile(areas_of_draws(rows, scores), [2.5, 97.5])
    return figure(pooled(rows.harmful, scores), float(low), float(high))


def difference(rows: LabelledSet, scores: Sequence[float], others: Sequence[float]) -> Figures:
    """Return by how much the AUROC of the first is higher; both are drawn together."""
    drawn = areas_of_draws(rows, scores) - areas_of_draws(rows, others)
    low, high = np.percentile(drawn, [2.5, 97.5])
    value = pooled(rows.harmful, scores) - pooled(rows.harmful, others)
    return figure(value, float(low), float(high))


def interval_of_rows(rows: LabelledSet, scores: Sequence[float]) -> Figures:
    """Return the same with an interval that draws answers instead of questions."""
    high = [score for bad, score in zip(rows.harmful, scores, strict=True) if bad]
    low = [score for bad, score in zip(rows.harmful, scores, strict=True) if not bad]
    return figure(auroc(high, low), *auroc_interval(high, low, seed=SEED))


def area_figures(area: Area) -> Figures:
    """Return AUROCs as decimal strings."""
    return {
        "pooled": f"{area.pooled:.4f}",
        "within_questions": f"{area.within:.4f}",
        "questions_with_both": area.questions,
    }


def figure(value: float, low: float, high: float) -> Figures:
    """Return a value and its 95 % interval as decimal strings."""
    return {"value": f"{value:.4f}", "low": f"{low:.4f}", "high": f"{high:.4f}"}


def rate(outcomes: Any) -> dict[str, int | str]:
    """Return the share of true outcomes with its 95 % Wilson interval."""
    return Proportion.of(bool(outcome) for outcome in outcomes).as_strings()
