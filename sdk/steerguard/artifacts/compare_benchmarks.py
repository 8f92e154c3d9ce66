"""How the figures in `benchmarks.json` of two artifacts differ, and whether their intervals overlap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from steerguard.artifacts.difference import about

_INTERVALS = (("low", "high"), ("wilson_low", "wilson_high"))

Figure = Mapping[str, Any]


@about("benchmarks")
def benchmark_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    """Yield what differs between the figures of two artifacts; a figure is known by its section and id."""
    old, new = _named(a), _named(b)
    for name in sorted({*old, *new}):
        if name not in old:
            yield f"{name} added: {_value(new[name])} ({_sample(new[name])})."
        elif name not in new:
            yield f"{name} removed; it was {_value(old[name])} ({_sample(old[name])})."
        elif old[name] != new[name]:
            yield from _figure(name, old[name], new[name])


def _figure(name: str, old: Figure, new: Figure) -> Iterator[str]:
    if old["value"] != new["value"]:
        change = _change(old["value"], new["value"])
        yield f"{name}: {_value(old)} → {_value(new)}{change}; {_overlap(old, new)}."
    elif _interval(old) != _interval(new):
        yield f"{name}: the value is the same, {_value(old)} → {_value(new)}."
    if _sample(old) != _sample(new):
        yield f"{name} was measured otherwise: {_sample(old)} → {_sample(new)}."


def _named(data: Mapping[str, Any]) -> dict[str, Figure]:
    """Return all figures by section and id; one that repeats both is numbered."""
    named: dict[str, Figure] = {}
    repeated = Counter[str]()
    for name, figure in _figures(data):
        repeated[name] += 1
        named[name if repeated[name] == 1 else f"{name} ({repeated[name]})"] = figure
    return named


def _figures(data: Any, section: str = "") -> Iterator[tuple[str, Figure]]:
    """Yield every object that has an id and a value, wherever it stands."""
    if isinstance(data, Mapping):
        if isinstance(data.get("id"), str) and isinstance(data.get("value"), str):
            yield f"{section}.{data['id']}" if section else data["id"], data
            return
        for key in sorted(data):
            inner = section if key == "figures" and section else f"{section}.{key}" if section else key
            yield from _figures(data[key], inner)
    elif isinstance(data, list):
        for one in data:
            yield from _figures(one, section)


def _change(old: str, new: str) -> str:
    try:
        change = Decimal(new) - Decimal(old)
    except InvalidOperation:
        return ""
    return f" ({change:+f})" if change.is_finite() else ""


def _overlap(old: Figure, new: Figure) -> str:
    before, after = _interval(old), _interval(new)
    if before is None or after is None:
        return "no interval on both sides"
    if before[0] <= after[1] and after[0] <= before[1]:
        return "the intervals overlap"
    return "the intervals do not overlap"


def _interval(figure: Figure) -> tuple[Decimal, Decimal] | None:
    for low, high in _INTERVALS:
        if isinstance(figure.get(low), str) and isinstance(figure.get(high), str):
            try:
                found = Decimal(figure[low]), Decimal(figure[high])
            except InvalidOperation:
                return None
            return found if all(one.is_finite() for one in found) else None
    return None


def _value(figure: Figure) -> str:
    interval = _interval(figure)
    return figure["value"] if interval is None else f"{figure['value']} [{interval[0]}, {interval[1]}]"


def _sample(figure: Figure) -> str:
    parts = [f"n {figure['n']}"] if "n" in figure else []
    return ", ".join([*parts, *(str(figure[key]) for key in ("set", "weights", "hardware") if figure.get(key))])
