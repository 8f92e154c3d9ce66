"""Turns the SVG that matplotlib writes into a part of an HTML page.

Ids become unique in the page, style attributes become presentation attributes and classes (so that the page needs no
inline style and can recolour the drawing in dark mode), and names from documents enter only here, as escaped text:
matplotlib neither measures them nor reads formulas in them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from steerguard.evaluate.visible_text import visible

_XLINK = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT_SIZE = re.compile(r"(\d+(?:\.\d+)?)px")
_KEPT_PROPERTIES = frozenset(
    {
        "fill",
        "fill-opacity",
        "font-size",
        "font-weight",
        "opacity",
        "stroke",
        "stroke-dasharray",
        "stroke-dashoffset",
        "stroke-linecap",
        "stroke-linejoin",
        "stroke-opacity",
        "stroke-width",
        "text-anchor",
    }
)


class Labels:
    """Texts of a drawing, kept from matplotlib: it draws a placeholder that `inline_svg` replaces."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def add(self, text: str, *, limit: int = 60) -> str:
        """Return the placeholder of a text, which is shortened to `limit` characters."""
        placeholder = f"@{len(self._texts)}@"
        self._texts[placeholder] = text if len(text) <= limit else text[: limit - 1] + "…"
        return placeholder

    def resolve(self, drawn: str) -> str:
        """Return the text behind a placeholder; any other text as it is."""
        return visible(self._texts.get(drawn, drawn))


def inline_svg(
    document: str, *, name: str, title: str, description: str, labels: Labels, colours: Mapping[str, str]
) -> str:
    """Return one `<svg>` element that can stand in an HTML page.

    Args:
        document: an SVG document that matplotlib wrote.
        name: prefix of all ids, unique in the page; letters, digits and hyphens.
        title: short accessible name.
        description: what the drawing shows, for readers who do not see it.
        labels: the texts behind the placeholders.
        colours: colour in the drawing, such as `#0072b2`, to the class suffix that recolours it: `f-` and `s-` before it
            are the classes for fill and stroke.
    """
    root = ET.fromstring(document)  # noqa: S314 - written by matplotlib a moment ago, names are not yet in it
    _drop(root, frozenset({"metadata", "style"}))
    used = _referenced_ids(root)
    for element in root.iter():
        element.tag = _local(element.tag)
        _rewrite(element, name, used, colours)
        if element.tag == "text" and element.text:
            element.text = labels.resolve(element.text)
        elif element.tag == "svg" or not (element.text or "").strip():
            element.text = None
        element.tail = None
    width, height = root.get("viewBox", "0 0 1 1").split()[2:]
    root.attrib.clear()
    root.attrib.update(
        {
            "viewBox": f"0 0 {width} {height}",
            "class": "plot",
            "role": "img",
            "aria-labelledby": f"{name}-title {name}-description",
        }
    )
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(tag, {"id": f"{name}-{'title' if tag == 'title' else 'description'}"})
        element.text = visible(text)
        root.insert(position, element)
    return ET.tostring(root, encoding="unicode", short_empty_elements=False)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _drop(root: ET.Element, tags: frozenset[str]) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in tags:
                parent.remove(child)


def _referenced_ids(root: ET.Element) -> frozenset[str]:
    found: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            found.update(_REFERENCE.findall(value))
            if key in {_XLINK, "href"}:
                found.add(value.removeprefix("#"))
    return frozenset(found)


def _rewrite(element: ET.Element, name: str, used: frozenset[str], colours: Mapping[str, str]) -> None:
    identifier = element.attrib.pop("id", None)
    if identifier in used:
        element.set("id", f"{name}-{identifier}")
    target = element.attrib.pop(_XLINK, None)
    if target is not None:
        element.set("href", f"#{name}-{target.removeprefix('#')}")
    classes: list[str] = []
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":
            size = _FONT_SIZE.search(value)
            key, value = "font-size", size.group(1) if size else "11"
        if key not in _KEPT_PROPERTIES:
            continue
        element.set(key, value)
        if key in {"fill", "stroke"} and value in colours:
            classes.append(f"{key[0]}-{colours[value]}")
    if classes:
        element.set("class", " ".join(classes))
    for key, value in list(element.attrib.items()):
        element.set(key, " ".join(_REFERENCE.sub(rf"url(#{name}-\1)", value).split()))
