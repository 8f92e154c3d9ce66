"""docs/models.md lists the model classes that the conformance tests run, and says of each what they find."""

from __future__ import annotations

import re
from pathlib import Path

from tests.custom_models import homemade_model
from tests.model_classes import table

from steerguard.engine.arguments import GUIDED_INPUTS
from steerguard.models.blocks import declaration

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_table_of_model_classes_is_the_one_that_the_models_give():
    written = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert written == table()


def test_the_inputs_that_are_taken_along_are_the_named_ones():
    (sentence,) = re.findall(r"^Taken along are (.+)\.$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", sentence))
    assert named == GUIDED_INPUTS - {"input_ids", "attention_mask", "token_type_ids", "logits_to_keep"} | {
        "token_type_ids"
    }


def test_the_page_shows_the_lines_that_the_error_prints():
    printed = [line.strip() for line in declaration(homemade_model("MyDecoder").decoder).splitlines()[1:]]
    assert all(line in PAGE.read_text(encoding="utf-8") for line in printed)
