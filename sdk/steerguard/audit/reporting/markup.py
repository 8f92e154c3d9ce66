"""Elements of a page as a tree: text is escaped by what writes it, so no value of a record can become markup."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree as ET

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Categories of characters that are not shown, or that turn the direction of text around."""


def e(tag: str, *children: object, **attributes: str | int) -> ET.Element:
    """Return an element.

    Args:
        tag: its name.
        children: elements, texts, numbers, None for nothing, and iterables of them.
        attributes: `class_` and `for_` lose their underscore, and other underscores become hyphens.
    """
    element = ET.Element(
        tag, {name.rstrip("_").replace("_", "-"): visible(str(value)) for name, value in attributes.items()}
    )
    _append(element, children)
    return element


def visible(text: str) -> str:
    r"""Return text with every hidden character written out, `\u202e` for example; a line break becomes a space."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(" " if one == "\n" else _shown(one) for one in text)


def page(*children: object) -> str:
    """Return a document of one `html` element in English."""
    # method="html" closes every element but the void ones, and leaves the text of <style> as it is.
    return "<!DOCTYPE html>\n" + ET.tostring(e("html", *children, lang="en"), encoding="unicode", method="html") + "\n"


def style(text: str) -> ET.Element:
    """Return a style sheet of this package; its text is not escaped.

    Raises:
        ValueError: it could end its element.
    """
    if "<" in text:
        raise ValueError
    element = ET.Element("style")
    element.text = text
    return element


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Iterable[object]],
    *,
    numbers: Iterable[int] = (),
    whole: Iterable[int] = (),
    stacked: bool = False,
) -> ET.Element:
    """Return a table in a box that scrolls sideways and can be reached with the keyboard.

    Args:
        caption: what it holds; also the name of the box.
        head: titles of the columns.
        rows: cells, of which the first is the title of its row.
        numbers: columns that are set right, from 0.
        whole: columns whose cells are not broken into lines, such as times and ids.
        stacked: on narrow screens the cells of a row stand below one another, each with the title of its column.
    """
    classes = {**dict.fromkeys(whole, "w"), **dict.fromkeys(numbers, "n")}

    def cell(tag: str, index: int, content: object, **more: str) -> ET.Element:
        named = {"data_title": head[index]} if stacked and tag == "td" else {}
        return e(tag, content, **more, **named, **({"class_": classes[index]} if index in classes else {}))

    body = [
        e("tr", [cell("th", 0, first, scope="row"), *(cell("td", index, other) for index, other in enumerate(rest, 1))])
        for first, *rest in rows
    ]
    titles = e("tr", [cell("th", index, title, scope="col") for index, title in enumerate(head)])
    return e(
        "div",
        e("table", e("caption", caption), e("thead", titles), e("tbody", body)),
        class_="scroll stack" if stacked else "scroll",
        role="region",
        aria_label=caption,
        tabindex=0,
    )


def _shown(character: str) -> str:
    hidden = unicodedata.category(character) in _HIDDEN
    return character.encode("unicode_escape").decode("ascii") if hidden else character


def _append(element: ET.Element, children: object) -> None:
    if children is None:
        return
    if isinstance(children, ET.Element):
        element.append(children)
    elif isinstance(children, (str, int)):
        _text(element, visible(str(children)))
    elif isinstance(children, Iterable):
        for child in children:
            _append(element, child)
    else:
        raise TypeError(type(children).__name__)


def _text(element: ET.Element, text: str) -> None:
    if len(element):
        element[-1].tail = (element[-1].tail or "") + text
    else:
        element.text = (element.text or "") + text
