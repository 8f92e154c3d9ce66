"""Drawings of an evaluation as inline SVG: rates with intervals, score distributions, ROC curves.

Each drawing is a function of its arguments: the user's matplotlib settings, the time and the display play no part.
matplotlib is imported when something is drawn (extra `eval`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerguard.errors import EvaluationError, SteerguardError
from steerguard.evaluate.inline_svg import Labels, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow, which is unreadable on white. Dash patterns say the same a second time.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("", "6 2", "2 2", "6 2 2 2", "10 3", "1 3")
_MARKERS = ("o", "s", "D", "^", "v", "P")
_INK = "#1b1b1b"
_GRID = "#c9c9c9"
_COLOURS = {_INK: "ink", _GRID: "grid"} | {colour: f"c{number}" for number, colour in enumerate(SERIES)}
_WIDTH = 4.7
_BINS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalMark:
    """One measured value with its 95 % interval."""

    group: str
    label: str
    value: float
    low: float | None
    high: float | None
    series: int
    """Colour and marker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSample:
    """The scores of one set; `harmful` sets are those that should be refused."""

    label: str
    harmful: bool
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RocCurve:
    """A curve from (0, 0) to (1, 1): false-positive rates, true-positive rates."""

    false_positive: tuple[float, ...]
    true_positive: tuple[float, ...]
    series: int


def roc_curve(positive: Sequence[float], negative: Sequence[float], *, series: int = 0) -> RocCurve:
    """Return the curve of the rule "score ≥ threshold" over all thresholds; ties give slanted steps.

    Args:
        positive: scores that should be high; not empty.
        negative: scores that should be low; not empty.
        series: colour and dash of the curve.
    """
    steps: dict[float, list[int]] = {}
    for side, scores in enumerate((negative, positive)):
        for score in scores:
            steps.setdefault(score, [0, 0])[side] += 1
    points = [(0, 0)]
    for score in sorted(steps, reverse=True):
        point = (points[-1][0] + steps[score][0], points[-1][1] + steps[score][1])
        # A corner stays; a point on the straight line between its neighbours goes.
        if len(points) > 1 and _same_direction(points[-2], points[-1], point):
            points.pop()
        points.append(point)
    return RocCurve(
        false_positive=tuple(x / len(negative) for x, _ in points),
        true_positive=tuple(y / len(positive) for _, y in points),
        series=series,
    )


def draw_intervals(marks: Sequence[IntervalMark], *, name: str, title: str, description: str) -> str:
    """Return a dot plot of shares in [0, 1] with interval bars, grouped; not empty.

    Args:
        marks: in drawing order from top to bottom; marks of one group stand together.
        name: prefix of ids, unique in the page.
        title: accessible name.
        description: accessible description.
    """
    labels = Labels()
    groups = list(dict.fromkeys(mark.group for mark in marks))
    rows = len(marks) + 1.4 * len(groups)
    with _canvas(height=0.5 + 0.2 * rows) as figure:
        axes = figure.add_axes((0.31, 0.32 / (0.5 + 0.2 * rows), 0.64, 1 - 0.42 / (0.5 + 0.2 * rows)))
        position = 0.0
        for group in groups:
            position += 0.9
            axes.text(-0.46, position, labels.add(group), fontweight="bold", va="center", clip_on=False)
            for mark in (mark for mark in marks if mark.group == group):
                position += 1.0
                colour = SERIES[mark.series % len(SERIES)]
                axes.text(-0.025, position, labels.add(mark.label, limit=24), ha="right", va="center", clip_on=False)
                if mark.low is not None and mark.high is not None:
                    axes.plot([mark.low, mark.high], [position, position], color=colour, linewidth=2.5)
                marker = _MARKERS[mark.series % len(_MARKERS)]
                axes.plot([mark.value], [position], color=colour, marker=marker, markersize=6, clip_on=False)
            position += 0.5
        axes.set_xlim(0, 1)
        axes.set_ylim(position + 0.3, 0)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.grid(axis="x")
        return _finish(figure, labels, name=name, title=title, description=description)


