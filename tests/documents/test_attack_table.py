"""The table of attacks names every test of an attack, no other, and errors that these tests expect."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from tests.integration.test_registry_attacks_bytes import POSITIONS
from tests.integration.test_registry_attacks_random import MUTATIONS

from steerguard import errors

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "attacks.md"
FILES = sorted((ROOT / "tests" / "integration").glob("test_registry_attacks_*.py"))


def rows(file: Path) -> dict[str, str]:
    """By test what stands in the last column of its line, in the section that names this file."""
    for section in TABLE.read_text(encoding="utf-8").split("\n## "):
        if f"`tests/integration/{file.name}`" in section:
            return dict(re.findall(r"^\| `(test_\w+)` \|.*\| ([^|\n]+) \|$", section, re.MULTILINE))
    return {}


def attacks_in(file: Path) -> list[str]:
    """Every test function of a file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def source_of(file: Path, name: str) -> str:
    """The text of a test and of the functions of its file that it names."""
    text = file.read_text(encoding="utf-8")
    parts = {
        node.name: ast.unparse(node)
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    return "\n".join(parts[other] for other in parts if other == name or re.search(rf"\b{other}\b", parts[name]))


def test_the_table_names_every_file_of_attacks():
    text = TABLE.read_text(encoding="utf-8")
    named = re.findall(r"`tests/integration/(test_registry_attacks_\w+\.py)`", text)
    assert sorted(named) == [file.name for file in FILES]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_line_is_a_test_and_each_test_has_a_line(file):
    assert sorted(rows(file)) == sorted(attacks_in(file))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_error_of_a_line_exists_and_is_expected_by_its_file(file):
    for name, told in rows(file).items():
        source = source_of(file, name)
        for error in re.findall(r"`(\w+Error)`", told):
            assert hasattr(errors, error), name
            assert error in source, name
        assert told.startswith(("`", "none", "any")), name


def test_a_thousand_positions_and_five_hundred_mutations_are_tried():
    assert sum(POSITIONS.values()) >= 1000
    assert sum(MUTATIONS.values()) == 500
