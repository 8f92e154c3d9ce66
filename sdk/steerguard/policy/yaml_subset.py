"""Read the strict subset of YAML 1.2 that policies use, and keep the place of every field.

Only PyYAML's parser is used, up to its events; what they mean is decided here, so that no YAML 1.1 rule applies.
Refused: anchors, aliases, tags, merge keys, directives, duplicate keys, keys that are not text, a second document.
JSON is accepted as the subset of YAML that it is, after the JSON parser has accepted it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from steerguard.errors import PolicySyntaxError
from steerguard.policy.problems import Path, Position, Problem, dotted, error_of
from steerguard.policy.scalars import ScalarRefusedError, plain_scalar

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedDocument:
    """The data of a document, and where each field stands."""

    data: Any
    positions: dict[Path, Position]
    """Path to the place of the key of a mapping entry, or of a list item; the empty path is the top."""
    written: dict[Path, str]
    """Path of each number to its text in the file: `1.10` is the float 1.1."""


@dataclass(slots=True)
class _Frame:
    """One open mapping or list."""

    container: dict[str, Any] | list[Any]
    path: Path
    key: str | None = None


@dataclass(slots=True)
class _Construction:
    """Data under construction from the event stream of one file."""

    file: str
    root: Any = None
    documents: int = 0
    frames: list[_Frame] = field(default_factory=list)
    positions: dict[Path, Position] = field(default_factory=dict)
    written: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def take(self, event: yaml.Event) -> None:
        """Add one event of the parser."""
        if isinstance(event, yaml.DocumentStartEvent):
            self._start_document(event)
        elif isinstance(event, yaml.AliasEvent):
            self._refuse(event, f"the alias *{event.anchor} is not allowed", "Repeat the value.")
            self._scalar(event, f"*{event.anchor}", plain=False)
        elif isinstance(event, yaml.ScalarEvent):
            self._refuse_decoration(event)
            self._scalar(event, event.value, plain=event.implicit[0] and event.style is None)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._refuse_decoration(event)
            self._open(event)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self.frames.pop()

    def _start_document(self, event: yaml.DocumentStartEvent) -> None:
        self.documents += 1
        if self.documents > 1:
            self._stop(event, "a file holds one document, and a second one starts here", "Remove the `---` line.")
        if event.version is not None or event.tags:
            self._refuse(event, "YAML directives are not allowed", "Remove the lines that start with %.")

    def _refuse_decoration(self, event: yaml.NodeEvent) -> None:
        if event.anchor is not None:
            self._refuse(event, f"the anchor &{event.anchor} is not allowed", "Remove the anchor and repeat the value.")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._refuse(event, f"the tag {tag} is not allowed", "Remove the tag.")

    def _scalar(self, event: yaml.NodeEvent, text: str, *, plain: bool) -> None:
        frame = self.frames[-1] if self.frames else None
        awaits_key = frame is not None and isinstance(frame.container, dict) and frame.key is None
        if plain and text == "<<" and awaits_key:
            self._refuse(event, "the merge key << is not allowed", "Write the fields out.")
        try:
            value = plain_scalar(text) if plain else _joined_surrogates(text)
        except ScalarRefusedError as error:
            self._refuse(event, str(error), None)
            value = 0
        if frame is not None and awaits_key:
            self._key(frame, event, value if isinstance(value, str) else text, is_text=isinstance(value, str))
        else:
            path = self._place(event, value)
            if plain and isinstance(value, (int, float)) and not isinstance(value, bool):
                self.written[path] = text

    def _key(self, frame: _Frame, event: yaml.NodeEvent, text: str, *, is_text: bool) -> None:
        if not is_text:
            self._refuse(event, f"the key {text or 'null'} is not text", "Put the key into quotes.")
        frame.key = text
        path = (*frame.path, text)
        if isinstance(frame.container, dict) and text in frame.container:
            first = self.positions[path]
            self._refuse(event, f"the key {text} stands twice; first in line {first.line}", "Remove one of the two.")
        else:
            self.positions[path] = _position(event)

    def _open(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        if len(self.frames) >= MAX_DEPTH:
            self._stop(event, f"the document is nested more than {MAX_DEPTH} levels deep", None)
        frame = self.frames[-1] if self.frames else None
        if frame is not None and isinstance(frame.container, dict) and frame.key is None:
            self._stop(event, "a key must be text, not a list or a mapping", None)
        container: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self.frames.append(_Frame(container, self._place(event, container)))

    def _place(self, event: yaml.NodeEvent, value: object) -> Path:
        """Put a value where the parser stands and return its path."""
        if not self.frames:
            self.root = value
            self.positions[()] = _position(event)
            return ()
        frame = self.frames[-1]
        if isinstance(frame.container, list):
            path: Path = (*frame.path, len(frame.container))
            self.positions[path] = _position(event)
            frame.container.append(value)
            return path
        key = frame.key or ""
        frame.key = None
        frame.container.setdefault(key, value)
        return (*frame.path, key)

    def _refuse(self, event: yaml.Event, message: str, hint: str | None) -> None:
        path = self.frames[-1].path if self.frames else ()
        if self.frames and self.frames[-1].key is not None:
            path = (*path, self.frames[-1].key)
        self.problems.append(
            Problem(
                file=self.file, position=_position(event), field=dotted(path), message=_sentence(message), hint=hint
            )
        )

    def _stop(self, event: yaml.Event, message: str, hint: str | None) -> None:
        self._refuse(event, message, hint)
        raise error_of(PolicySyntaxError, self.problems, file=self.file)


def read_document(text: str, *, file: str) -> ParsedDocument:
    """Return the data of one YAML or JSON document.

    Args:
        text: the document; a byte order mark is ignored.
        file: name for messages; with the ending `.json` the text must be JSON.

    Raises:
        PolicySyntaxError: the text is not of the subset; every offending place is listed.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise _syntax_error(file, None, "the document is too large", expected=f"at most {MAX_BYTES // 1024} KiB")
    if file.endswith(".json"):
        text = _checked_json(text, file)
    construction = _Construction(file)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            construction.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = Position(line=mark.line + 1, column=mark.column + 1) if mark else None
        raise _syntax_error(file, position, str(error.problem or error.context)) from error
    except yaml.reader.ReaderError as error:
        raise _syntax_error(file, _position_at(text, error.position), "the character is not allowed in YAML") from error
    except (ValueError, OverflowError) as error:
        # PyYAML converts the number of a \U escape without checking that it is a character.
        raise _syntax_error(file, None, "an escape in a quoted text is not a Unicode character") from error
    if construction.documents == 0:
        raise _syntax_error(file, None, "the document is empty", hint="Start from one of the shipped policies.")
    if construction.problems:
        raise error_of(PolicySyntaxError, construction.problems, file=file)
    return ParsedDocument(data=construction.root, positions=construction.positions, written=construction.written)


