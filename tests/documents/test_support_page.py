"""docs/support.md covers every class, way and method once, has no empty cell, and its cells are still true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support_cells import WITHIN_TOLERANCE, WORKS, CellError, cell, model_of
from tests.support_table import (
    CLASSES,
    EVERY_CLASS,
    EVERY_OTHER_CLASS,
    HOLDS,
    HOLDS_WITH_EXPERTS,
    METHODS,
    class_name,
    conforms,
    settings_text,
    with_tables,
)
from tests.support_ways import WAYS

from steerguard import errors
from steerguard.methods import catalog

PAGE = (Path(__file__).parents[2] / "docs" / "support.md").read_text(encoding="utf-8")
RAISES = re.compile(r"(raises|not offered by transformers:) `(\w+)`: .+")
SMOKE = [
    ("gpt2", "greedy search"),
    ("olmoe", "greedy search"),
    ("gemma3", "a static cache"),
    ("falcon_mamba", "a plan of two passes"),
    ("falcon_mamba", "a chunked prefill"),
    ("llava", "beam search, 4 beams"),
    ("qwen2_5_vl", "`guard.forward`"),
    ("qwen2_audio", "`pipeline`"),
]


def _table(heading):
    """The cells of one table, by what its rows are about and by class."""
    _, _, part = PAGE.partition(f"\n## {heading}\n")
    lines = [line for line in part.partition("\n## ")[0].splitlines() if line.startswith("| ")][2:]
    names = {class_name(name): name for name in CLASSES}
    rows = [[part.strip() for part in line.strip().strip("|").split(" | ")] for line in lines]
    named = {(*about, name) for *about, _, classes in rows for name in classes.split(", ")}
    found = {}
    for *about, result, classes in rows:
        assert all((*about, result, classes))
        others = [name for name in names if (*about, name) not in named]
        listed = {EVERY_CLASS: names, EVERY_OTHER_CLASS: others}.get(classes) or classes.split(", ")
        for name in listed:
            key = (*about, names[name])
            assert key not in found, key
            found[key] = result
    return found


def test_every_class_and_way_has_one_cell_and_no_other():
    assert set(_table("Ways of generating")) == {(way, name) for way in WAYS for name in CLASSES}


def test_a_cell_is_works_or_within_a_tolerance_or_a_named_error():
    for key, result in _table("Ways of generating").items():
        if result in {WORKS, WITHIN_TOLERANCE}:
            continue
        (kind, name) = RAISES.fullmatch(result).groups()
        assert kind != "raises" or issubclass(getattr(errors, name), errors.SteerguardError), key


def test_every_available_method_has_one_cell_per_class_and_no_other():
    table = _table("Guarantees of each method")
    assert set(METHODS) == {method.name for method in catalog.METHODS if not method.searches}
    assert set(table) == {
        (f"`{method}`", settings_text(settings), name)
        for method, variants in METHODS.items()
        for settings in variants
        for name in CLASSES
    }
    assert set(table.values()) == {HOLDS, HOLDS_WITH_EXPERTS}


@pytest.mark.parametrize("way", WAYS)
def test_what_the_page_says_of_llama_is_still_true(way):
    assert cell("llama", way) == _table("Ways of generating")[way, "llama"]


@pytest.mark.parametrize(("architecture", "way"), SMOKE, ids=str)
def test_what_the_page_says_of_other_classes_is_still_true(architecture, way):
    assert cell(architecture, way) == _table("Ways of generating")[way, architecture]


@pytest.mark.parametrize("architecture", ["olmoe", "gemma3_vision"])
def test_what_the_page_says_of_a_method_is_still_true(architecture):
    table = _table("Guarantees of each method")
    settings = METHODS["refusal_direction"][-1]
    wanted = table["`refusal_direction`", settings_text(settings), architecture]
    assert conforms("refusal_direction", settings, architecture) == wanted


def test_a_closed_row_that_is_changed_gives_no_cell(monkeypatch):
    """A pair that fails must not become a cell."""
    plain = WAYS["greedy search"]

    def leaking(model, batch):
        answers = plain(model, batch)
        if hasattr(model, "guard"):
            answers.logits[1] = answers.logits[1] + 1e-3
        return answers

    monkeypatch.setitem(WAYS, "greedy search", leaking)
    with pytest.raises(CellError, match="closed rows differ"):
        cell("llama", "greedy search")


def test_an_error_that_only_the_guarded_model_raises_gives_no_cell(monkeypatch):
    plain = WAYS["greedy search"]

    def failing(model, batch):
        if hasattr(model, "guard"):
            raise LookupError
        return plain(model, batch)

    monkeypatch.setitem(WAYS, "greedy search", failing)
    with pytest.raises(CellError, match="only the guarded model raises"):
        cell("llama", "greedy search")


def test_only_the_generated_part_of_the_page_is_replaced():
    generated = PAGE[PAGE.index("<!-- from") : PAGE.index("to here -->") + len("to here -->")]
    assert with_tables(PAGE, generated) == PAGE
    assert with_tables(PAGE, "x").startswith("# What is supported")
    assert model_of("llama") is model_of("llama")
