"""The tables of docs/support.md, written from a run: `python -m tests.support_table --write docs/support.md`.

Every class is run in every way, and every method on every class; a pair that neither works nor raises by name ends the
run, and nothing is written.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import get_args

import torch
from tests.guarded_models import EXPERT_MODELS
from tests.support_cells import EXPERTS_TOLERANCE, cell, model_of
from tests.support_ways import WAYS
from transformers.utils import logging

from steerguard.testing import Architecture, assert_conforms

CLASSES = get_args(Architecture)
METHODS = {
    "inferaligner": ({"coefficient": 4.0, "gate": "per_block"},),
    "fitted_refusal": ({"coefficient": 4.0, "positions": "decode"},),
    "refusal_direction": ({"coefficient": 4.0}, {"mode": "ablate"}),
    "rolling_guard": ({"threshold": {"value": 0.0}, "every": 2},),
}
"""Settings under which every available method is run on every class."""
HOLDS = "1, 2, 3, 4, 6, 7, 8"
HOLDS_WITH_EXPERTS = "1 within 1e-4, 2, 3, 4, 6, 7, 8"
EVERY_CLASS, EVERY_OTHER_CLASS = "every class", "every other class"
START, END = "<!-- from here on written by `make conformance-all` -->", "<!-- to here -->"


def class_name(architecture):
    """The class of the model, as in docs/models.md."""
    return f"`{type(model_of(architecture)).__name__}`"


def settings_text(settings):
    """Settings as a policy would write them."""
    return f"`{', '.join(f'{name}: {_value(value)}' for name, value in settings.items())}`"


def _value(value):
    return f"{{{', '.join(f'{name}: {entry}' for name, entry in value.items())}}}" if isinstance(value, dict) else value


def conforms(method, settings, architecture):
    """Prove the guarantees of one method on one class; return the cell."""
    experts = architecture in EXPERT_MODELS
    tolerance = EXPERTS_TOLERANCE if experts else 0.0
    assert_conforms(method, model_of(architecture), settings=settings, row_tolerance=tolerance)
    return HOLDS_WITH_EXPERTS if experts else HOLDS


def grouped(heads, results):
    """Lines of a table: one per result, with the classes that have it; `results` is by row, then by class."""
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    for row, found in results.items():
        for result in dict.fromkeys(found.values()):
            classes = [class_name(name) for name in CLASSES if found[name] == result]
            names = EVERY_OTHER_CLASS if 2 * len(classes) > len(CLASSES) else ", ".join(classes)
            names = EVERY_CLASS if len(classes) == len(CLASSES) else names
            lines.append(f"| {' | '.join(row)} | {result} | {names} |")
    return lines


def tables(report=lambda _: None):
    """Run everything; return the generated part of the page."""
    ways = {}
    for way in WAYS:
        report(way)
        ways[way,] = {name: cell(name, way) for name in CLASSES}
    methods = {}
    for method, variants in METHODS.items():
        for settings in variants:
            report(f"{method} {settings}")
            methods[f"`{method}`", settings_text(settings)] = {
                name: conforms(method, settings, name) for name in CLASSES
            }
    return "\n".join(
        [
            START,
            "",
            "## Ways of generating",
            "",
            *grouped(("Way", "Result", "Classes"), ways),
            "",
            "## Guarantees of each method",
            "",
            *grouped(("Method", "Settings", "Guarantees that hold", "Classes"), methods),
            "",
            END,
        ]
    )


def with_tables(page, generated):
    """The page with its generated part replaced."""
    before, _, rest = page.partition(START)
    return before + generated + rest.partition(END)[2]


def main():
    """Run every pair and write the page, or compare it with what is written."""
    parser = argparse.ArgumentParser(description=__doc__)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--write", type=Path)
    how.add_argument("--check", type=Path)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    path = chosen.write or chosen.check
    generated = tables(report=print)
    page = path.read_text(encoding="utf-8")
    wanted = with_tables(page, generated)
    if chosen.write:
        path.write_text(wanted, encoding="utf-8")
    elif page != wanted:
        raise SystemExit(f"{path} is not what the run found: run `make conformance-all`")


if __name__ == "__main__":
    main()
