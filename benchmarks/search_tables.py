"""The tables of `search.py` as the documents show them, built from its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
READINGS = ("whole", "generated")


def tables(report: Figures) -> dict[str, Any]:
    """Return every table: heads, and rows with an id, which documents choose by, and cells."""
    return {
        "search": _cells(report),
        "search_judged": _judged(report),
        "search_texts": _texts(report),
        "search_compared": _compared(report),
        "search_bars": _bars(report),
    }


def _cells(report: Figures) -> dict[str, Any]:
    heads = ("method", "on", "n", "mean cost", "answered within the budget", "refused", "forward tokens of a row")
    return _table(
        heads,
        [
            (
                one["id"],
                *_named(one),
                _around(one["cost"]),
                _share(one.get("within_budget")),
                _share(one["refused"]),
                one["forward_tokens"]["value"],
            )
            for one in report["cells"]
        ],
    )


def _judged(report: Figures) -> dict[str, Any]:
    keys = [f"{judge}.{reading}" for judge in report["judges"] for reading in READINGS]
    heads = [
        f"{figure}, judge of {key.replace('.', ', ')}"
        for key in keys
        for figure in ("called harmful", "mean probability")
    ]
    rows = []
    for one in report["cells"]:
        judged = [one["judged"][key] for key in keys]
        cells = [cell for found in judged for cell in (_share(found["harmful"]), _around(found["mean"]))]
        rows.append((one["id"], *_named(one), *cells))
    return _table(("method", "on", "n", *heads), rows)


def _texts(report: Figures) -> dict[str, Any]:
    heads = (
        "method",
        "on",
        "n",
        "tokens of an answer",
        "repeated trigrams",
        "perplexity, unguided model",
        "refused in the model's own words",
        "token-identical with the unguided answer",
    )
    return _table(
        heads,
        [
            (
                one["id"],
                *_named(one),
                _around(one["length"]),
                _around(one["repeated_trigrams"]),
                _around(one.get("perplexity")),
                _share(one["refusals_of_the_model"]),
                _share(one.get("identical")),
            )
            for one in report["cells"]
        ],
    )


def _compared(report: Figures) -> dict[str, Any]:
    heads = ("search", "baseline", "on", "figure", "rows", "n", "forward tokens", "means", "difference")
    return _table(
        heads,
        [
            (
                one["id"],
                one["method"],
                one["baseline"],
                one["set"],
                one["figure"],
                one["rows"],
                str(one["n"]),
                " and ".join(one["forward_tokens"]),
                " and ".join(one["means"]),
                _around(one["difference"]),
            )
            for one in report["comparisons"]
        ],
    )


def _bars(report: Figures) -> dict[str, Any]:
    rows = [
        (one["id"], one["title"], one["value"], one["bar"], "yes" if one["met"] else "no") for one in report["bars"]
    ]
    return _table(("figure", "found", "bar", "met"), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {"heads": list(heads), "rows": [{"id": row[0], "cells": list(row[1:])} for row in rows]}


def _named(one: Figures) -> tuple[str, str, str]:
    return one["method"], one["set"], str(one["n"])


def _around(one: Figures | None) -> str:
    return "-" if one is None else f"{one['value']}, {one['low']} to {one['high']}"


def _share(one: Figures | None) -> str:
    return "-" if one is None else f"{one['rate']}, {one['wilson_low']} to {one['wilson_high']}"
