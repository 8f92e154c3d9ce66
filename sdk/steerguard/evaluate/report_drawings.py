"""Which drawings the report has and what their text alternatives say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerguard.evaluate.plots import (
    DASHES,
    IntervalMark,
    ScoreSample,
    draw_intervals,
    draw_roc,
    draw_scores,
    roc_curve,
)
from steerguard.evaluate.report_measures import MeasureLook, look_of
from steerguard.evaluate.report_tables import Cell, cell_of
from steerguard.evaluate.result import EvaluatedSet, Evaluation, EvaluationFigure, RunThreshold, ScoreList


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalDrawing:
    """One measure over sets and runs."""

    measure: MeasureLook
    svg: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScores:
    """How many prompts of a set have a score."""

    set: EvaluatedSet
    read: int
    unrecognised: int
    gate_rates: tuple[Cell | None, ...]
    """One for each rule of the section's thresholds, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdLine:
    """One line of a drawing and the rules that act there."""

    mark: str
    value: str
    rules: tuple[tuple[str, RunThreshold], ...]
    """Run and threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RocEntry:
    """One curve and its figure."""

    benign: str
    colour: str
    dashes: str
    auroc: Cell | None
    """None where the document has no figure for the curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RocDrawing:
    """The curves of one harmful set."""

    harmful: str
    svg: str
    entries: tuple[RocEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSection:
    """One detector: the scores of one run, or of several runs that read the same."""

    detector: str
    runs: tuple[str, ...]
    sets: tuple[SetScores, ...]
    thresholds: tuple[ThresholdLine, ...]
    svg: str | None
    """None where no prompt was read."""
    rocs: tuple[RocDrawing, ...]


def interval_drawings(evaluation: Evaluation) -> tuple[IntervalDrawing, ...]:
    """Return a drawing for each main measure that is a share."""
    sets = [part.name for part in evaluation.sets]
    runs = [run.name for run in evaluation.runs]
    expect = {part.name: part.expect for part in evaluation.sets}
    by_measure: dict[str, list[EvaluationFigure]] = {}
    for figure in evaluation.figures:
        look = look_of(figure.measure)
        if look.share and figure.run in runs and expect.get(figure.set) in look.main:
            by_measure.setdefault(figure.measure, []).append(figure)
    drawings: list[IntervalDrawing] = []
    for number, look in enumerate(sorted(map(look_of, by_measure), key=lambda look: look.order)):
        figures = sorted(by_measure[look.name], key=lambda figure: (sets.index(figure.set), runs.index(figure.run)))
        svg = draw_intervals(
            [_mark(figure, runs) for figure in figures],
            name=f"rate{number}",
            title=f"{look.label}, by set and run",
            description="Shares with 95 % intervals: " + "; ".join(_sentence(figure) for figure in figures) + ".",
        )
        drawings.append(IntervalDrawing(measure=look, svg=svg))
    return tuple(drawings)


def score_sections(evaluation: Evaluation) -> tuple[ScoreSection, ...]:
    """Return a section for each detector; runs that read the same scores share one."""
    readings: dict[tuple[str, str], dict[str, ScoreList]] = {}
    for scores in evaluation.scores:
        readings.setdefault((scores.detector, scores.run), {})[scores.set] = scores
    merged: dict[tuple[str, tuple[tuple[str, tuple[str | None, ...]], ...]], list[str]] = {}
    for (detector, run), lists in readings.items():
        content = tuple((name, lists[name].values) for name in sorted(lists))
        merged.setdefault((detector, content), []).append(run)
    return tuple(
        _score_section(evaluation, detector, tuple(runs), dict(content), name=f"scores{number}")
        for number, ((detector, content), runs) in enumerate(merged.items())
    )


def _score_section(
    evaluation: Evaluation,
    detector: str,
    runs: tuple[str, ...],
    values: dict[str, tuple[str | None, ...]],
    *,
    name: str,
) -> ScoreSection:
    read = {part: tuple(float(value) for value in found if value is not None) for part, found in values.items()}
    sets = [part for part in evaluation.sets if part.name in values]
    thresholds = _thresholds(evaluation, detector, runs)
    svg = None
    if any(read.values()):
        svg = draw_scores(
            [
                ScoreSample(
                    label=f"{part.name} (should be {'refused' if part.expect == 'refuse' else 'answered'})",
                    harmful=part.expect == "refuse",
                    scores=read[part.name],
                )
                for part in sets
            ],
            [float(line.value) for line in thresholds],
            name=name,
            title=f"Scores of {detector}, by set",
            description=f"One histogram for each of {len(sets)} sets over a shared score axis"
            + "".join(f"; line {line.mark} at {line.value}" for line in thresholds)
            + ".",
        )
    harmful = [part.name for part in sets if part.expect == "refuse" and read[part.name]]
    benign = [part.name for part in sets if part.expect == "answer" and read[part.name]]
    rocs = tuple(
        _roc(evaluation, detector, runs, read, part, benign, name=f"{name}-roc{number}")
        for number, part in enumerate(harmful)
        if benign
    )
    return ScoreSection(
        detector=detector,
        runs=runs,
        sets=tuple(
            SetScores(
                set=part,
                read=len(read[part.name]),
                unrecognised=values[part.name].count(None),
                gate_rates=tuple(
                    _cell(_figure(evaluation, part.name, (run,), f"gate_rate.{threshold.rule}"))
                    for line in thresholds
                    for run, threshold in line.rules
                ),
            )
            for part in sets
        ),
        thresholds=thresholds,
        svg=svg,
        rocs=rocs,
    )


def _roc(
    evaluation: Evaluation,
    detector: str,
    runs: tuple[str, ...],
    read: dict[str, tuple[float, ...]],
    harmful: str,
    benign: Sequence[str],
    *,
    name: str,
) -> RocDrawing:
    entries: list[RocEntry] = []
    for series, other in enumerate(benign):
        figure = _figure(evaluation, f"{harmful} against {other}", runs, f"auroc.{detector}")
        entries.append(
            RocEntry(
                benign=other,
                colour=f"c{series % len(DASHES)}",
                dashes=DASHES[series % len(DASHES)],
                auroc=_cell(figure),
            )
        )
    listed = "; ".join(f"{entry.benign} {entry.auroc.value if entry.auroc else 'not given'}" for entry in entries)
    svg = draw_roc(
        [roc_curve(read[harmful], read[other], series=series) for series, other in enumerate(benign)],
        name=name,
        title=f"ROC curves of {detector} for {harmful}",
        description=f"True-positive rate on {harmful} over the false-positive rate of each benign set; AUROC: {listed}.",
    )
    return RocDrawing(harmful=harmful, svg=svg, entries=tuple(entries))


def _thresholds(evaluation: Evaluation, detector: str, runs: tuple[str, ...]) -> tuple[ThresholdLine, ...]:
    at: dict[str, list[tuple[str, RunThreshold]]] = {}
    for run in evaluation.runs:
        for threshold in run.thresholds:
            if run.name in runs and threshold.detector == detector:
                at.setdefault(threshold.value, []).append((run.name, threshold))
    return tuple(
        ThresholdLine(mark=f"T{number + 1}", value=value, rules=tuple(at[value]))
        for number, value in enumerate(sorted(at, key=lambda value: (float(value), value)))
    )


def _figure(evaluation: Evaluation, part: str, runs: Sequence[str], measure: str) -> EvaluationFigure | None:
    fits = (figure for figure in evaluation.figures if figure.run in runs)
    return next((figure for figure in fits if figure.set == part and figure.measure == measure), None)


def _cell(figure: EvaluationFigure | None) -> Cell | None:
    return None if figure is None else cell_of(figure)


def _mark(figure: EvaluationFigure, runs: Sequence[str]) -> IntervalMark:
    return IntervalMark(
        group=figure.set,
        label=figure.run,
        value=float(figure.value),
        low=None if figure.low is None else float(figure.low),
        high=None if figure.high is None else float(figure.high),
        series=runs.index(figure.run),
    )


def _sentence(figure: EvaluationFigure) -> str:
    cell = cell_of(figure)
    interval = "" if cell.interval is None else f" ({cell.interval})"
    return f"{figure.set}, {figure.run}: {cell.value}{interval}"
