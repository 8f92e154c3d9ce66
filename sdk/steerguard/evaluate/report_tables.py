"""The tables of the report: every number is taken from the document, a share only rewritten as a percentage."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal

from steerguard.evaluate.report_measures import MeasureLook, look_of
from steerguard.evaluate.result import EvaluatedSet, Evaluation, EvaluationFigure


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure, as it is shown."""

    value: str
    interval: str | None
    sample: str
    """What the figure is made of, for example `38 of 40`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRow:
    """One measure on one set, for all runs."""

    measure: MeasureLook
    better: str | None
    """`higher` or `lower` is better; None where neither is."""
    cells: tuple[Cell | None, ...]
    """In the order of the document's runs; None where the run has no such figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryGroup:
    """One set with its main measures."""

    set: EvaluatedSet
    rows: tuple[SummaryRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureRow:
    """One figure of the document with the name of its measure in words."""

    figure: EvaluationFigure
    label: str
    """Name of the measure in words."""


def summary_groups(evaluation: Evaluation) -> tuple[SummaryGroup, ...]:
    """Return the main measures of each set; a set without one is left out."""
    figures = {(figure.set, figure.run, figure.measure): figure for figure in evaluation.figures}
    measures = list(dict.fromkeys(figure.measure for figure in evaluation.figures))
    groups: list[SummaryGroup] = []
    for part in evaluation.sets:
        rows: list[SummaryRow] = []
        for look in sorted((look_of(measure) for measure in measures), key=lambda look: look.order):
            found = [figures.get((part.name, run.name, look.name)) for run in evaluation.runs]
            if part.expect in look.main and any(found):
                cells = tuple(None if figure is None else cell_of(figure) for figure in found)
                rows.append(SummaryRow(measure=look, better=look.better(part.expect), cells=cells))
        if rows:
            groups.append(SummaryGroup(set=part, rows=tuple(rows)))
    return tuple(groups)


def figure_rows(evaluation: Evaluation) -> tuple[FigureRow, ...]:
    """Return every figure of the document in its order."""
    return tuple(FigureRow(figure=figure, label=look_of(figure.measure).label) for figure in evaluation.figures)


def cell_of(figure: EvaluationFigure) -> Cell:
    """Return the figure as text: shares in per cent, other numbers as they stand in the document."""
    share = look_of(figure.measure).share
    interval = None
    if figure.low is not None and figure.high is not None:
        ends = (per_cent(figure.low), per_cent(figure.high)) if share else (figure.low, figure.high)
        interval = f"{ends[0]} to {ends[1]}"
    return Cell(
        value=f"{per_cent(figure.value)} %" if share else figure.value,
        interval=interval,
        sample=f"n {figure.n}" if figure.count is None else f"{figure.count} of {figure.n}",
    )


def per_cent(share: str) -> str:
    """Return a share in [0, 1] as a percentage with one decimal place, without the sign."""
    return str((Decimal(share) * 100).quantize(Decimal("0.1"), rounding=ROUND_HALF_EVEN))
