"""From the content of a prompt file to rows, and from a row to the value of a column. Pure; knows no model."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steerguard.errors import PromptFileError, SteerguardError
from steerguard.evaluate.column_names import is_identifier, listed, looks_like_a_sentence

MESSAGES = "messages"
"""Column that is taken as chats when no column is named."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file."""

    value: Any
    """A text, or a mapping of columns."""
    where: str
    """`line 7` or `row 3`, for messages."""


def text_rows(text: str, name: str) -> list[Row]:
    """Return one row per line; empty lines at the end do not count.

    Raises:
        PromptFileError: an empty line between others.
    """
    rows = [Row(line.strip(), f"line {number}") for number, line in _lines(text)]
    for row in rows:
        if not row.value:
            raise empty_row(name, row.where)
    return rows


def csv_rows(text: str, name: str, column: str | None = None) -> list[Row]:
    """Return one mapping per record.

    Args:
        text: of the file.
        name: of the file, for messages.
        column: the column that was asked for; a header that has it is one, whatever it looks like.

    Raises:
        PromptFileError: no header, a column twice, or a record with another number of cells than the header.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    header: list[str] = []
    try:
        for cells in reader:
            where = f"line {reader.line_num}"
            if not header:
                header = _checked_header(cells, name, where, column)
            elif len(cells) != len(header):
                if not cells:
                    raise empty_row(name, where)
                raise PromptFileError(
                    "A record has another number of cells than the header.",
                    where=f"{name}, {where}",
                    expected=f"{len(header)} cells",
                    found=len(cells),
                )
            else:
                rows.append(Row(dict(zip(header, cells, strict=True)), where))
    except csv.Error as error:
        raise PromptFileError(
            "A CSV file cannot be read.",
            where=f"{name}, line {reader.line_num}",
            expected="comma-separated cells with quotes in pairs",
            found=str(error),
        ) from error
    return rows


def jsonl_rows(text: str, name: str) -> list[Row]:
    """Return one value per line; empty lines at the end do not count.

    Raises:
        PromptFileError: a line is not JSON, or empty.
    """
    rows: list[Row] = []
    for number, line in _lines(text):
        if not line.strip():
            raise empty_row(name, f"line {number}")
        try:
            rows.append(Row(json.loads(line), f"line {number}"))
        except (json.JSONDecodeError, RecursionError) as error:
            raise PromptFileError(
                "A line is not JSON.", where=f"{name}, line {number}", expected="one object"
            ) from error
    return rows


def json_rows(text: str, name: str, column: str | None) -> tuple[list[Row], str | None, str]:
    """Find the list that a dotted column points to.

    `[…]` is that list; in an object of lists the first names of the column say which list, `test.harmful`.

    Returns:
        The rows, what is left of the column, and the names in front of it, each with its dot.

    Raises:
        PromptFileError: not JSON, or no list there.
    """
    try:
        node = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise PromptFileError("A file is not JSON.", where=f"{name}, line {line}") from error
    prefix, rest = "", column
    while isinstance(node, dict):
        key = _next_key(node, rest)
        if key is None:
            raise wrong_column(name, column, json_columns(json.loads(text)))
        node = node[key]
        rest = None if rest is None or rest == key else rest[len(key) + 1 :]
        prefix += f"{key}."
    if not isinstance(node, list):
        raise PromptFileError(
            "There is no list of prompts.", where=name, expected="a list of texts or objects", found=_kind(node)
        )
    return [Row(value, f"row {index}") for index, value in enumerate(node)], rest, prefix


def json_columns(node: Any) -> list[str]:
    """Return every dotted column that a JSON document offers, in order of appearance."""
    if isinstance(node, list):
        return columns_of(node)
    found: dict[str, None] = {}
    if isinstance(node, dict):
        for key, value in node.items():
            inner = json_columns(value)
            if isinstance(value, list) and not inner:
                found[key] = None
            found.update(dict.fromkeys(f"{key}.{column}" for column in inner))
    return list(found)


def columns_of(values: Sequence[Any]) -> list[str]:
    """Return the union of the keys of the rows that are objects."""
    return list(dict.fromkeys(key for value in values if isinstance(value, dict) for key in value))


def value_at(value: Any, column: str) -> Any:
    """Return what a dotted column holds in one row, or None; a key that has dots itself goes first."""
    if not isinstance(value, dict):
        return None
    if column in value:
        return value[column]
    head, dot, rest = column.partition(".")
    return value_at(value.get(head), rest) if dot else None


def has_column(value: Any, column: str) -> bool:
    """Tell whether a row has the dotted column at all."""
    if not isinstance(value, dict):
        return False
    if column in value:
        return True
    head, dot, rest = column.partition(".")
    return bool(dot) and has_column(value.get(head), rest)


def wrong_column(name: str, column: str | None, legal: Sequence[str]) -> SteerguardError:
    """Return the error for a column that is not there, or that must be named."""
    import difflib  # noqa: PLC0415  only for a message

    known = f"one of: {listed(legal)}" if legal else "none: the rows are texts"
    if column is None:
        return PromptFileError(
            "The file has several columns and none is named.",
            where=name,
            expected=known,
            next_step=f"Write PATH#{legal[0] if legal and is_identifier(legal[0]) else 'COLUMN'}",
        )
    near = difflib.get_close_matches(column, legal, n=1, cutoff=0.5)
    return PromptFileError(
        "The file has no such column.",
        where=name,
        expected=known,
        found=column if is_identifier(column) else "a longer name",
        next_step=f"Did you mean `{near[0]}`?" if near and is_identifier(near[0]) else None,
    )


def empty_row(name: str, where: str) -> SteerguardError:
    """Return the error for a row without text."""
    return PromptFileError(
        "A row is empty.",
        where=f"{name}, {where}",
        expected="text",
        next_step="Remove the row, or leave it out with [START:STOP].",
    )


def _lines(text: str) -> list[tuple[int, str]]:
    # Not `splitlines`: a prompt may hold characters that Unicode calls line ends.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return list(enumerate(lines, start=1))


def _checked_header(cells: list[str], name: str, where: str, column: str | None) -> list[str]:
    twice = sorted({cell for cell in cells if cells.count(cell) > 1})
    if not cells or twice:
        raise PromptFileError(
            "The header of a CSV file cannot be used.",
            where=f"{name}, {where}",
            expected="a name of its own for each column",
            found=f"twice: {listed(twice)}" if twice else "an empty line",
        )
    if column not in cells and any(looks_like_a_sentence(cell, alone=len(cells) == 1) for cell in cells):
        raise PromptFileError(
            "The file seems to have no header.",
            where=f"{name}, {where}",
            expected="a first line with the names of the columns",
            found="a sentence",
            next_step="Write the names of the columns in front, or name such a column: PATH#COLUMN.",
        )
    return cells


def _next_key(node: dict[str, Any], rest: str | None) -> str | None:
    """Return the key of an object that a dotted column begins with; without a column, the only one."""
    if rest is None:
        return next(iter(node)) if len(node) == 1 else None
    fitting = [key for key in node if rest == key or rest.startswith(f"{key}.")]
    return max(fitting, key=len, default=None)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
