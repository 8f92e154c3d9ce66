"""Figures in README and docs are written by `benchmarks/figures.py` and are what the results say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.figures import NOT_MEASURED, RESULTS, ROOT, TABLES, chosen_by, pages, rewritten

EFFECT = {
    "figures": [
        {
            "id": "gate.one",
            "families": ["harmful-intent"],
            "title": "score reaches fpr 0.1",
            "set": "a set",
            "value": "0.5000",
            "n": 4,
            "wilson_low": "0.1500",
            "wilson_high": "0.8500",
        },
        {
            "id": "auroc.one.two",
            "families": ["harmful-intent"],
            "title": "AUROC",
            "set": "a | b",
            "value": "0.9",
            "n": 9,
        },
    ]
}
GATE_ROW = "| score reaches fpr 0.1 | a set | 0.5000 | 0.1500 to 0.8500 | 4 |"
AUROC_ROW = "| AUROC | a / b | 0.9 | – | 9 |"  # noqa: RUF001 - the dash of the table


def page(marker: str, content: str = "") -> str:
    return f"before\n\n<!-- figures:{marker} -->\n{content}<!-- /figures -->\n\nafter\n"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "effect.json").write_text(json.dumps(EFFECT), encoding="utf-8")
    builds = {
        "builds": [{"recipe": "one", "seconds": 90}, {"recipe": "two", "seconds": 30}],
        "threads": 1,
        "lanes": [["one"], ["two"]],
        "wall_seconds": 96,
    }
    (tmp_path / "build_times.json").write_text(json.dumps(builds), encoding="utf-8")
    return tmp_path


def test_a_prefix_chooses_rows_by_id(results):
    text, missing = rewritten(page("effect gate."), results)
    assert GATE_ROW in text
    assert AUROC_ROW not in text
    assert missing == []
    assert text.startswith("before\n\n<!-- figures:effect gate. -->\n| figure |")
    assert text.endswith("<!-- /figures -->\n\nafter\n")


def test_rows_come_in_the_order_of_the_prefixes_and_once(results):
    text, _ = rewritten(page("effect auroc. gate. gate.one"), results)
    assert text.index(AUROC_ROW) < text.index(GATE_ROW)
    assert text.count(GATE_ROW) == 1


@pytest.mark.parametrize(
    ("prefix", "chosen"),
    [
        ("gate.fpr_0.1", {"gate.fpr_0.1"}),
        ("gate", {"gate.fpr_0.1", "gate.fpr_0.15"}),
        ("gate.", {"gate.fpr_0.1", "gate.fpr_0.15"}),
    ],
)
def test_a_prefix_names_whole_parts_of_an_id(prefix, chosen):
    assert {name for name in ("gate.fpr_0.1", "gate.fpr_0.15", "gates.fpr_0.1") if chosen_by(prefix, name)} == chosen


def test_without_a_prefix_all_rows_are_shown_and_old_ones_go(results):
    text, _ = rewritten(page("effect", "| an old figure |\n"), results)
    assert GATE_ROW in text
    assert AUROC_ROW in text
    assert "old" not in text


def test_writing_twice_changes_nothing_more(results):
    once, _ = rewritten(page("effect"), results)
    assert rewritten(once, results) == (once, [])


def test_build_times_end_with_the_wall_time_of_all(results):
    text, _ = rewritten(page("build_times"), results)
    assert "| one | 90 | 1.5 | 1 |\n| two | 30 | 0.5 | 1 |\n| all, 2 at a time | 96 | 1.6 | 2 |" in text


@pytest.mark.parametrize("marker", ["effect strict.", "judge"])
def test_what_is_not_measured_is_said(results, marker):
    text, missing = rewritten(page(marker, "| 1.00 |\n"), results)
    assert f"-->\n{NOT_MEASURED}\n<!--" in text
    assert missing == [marker]


@pytest.mark.parametrize(
    "text",
    [
        page("unknown"),
        "<!-- figures:effect -->\n",
        "<!-- /figures -->\n",
        page("effect").replace(":effect", " :effect"),
    ],
)
def test_a_broken_block_is_refused(results, text):
    with pytest.raises(ValueError, match="figures"):
        rewritten(text, results)


def test_the_command_writes_and_checks(results, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(page("effect"), encoding="utf-8")

    def run(mode: str) -> int:
        script = ROOT / "benchmarks" / "figures.py"
        command = [sys.executable, str(script), mode, "--root", str(tmp_path), "--results", str(results)]
        return subprocess.run(command, check=False, capture_output=True).returncode

    assert [run("--check"), run("--write"), run("--check")] == [1, 0, 0]
    assert GATE_ROW in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_every_result_that_has_a_table_makes_one(file):
    if file.stem in TABLES:
        heads, rows = TABLES[file.stem](json.loads(file.read_text(encoding="utf-8")))
        assert rows
        assert {len(cells) for _, cells in rows} == {len(heads)}


@pytest.mark.parametrize("path", pages(ROOT), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_of_the_pages_is_what_the_results_say(path):
    text = path.read_text(encoding="utf-8")
    assert rewritten(text, RESULTS)[0] == text
