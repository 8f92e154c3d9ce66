"""The page on certifying names every option and every field, and its example of a bound is what the code computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from steerguard.cli.main import application
from steerguard.evaluate.certificate_document import Certificate, ViolationRate
from steerguard.evaluate.proportions import clopper_pearson_upper

PAGE = (Path(__file__).parents[2] / "docs" / "certifying.md").read_text(encoding="utf-8")


def test_every_option_is_named():
    command = typer.main.get_command(application(["certify", "policy"])).commands["certify"]
    options = [option for parameter in command.params for option in parameter.opts if option != "--help"]
    assert [option for option in options if f"| `{option}` |" not in PAGE] == []


@pytest.mark.parametrize("field", [*ViolationRate.model_fields, *Certificate.model_fields])
def test_every_field_of_the_document_is_named(field):
    field = {"api_version": "apiVersion", "predicate_type": "predicateType"}.get(field, field)
    assert f"`{field}" in PAGE or f"`predicate.{field}" in PAGE


def test_the_example_of_a_bound_is_computed():
    assert f"{clopper_pearson_upper(0, 260, 0.95):.4f} for 260 prompts" in PAGE
