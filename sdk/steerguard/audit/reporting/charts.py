"""The drawings of a report as inline SVG: actions over time, and scores against their thresholds.

Colours come from classes of the style sheet, so that drawings follow light, dark and print. Every drawing has a title, a
description, and a table of the same numbers beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Final
from xml.etree import ElementTree as ET

from steerguard.audit.reporting.markup import e
from steerguard.decision import ACTION_ORDER

WIDTH: Final = 720
SMALLEST_SPAN: Final = 1e-290
"""Numbers nearer to each other are drawn as one: quarters of their distance have no power of ten among floats."""
_LEFT, _RIGHT, _TOP = 62, 14, 14
_PLOT: Final = WIDTH - _LEFT - _RIGHT
_BARS: Final = 190
_HISTOGRAM: Final = 150
_LINE: Final = 22
"""Height of one line of labels."""
_LABELS: Final = 7
"""Labels below an axis, at most."""


def actions_over_time(spans: Sequence[Mapping[str, Any]], *, seconds: int) -> ET.Element:
    """Return stacked bars of applied actions, one bar per span.

    Args:
        spans: as `Volume.rows` gives them, at least one.
        seconds: length of a span.
    """
    sums = [sum(span["applied"].values()) for span in spans]
    ticks = nice_ticks(0, max(sums), whole=True)
    top = ticks[-1]
    step = _PLOT / len(spans)
    wide = min(step * 0.84, 60.0)
    bars: list[ET.Element] = []
    for index, span in enumerate(spans):
        height = 0.0
        for action in ACTION_ORDER:
            count = span["applied"][action]
            if not count:
                continue
            tall = count / top * _BARS
            height += tall
            bars.append(
                e(
                    "rect",
                    e("title", f"{span['start']}: {count} {action}"),
                    class_=f"a-{action}",
                    x=_px(_LEFT + (index + 0.5) * step - wide / 2),
                    y=_px(_TOP + _BARS - height),
                    width=_px(wide),
                    height=_px(tall),
                )
            )
    every = max(1, math.ceil(len(spans) / _LABELS))
    labels = [
        e("text", span_name(spans[index]["start"], seconds), class_="label" if index % (3 * every) == 0 else "label spare", text_anchor="middle", y=_TOP + _BARS + 26,
          x=_px(_within(_LEFT + (index + 0.5) * step)))
        for index in range(0, len(spans), every)
    ]  # fmt: skip
    return _svg(
        "Decisions over time by applied action",
        f"{sum(sums)} decisions in {len(spans)} spans; at most {max(sums)} in one. The table below has the numbers.",
        _TOP + _BARS + 34,
        _grid(ticks, _BARS),
        bars,
        labels,
    )


def scores_against_thresholds(figures: Mapping[str, Any]) -> ET.Element:
    """Return a histogram of one reader's scores with a line at each threshold, its number beside it.

    Args:
        figures: as `ScoreFigures.document` gives them with `source`, with at least one bin.
    """
    bins = [(float(one["low"]), float(one["high"]), int(one["count"])) for one in figures["bins"]]
    thresholds = [float(bound["value"]) for bound in figures["thresholds"]]
    low, high = _range(bins, thresholds)
    ticks = nice_ticks(0, max(count for _, _, count in bins), whole=True)
    # A line of numbers above the plot for every threshold whose number would cover another.
    placed = _placed([_at(value, low, high) for value in thresholds])
    above = _LINE * (1 + max(placed, default=-1))
    bars = [
        e(
            "rect",
            e("title", f"{number(one)} to {number(other)}: {count}"),
            class_="bar",
            x=_px(_at(one, low, high)),
            y=_px(above + _TOP + _HISTOGRAM * (1 - count / ticks[-1])),
            width=_px(max(_at(other, low, high) - _at(one, low, high) - 0.5, 2.0)),
            height=_px(_HISTOGRAM * count / ticks[-1]),
        )
        for one, other, count in bins
        if count
    ]
    lines = [
        _threshold(index + 1, _at(value, low, high), row, above)
        for index, (value, row) in enumerate(zip(thresholds, placed, strict=True))
    ]
    labels = [
        e("text", number(tick), class_="label", text_anchor="middle", x=_px(_within(_at(tick, low, high))),
          y=_px(above + _TOP + _HISTOGRAM + 26))
        for tick in nice_ticks(low, high, whole=False)
        if low <= tick <= high
    ]  # fmt: skip
    total = sum(count for _, _, count in bins)
    return _svg(
        f"Scores of {figures['source']}",
        f"{total} scores from {number(bins[0][0])} to {number(bins[-1][1])}, and {len(thresholds)} thresholds, "
        "which the table below names by their number.",
        above + _TOP + _HISTOGRAM + 34,
        _grid(ticks, _HISTOGRAM, above),
        bars,
        lines,
        labels,
    )


def nice_ticks(low: float, high: float, *, whole: bool) -> list[float]:
    """Return three to seven round numbers from at most `low` to at least `high`, evenly apart.

    Args:
        low: finite.
        high: finite, at least `low`.
        whole: only whole numbers.
    """
    span = high - low
    if not math.isfinite(span) or span < SMALLEST_SPAN:
        span = max(abs(low), 1.0)
    # Steps below the distance of two floats would put several ticks into one place.
    raw = max(span / 4, math.ulp(low), math.ulp(high))
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    # Exact: far from zero a quotient of floats rounds to the wrong side.
    first, last = math.floor(Fraction(low) / Fraction(step)), math.ceil(Fraction(high) / Fraction(step))
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    """Return a number in few digits."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def span_name(start: str, seconds: int) -> str:
    """Return the name of a span of time: its day, and its time of day where it is shorter than a day."""
    return start[:10] if seconds >= 86_400 else f"{start[5:10]} {start[11:16]}"


