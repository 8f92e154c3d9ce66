"""The page on evaluating names every measure, every option and every file."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from steerguard.cli.main import application
from steerguard.evaluate.journal import ROWS_FILE
from steerguard.evaluate.measures import MEASURES
from steerguard.evaluate.prompt_spec import GRAMMAR, SUFFIXES
from steerguard.evaluate.run import REPORT_FILE, RESULT_FILE
from steerguard.evaluate.run_settings import SETTINGS_FILE
from steerguard.evaluate.speed import SPEED_FILE

PAGE = (Path(__file__).parents[2] / "docs" / "evaluating.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [measure.name for measure in MEASURES])
def test_every_measure_is_in_the_table(name):
    assert f"| `{name}` |" in PAGE


@pytest.mark.parametrize("name", [ROWS_FILE, RESULT_FILE, REPORT_FILE, SETTINGS_FILE, SPEED_FILE])
def test_every_file_is_in_the_table(name):
    assert f"| `{name}` |" in PAGE


def test_the_grammar_and_every_kind_of_file_are_named():
    assert f"`{GRAMMAR}`" in PAGE
    assert [suffix for suffix in SUFFIXES if f"| `{suffix}` |" not in PAGE] == []


def test_every_option_is_named():
    command = typer.main.get_command(application(["evaluate", "policy"])).commands["evaluate"]
    options = [option for parameter in command.params for option in parameter.opts if option != "--help"]
    assert [option for option in options if f"`{option}`" not in PAGE] == []
