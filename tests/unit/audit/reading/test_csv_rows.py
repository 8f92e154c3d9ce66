from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.audit_events import (
    DIGEST,
    LOG,
    MODEL,
    PLAN,
    bodies,
    decision,
    failed,
    refusal,
    searched,
    sized_content,
    tagged_content,
)
from tests.chained_logs import record

from steerguard.audit.reading.csv_rows import COLUMNS, decision_row, guarded, header

STARTS = ("=", "+", "-", "@", "\t", "\r")


def row(body, **changes):
    text = (header() + decision_row({**record(body), **changes})).decode("utf-8")
    (found,) = csv.DictReader(io.StringIO(text, newline=""))
    return found


def test_a_decision_is_one_row_with_all_columns():
    found = row(decision(req="r1"), request_id="host-7")
    assert list(found) == list(COLUMNS)
    expected = {
        "log": LOG,
        "seq": "1",
        "time": "2026-11-22T07:15:01.000000Z",
        "request": "r1",
        "row": "0",
        "request_id": "host-7",
        "tenant": "",
        "mode": "enforce",
        "intended": "guide",
        "applied": "guide",
        "cause": "rule",
        "rules": "guide_suspected_harm",
        "readings": "harmful_intent=1.8125; align/block 10=0.40625",
        "near": "false",
        "doses": "align x1.0 24/24",
        "policy": "harmlessness",
        "policy_version": "1.0.0",
        "policy_digest": DIGEST,
        "plan": PLAN,
        "model": "smollm2",
        "prompt_tokens": "57",
        "generated_tokens": "128",
        "extra_forward_tokens": "0",
        "cached_tokens": "0",
        "budget": "within",
        "max_extra_forward_tokens": "0",
        "search_method": "",
        "template_cut": "false",
        "error": "",
        "content_form": "tokens",
        "content_in": "",
    }
    assert {name: found[name] for name in expected} == expected
    assert found["thresholds"].startswith("harmful_intent>=5.25 (refuse_clear_harm); harmful_intent>=1.25 (guide_")
    assert "harmful_intent<5.25 (guide_suspected_harm)" in found["thresholds"]


def test_every_column_is_explained():
    text = (Path(__file__).parents[4] / "docs" / "audit-reading.md").read_text("utf-8")
    table = text.partition("| columns of a row | meaning |")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+)`", "".join(line.split(" | ")[0] for line in table.splitlines()))
    assert sorted(named) == sorted(COLUMNS)


def test_search_error_and_tags_have_columns():
    found = row(searched())
    assert (found["search_method"], found["search_outcome"], found["search_cost"]) == (
        "inference_guard",
        "found",
        "0.125",
    )
    assert row(failed())["error_stage"] == "detect"
    assert row(refusal(content=tagged_content()))["content_in"].startswith("hmac:")
    assert row(refusal(content=sized_content(answer=None)))["content_out"] == ""


@pytest.mark.parametrize("start", STARTS)
def test_what_a_spreadsheet_could_take_for_a_formula_is_guarded(start):
    assert guarded(f"{start}HYPERLINK(1)") == f"'{start}HYPERLINK(1)"
    assert guarded(f"a{start}b") == f"a{start}b"


def test_a_hostile_name_is_guarded_and_quoted():
    name = '=cmd|" /C calc"!A0,\n'
    found = row(decision(model=MODEL.model_copy(update={"name": "-1+1"})), tenant=name)
    assert found["tenant"] == f"'{name}"
    assert found["model"] == "'-1+1"


@given(st.one_of(bodies(["guard.decision"])))
def test_no_cell_of_any_decision_begins_like_a_formula(body):
    found = row(body)
    assert None not in found
    assert None not in found.values()
    assert [cell for cell in found.values() if cell.startswith(STARTS)] == []