def _range(bins: Sequence[tuple[float, float, int]], thresholds: Sequence[float]) -> tuple[float, float]:
    low = min(bins[0][0], *thresholds, bins[0][0])
    high = max(bins[-1][1], *thresholds, bins[-1][1])
    # Halves, because the difference of two floats may be beyond their range.
    margin = max((high / 2 - low / 2) * 0.08, abs(high) * 1e-6, abs(low) * 1e-6, 1e-12)
    return low - margin, high + margin


def _at(value: float, low: float, high: float) -> float:
    return _LEFT + _PLOT * (value / 2 - low / 2) / (high / 2 - low / 2)


def _placed(positions: Sequence[float]) -> list[int]:
    """Return a line for each number so that no two on one line touch, the lowest first."""
    rows: list[int] = [0] * len(positions)
    ends: list[float] = []
    for index in sorted(range(len(positions)), key=lambda index: positions[index]):
        row = next((row for row, end in enumerate(ends) if positions[index] - end >= 32), len(ends))
        ends[row : row + 1] = [positions[index]]
        rows[index] = row
    return rows


def _threshold(name: int, x: float, row: int, above: float) -> ET.Element:
    y = _TOP + row * _LINE
    return e(
        "g",
        e(
            "line",
            class_="threshold",
            x1=_px(x),
            x2=_px(x),
            y1=_px(above + _TOP - 10),
            y2=_px(above + _TOP + _HISTOGRAM),
        ),
        e("text", str(name), class_="mark", text_anchor="middle", x=_px(x), y=_px(y)),
    )


def _grid(ticks: Sequence[float], height: float, above: float = 0) -> list[ET.Element]:
    top, found = ticks[-1], []
    for tick in ticks:
        y = above + _TOP + height * (1 - tick / top)
        found.append(e("line", class_="grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=_px(y), y2=_px(y)))
        found.append(e("text", short(int(tick)), class_="label", text_anchor="end", x=_LEFT - 8, y=_px(y + 4)))
    return found


def short(count: int) -> str:
    """Return a count in few characters: `1.2k`, `3M`."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.4g}{letter}"
    return str(count)


def _within(x: float) -> float:
    """Return a place at which a centred label stays inside the drawing."""
    return min(max(x, 62.0), WIDTH - 62.0)


def _svg(title: str, description: str, height: float, *children: object) -> ET.Element:
    # <title> and aria-label name it; the table beside it has the numbers.
    return e(
        "svg",
        e("title", title),
        e("desc", description),
        *children,
        class_="chart",
        viewBox=f"0 0 {WIDTH} {_px(height)}",
        role="img",
        aria_label=f"{title}. {description}",
    )


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
