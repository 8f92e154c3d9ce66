from __future__ import annotations

import json
import re
from importlib import resources

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.report_examples import example, one_sample

from steerguard.errors import SteerguardError
from steerguard.evaluate.report import render_report
from steerguard.evaluate.report_samples import SAME_TEXT, sample_data, script_json
from steerguard.evaluate.visible_text import _UNSEEN, visible

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]></style><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }} {% raw %}",
    "\u202egnp.exe\u202c \u2066x\u2069 \u200b\ufeff",
    "& &lt; &#60; \" ' ` \u2028 \u2029 \x00 \x1b[31m",
    "$\\frac{1}{2}$ @0@ \U0001f600 \U000e0041",
)
texts = st.one_of(
    st.text(), st.sampled_from(HOSTILE), st.text(alphabet="<>/!-&;\"'scriptSCRIPT\u202e\u2028\x00 {%}$@0")
)
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script', re.DOTALL | re.IGNORECASE)


@given(prompt=texts, answer=texts)
def test_any_text_comes_back_from_the_data_block_as_it_was(prompt, answer):
    document, rows = one_sample(prompt, answer)
    block = script_json(sample_data(document, rows))
    assert block.isascii()
    assert not set("<>&") & set(block)
    assert json.loads(block)["samples"][0][2] == prompt
    assert json.loads(block)["samples"][0][4][0][0] == answer


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=texts)
def test_no_text_of_a_row_changes_the_page_outside_its_data_block(text):
    pages = [render_report(*one_sample(*texts)) for texts in (("plain", "plain"), (text, text))]
    assert DATA.sub("", pages[0]) == DATA.sub("", pages[1])
    assert len(DATA.findall(pages[1])) == 1


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=texts)
def test_the_name_of_a_set_stands_in_the_page_as_text_only(name):
    page = DATA.sub("", render_report(*one_sample(name=name)))
    plain = DATA.sub("", render_report(*one_sample(name="plain")))
    assert page.count("<") == plain.count("<")
    assert _UNSEEN.search(page) is None


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_add_no_tag_and_no_unseen_character(name):
    page = DATA.sub("", render_report(*one_sample(name=name)))
    assert page.count("<") == DATA.sub("", render_report(*one_sample(name="plain"))).count("<")
    assert _UNSEEN.search(page) is None


def test_unseen_characters_become_their_names():
    assert visible("a\u202eb\x00\tc\n\u200d") == "a[U+202E]b[U+0000]\tc\n\u200d"


def test_the_script_marks_the_same_characters_as_the_page():
    script = resources.files("steerguard.evaluate").joinpath("report_script.js").read_text(encoding="utf-8")
    pattern = re.search(r"const UNSEEN = /(.+)/gu;", script).group(1)
    pattern = re.sub(r"\\u\{([0-9a-f]+)\}", lambda found: f"\\U{found.group(1):0>8}", pattern)
    every = "".join(map(chr, range(0x110000)))
    assert re.findall(pattern, every) == _UNSEEN.findall(every)


def test_an_answer_that_equals_the_unguided_one_is_stored_once():
    document, rows = example()
    answers = [answer for sample in sample_data(document, rows)["samples"] for answer in sample[4]]
    identical = [answer for answer in answers if answer[1]]
    assert identical
    assert all(answer[0] == SAME_TEXT for answer in identical)


def test_a_run_without_a_row_for_a_prompt_is_shown_as_such():
    document, rows = example()
    data = sample_data(document, rows[1:])
    assert data["samples"][0][4][0] is None
    assert data["samples"][0][4][1][0] != SAME_TEXT


@pytest.mark.parametrize("change", [{"set": "other"}, {"run": "other"}, {"index": 99}])
def test_a_row_of_another_evaluation_is_refused_without_its_text(change):
    document, rows = one_sample(prompt="SECRET")
    with pytest.raises(SteerguardError, match="does not belong") as caught:
        sample_data(document, [rows[0].model_copy(update=change)])
    assert "SECRET" not in str(caught.value)


def test_a_row_that_occurs_twice_or_contradicts_another_run_is_refused():
    document, rows = example()
    with pytest.raises(SteerguardError, match="found: two"):
        sample_data(document, [*rows, rows[0]])
    with pytest.raises(SteerguardError, match="another prompt"):
        sample_data(document, [*rows[1:], rows[0].model_copy(update={"prompt": "x"})])
