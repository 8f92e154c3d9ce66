"""How well costs tell harmful answers from harmless ones when answers are cut short: pooled, and within questions.

Pooled figures flatter: which question was asked says much about the label. Within a question only the answers differ.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from steerguard.build.cost_inputs import CostClass
from steerguard.evaluate.proportions import auroc


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """AUROCs at one length."""

    pooled: float
    """Over all answers."""
    within: float
    """Mean over the questions that have answers with both labels; nan where none has."""
    questions: int
    """How many these are."""
    harmful: int
    harmless: int


def costs_at(one: CostClass, costs: Tensor, length: int | None) -> list[float]:
    """Return the cost of each answer of a class, cut after so many tokens; None is its end.

    Args:
        one: answers.
        costs: of its readings, `[readings]`.
        length: a length that was read.
    """
    places = one.states.ends if length is None else one.states.at(length)
    found: list[float] = costs[places].tolist()
    return found


def area_by_length(classes: Sequence[CostClass], costs: Sequence[Tensor], length: int | None) -> Area:
    """Return the AUROCs of the labelled answers, cut after so many tokens; None is their end."""
    rows = [
        entry
        for one, own in zip(classes, costs, strict=True)
        if one.name == "labelled"
        for entry in zip(one.groups, one.harmful, costs_at(one, own, length), strict=True)
    ]
    return area_of([question for question, _, _ in rows], [bad for _, bad, _ in rows], [cost for _, _, cost in rows])


def area_of(questions: Sequence[str], harmful: Sequence[bool], costs: Sequence[float]) -> Area:
    """Return the AUROCs of labelled answers, pooled and within questions.

    Raises:
        EvaluationError: one of the labels has no answer.
    """
    by_question: dict[str, tuple[list[float], list[float]]] = {}
    for question, bad, cost in zip(questions, harmful, costs, strict=True):
        by_question.setdefault(question, ([], []))[0 if bad else 1].append(cost)
    parts = list(by_question.values())
    both = [auroc(high, low) for high, low in parts if high and low]
    highs, lows = ([cost for part in parts for cost in part[side]] for side in (0, 1))
    return Area(
        pooled=auroc(highs, lows),
        within=statistics.fmean(both) if both else float("nan"),
        questions=len(both),
        harmful=len(highs),
        harmless=len(lows),
    )
