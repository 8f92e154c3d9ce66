"""Text that cannot act on a terminal: what was written by somebody else may hold any character, and is shown as escapes."""

from __future__ import annotations

import json
from typing import Any

import typer


def visible(text: object) -> str:
    r"""Return the text with every character that does not print written as an escape, `\x1b` or `\u202e`."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )


def visible_lines(text: str) -> str:
    """Return text of several lines with every other character that does not print escaped."""
    return "\n".join(visible(line) for line in text.split("\n"))


def say(line: str, *, err: bool = False) -> None:
    """Print one line of text, escaped; on the error stream where that is asked for."""
    typer.echo(visible(line), err=err)


def ascii_json(value: Any, *, indent: int | None = None) -> str:
    """Return a value as JSON in printable ASCII; without indentation keys are sorted and nothing stands between them.

    Raises:
        RecursionError: it is nested too deeply.
    """
    compact = indent is None
    text = json.dumps(value, sort_keys=compact, separators=(",", ":") if compact else None, indent=indent)
    # The one character below 128 that JSON leaves as it is and a terminal may act on.
    return text.replace("\x7f", "\\u007f")
