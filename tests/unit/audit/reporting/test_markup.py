"""Elements of the page: whatever a value is, it stays text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.html_page import Page

from steerguard.audit.reporting.markup import e, page, style, table, visible


@given(st.text(), st.text())
def test_any_text_is_read_back_as_text(inside, named):
    read = Page(page(e("body", e("p", inside, title=named))))
    assert read.faults == []
    assert [tag for tag, _ in read.elements] == ["html", "body", "p"]
    assert "".join(read.texts).strip() == visible(inside).strip()
    assert read.elements[2][1]["title"] == visible(named)


@pytest.mark.parametrize("hidden", ["\x00", "\x1b", "\u202e", "\u200b", "\ufeff", "\ud800", "\u2028", "\x7f", "\x85"])
def test_characters_that_do_not_show_are_written_out(hidden):
    assert visible(f"a{hidden}b") == f"a{hidden.encode('unicode_escape').decode()}b"


def test_children_are_elements_texts_numbers_nothing_and_iterables_of_them():
    element = e("p", "one ", None, 2, [e("b", "three"), " four"], class_="x", data_title="y")
    assert "".join(element.itertext()) == "one 2three four"
    assert element.attrib == {"class": "x", "data-title": "y"}
    with pytest.raises(TypeError):
        e("p", 1.5)


def test_a_style_sheet_cannot_end_its_element():
    with pytest.raises(ValueError, match=r"^$"):
        style("</style><script>")


def test_a_table_has_a_caption_scopes_and_a_box_for_the_keyboard():
    read = Page(
        page(e("body", table("Counts", ("Name", "Count"), [("a", "1")], numbers=(1,), whole=(0,), stacked=True)))
    )
    assert read.faults == []
    assert read.tables == [[["Name", "Count"], ["a", "1"]]]
    box = next(given for tag, given in read.elements if tag == "div")
    assert (box["class"], box["tabindex"], box["aria-label"]) == ("scroll stack", "0", "Counts")
    cell = next(given for tag, given in read.elements if tag == "td")
    assert cell == {"data-title": "Count", "class": "n"}
