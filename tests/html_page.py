"""Reads an HTML page with the standard parser and notes what is wrong with it."""

from __future__ import annotations

from html.parser import HTMLParser

_VOID = frozenset({"meta", "input", "br", "hr", "img", "link"})
_LOADING = frozenset({"src", "href", "xlink:href", "action", "data", "poster", "srcset", "formaction", "background"})


class Page(HTMLParser):
    """Elements, texts and references of one page."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open = []
        self.faults = []
        self.ids = []
        self.attributes = []
        self.references = []
        self.elements = []
        self.texts = []
        self.blocks = {}
        self.tables = []
        self.headings = []
        self._block = None
        self.feed(html)
        self.close()
        self.faults += [f"{tag} is never closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.elements.append((tag, given))
        if len(given) != len(attrs):
            self.faults.append(f"an attribute of {tag} occurs twice")
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.references += [value for name, value in attrs if name in _LOADING]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in _VOID:
            self.open.append(tag)
        if tag in {"script", "style"}:
            self._block = (tag, given.get("type"))
            self.blocks[self._block] = ""
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")
        elif tag in {"h1", "h2", "h3", "h4", "h5", "h6"}:
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"{tag} is closed inside {self.open[-1:]}")
        else:
            self.open.pop()
        self._block = None

    def handle_data(self, data):
        if self._block is not None:
            self.blocks[self._block] += data
            return
        self.texts.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def text(self):
        return " ".join(" ".join(self.texts).split())