def draw_scores(
    samples: Sequence[ScoreSample], thresholds: Sequence[float], *, name: str, title: str, description: str
) -> str:
    """Return one histogram per set over a shared axis, with a line at each threshold; at least one score.

    Args:
        samples: sets from top to bottom; a set without scores gets an empty row.
        thresholds: drawn as T1, T2, … in this order.
        name: prefix of ids, unique in the page.
        title: accessible name.
        description: accessible description.
    """
    labels = Labels()
    edges = _edges([score for sample in samples for score in sample.scores] + list(thresholds))
    height = 0.8 + 0.5 * len(samples)
    with _canvas(height=height) as figure:
        axes = figure.add_axes((0.02, 0.44 / height, 0.96, 0.5 * (len(samples) + 0.05) / height))
        for row, sample in enumerate(samples):
            base = len(samples) - 1 - row
            colour = SERIES[1] if sample.harmful else SERIES[0]
            axes.axhline(base, color=_GRID, linewidth=0.8)
            if sample.scores:
                counts = _histogram(sample.scores, edges)
                scale = 0.62 / max(counts)
                tops = [base + count * scale for count in counts]
                axes.stairs(tops, edges, baseline=base, fill=True, color=colour, alpha=0.45)
                axes.stairs(tops, edges, baseline=base, color=colour, linewidth=1.2)
            axes.text(edges[0], base + 0.74, labels.add(sample.label), va="center")
        for number, value in enumerate(thresholds):
            axes.axvline(value, color=_INK, linewidth=1.2, linestyle=(0, (4, 2)))
            # Every second mark stands higher, so that close thresholds stay readable. One row is half an inch high.
            top = len(samples) + 0.06 + 0.22 * (number % 2)
            axes.text(value, top, f"T{number + 1}", ha="center", clip_on=False)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(-0.05, len(samples))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("score")
        return _finish(figure, labels, name=name, title=title, description=description)


def draw_roc(curves: Sequence[RocCurve], *, name: str, title: str, description: str) -> str:
    """Return ROC curves over the unit square.

    Args:
        curves: drawn in order.
        name: prefix of ids, unique in the page.
        title: accessible name.
        description: accessible description.
    """
    with _canvas(width=3.4, height=3.2) as figure:
        axes = figure.add_axes((0.17, 0.16, 0.79, 0.8))
        axes.plot([0, 1], [0, 1], color=_GRID, linewidth=1)
        for curve in curves:
            dashes = DASHES[curve.series % len(DASHES)]
            axes.plot(
                curve.false_positive,
                curve.true_positive,
                color=SERIES[curve.series % len(SERIES)],
                linewidth=1.8,
                linestyle=(0, tuple(float(part) / 1.8 for part in dashes.split())) if dashes else "solid",
            )
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.01)
        ticks = [0, 0.25, 0.5, 0.75, 1]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.grid()
        axes.set_xlabel("false-positive rate")
        axes.set_ylabel("true-positive rate")
        return _finish(figure, Labels(), name=name, title=title, description=description)


def _same_direction(first: tuple[int, int], second: tuple[int, int], third: tuple[int, int]) -> bool:
    return (second[0] - first[0]) * (third[1] - second[1]) == (third[0] - second[0]) * (second[1] - first[1])


def _edges(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    spread = high - low or max(abs(low), 1.0)
    low, high = low - 0.03 * spread, high + 0.03 * spread
    return [low + (high - low) * step / _BINS for step in range(_BINS + 1)]


def _histogram(scores: Sequence[float], edges: Sequence[float]) -> list[int]:
    counts = [0] * (len(edges) - 1)
    width = (edges[-1] - edges[0]) / len(counts)
    for score in scores:
        counts[min(int((score - edges[0]) / width), len(counts) - 1)] += 1
    return counts


@contextmanager
def _canvas(*, height: float, width: float = _WIDTH) -> Iterator[Figure]:
    try:
        import matplotlib as mpl  # noqa: PLC0415 - optional extra `eval`
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional extra `eval`
    except ImportError as error:
        raise needs_extra("matplotlib") from error
    with mpl.rc_context():
        mpl.rcdefaults()
        settings: dict[str, Any] = {
            "axes.edgecolor": _INK,
            "axes.labelcolor": _INK,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "font.size": 10,
            "grid.color": _GRID,
            "grid.linewidth": 0.7,
            "path.simplify": False,
            "svg.fonttype": "none",
            "svg.hashsalt": "steerguard",
            "text.color": _INK,
            "text.parse_math": False,
            "xtick.color": _INK,
            "ytick.color": _INK,
        }
        mpl.rcParams.update(settings)
        figure = Figure(figsize=(width, height))
        figure.patch.set_visible(False)
        yield figure


def _finish(figure: Figure, labels: Labels, *, name: str, title: str, description: str) -> str:
    axes: Axes
    for axes in figure.axes:
        axes.patch.set_visible(False)
        axes.set_axisbelow(True)
    document = io.StringIO()
    figure.savefig(document, format="svg", metadata={"Date": None, "Creator": None})
    return inline_svg(
        document.getvalue(), name=name, title=title, description=description, labels=labels, colours=_COLOURS
    )


def needs_extra(package: str) -> SteerguardError:
    """Return the error for a package of the extra `eval` that is not installed."""
    return EvaluationError(
        f"The HTML report needs {package}.",
        expected=f"{package} installed",
        found="it cannot be imported",
        next_step="pip install 'steerguard[eval]'",
    )