def _checked_json(text: str, file: str) -> str:
    """Return JSON text in a form that the YAML parser reads at the same lines and columns."""
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        position = Position(line=error.lineno, column=error.colno)
        raise _syntax_error(file, position, f"not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise _syntax_error(file, None, f"the document is nested more than {MAX_DEPTH} levels deep") from error
    # Tabs stand between tokens only, since JSON forbids them inside text; YAML refuses them there.
    return text.replace("\t", " ")


def _joined_surrogates(text: str) -> str:
    """Return the text with the surrogate pairs of JSON escapes joined.

    Raises:
        ScalarRefusedError: half of a pair stands alone.
    """
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        message = "an escape in a quoted text is not a Unicode character"
        raise ScalarRefusedError(message) from error


def _position(event: yaml.Event) -> Position:
    mark = event.start_mark
    return Position(line=mark.line + 1, column=mark.column + 1) if mark is not None else Position(line=1, column=1)


def _position_at(text: str, index: int) -> Position:
    before = text[:index]
    return Position(line=before.count("\n") + 1, column=index - before.rfind("\n"))


def _sentence(message: str) -> str:
    return f"{message[:1].upper()}{message[1:]}."


def _syntax_error(
    file: str,
    position: Position | None,
    message: str,
    *,
    expected: str | None = None,
    hint: str | None = None,
) -> Exception:
    problem = Problem(file=file, position=position, field="", message=_sentence(message), expected=expected, hint=hint)
    return error_of(PolicySyntaxError, [problem], file=file)


def empty_fields(data: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every null: a key with nothing behind it must not mean that there is no bound or no last day."""
    if data is None:
        yield path
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from empty_fields(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from empty_fields(value, (*path, index))
