"""Prompt files in, conversations out: text, CSV, JSON and JSON lines, also compressed, with a column and a row range."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerguard.canonical import digest
from steerguard.errors import PromptFileError
from steerguard.evaluate.column_names import is_identifier, listed
from steerguard.evaluate.prompt_rows import (
    MESSAGES,
    Row,
    columns_of,
    csv_rows,
    empty_row,
    has_column,
    json_rows,
    jsonl_rows,
    text_rows,
    value_at,
    wrong_column,
)
from steerguard.evaluate.prompt_spec import PromptSpec
from steerguard.evaluate.result import EvaluatedSet, Expect

Conversation = tuple[dict[str, str], ...]
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """The prompts of one set in the order of the file."""

    name: str
    expect: Expect
    conversations: tuple[Conversation, ...]
    prefills: tuple[str, ...] | None
    """Forced beginnings of the answers, one per conversation; None without."""

    def __len__(self) -> int:
        """Return how many prompts there are."""
        return len(self.conversations)

    def prompt(self, index: int) -> str:
        """Return the last user message of one conversation."""
        return self.conversations[index][-1]["content"]

    def prefill(self, index: int) -> str | None:
        """Return the forced beginning of one answer."""
        return None if self.prefills is None else self.prefills[index]

    def described(self) -> EvaluatedSet:
        """Return what the result says of this set: counts and a digest, no text."""
        content = {
            "conversations": [[dict(message) for message in chat] for chat in self.conversations],
            "prefills": None if self.prefills is None else list(self.prefills),
        }
        return EvaluatedSet(
            name=self.name,
            expect=self.expect,
            n=len(self),
            sha256=digest(content),
            prefilled=self.prefills is not None,
        )


def read_prompts(spec: PromptSpec, expect: Expect) -> PromptSet:
    """Read the prompts that a specification names.

    Raises:
        PromptFileError: the file, a column, the range or a row is not what it should be; names file, line and what is
            legal. Prompt texts are never part of a message.
    """
    name = str(spec.path)
    text = _content(spec)
    column, prefill, prefix = spec.column, spec.prefill, ""
    match spec.suffix:
        case ".txt":
            rows = text_rows(text, name)
        case ".csv":
            rows = csv_rows(text, name, column)
        case ".jsonl":
            rows = jsonl_rows(text, name)
        case _:
            rows, column, prefix = json_rows(text, name, column)
            # The prefill column may repeat the names in front of the column, or leave them out.
            prefill = prefill if prefill is None else prefill.removeprefix(prefix)
    chosen = _selected(rows, spec, name)
    legal = columns_of([row.value for row in rows])
    if column is None:
        column = _only_column(chosen, legal, name, prefill)
    elif column not in legal and not any(has_column(row.value, column) for row in chosen):
        raise wrong_column(name, spec.column, [prefix + one for one in legal])
    if prefill is not None and prefill not in legal and not any(has_column(row.value, prefill) for row in chosen):
        raise wrong_column(name, spec.prefill, [prefix + one for one in legal])
    return PromptSet(
        name=spec.name,
        expect=expect,
        conversations=tuple(
            _conversation(_cell(row, column, name), f"{name}, {row.where}", name, row) for row in chosen
        ),
        prefills=None
        if prefill is None
        else tuple(_text(_cell(row, prefill, name), name, row.where) for row in chosen),
    )


def _content(spec: PromptSpec) -> str:
    where = str(spec.path)
    try:
        content = spec.path.read_bytes()
        if spec.path.suffix == ".gz":
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise PromptFileError("A compressed file cannot be read.", where=where, expected="a whole gzip file") from error
    except OSError as error:
        raise PromptFileError(
            "A file of prompts cannot be read.",
            where=where,
            expected="a readable file",
            found=error.strerror or type(error).__name__,
            next_step=_neighbour(spec),
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise PromptFileError("A file is not UTF-8.", where=f"{where}, line {line}", expected="UTF-8 text") from error


def _neighbour(spec: PromptSpec) -> str | None:
    import difflib  # noqa: PLC0415  only for a message

    try:
        names = [path.name for path in spec.path.parent.iterdir()]
    except OSError:
        return None
    near = difflib.get_close_matches(spec.path.name, names, n=1)
    return f"Did you mean `{spec.path.parent / near[0]}`?" if near else None


def _selected(rows: list[Row], spec: PromptSpec, name: str) -> list[Row]:
    if not rows:
        raise PromptFileError("A file holds no prompts.", where=name, expected="at least one row", found="none")
    last = spec.stop if spec.stop is not None else (spec.start or 0) + 1
    if last > len(rows):
        raise PromptFileError(
            "A range of rows goes beyond the file.",
            where=name,
            expected=f"rows 0 to {len(rows)}",
            found=f"[{'' if spec.start is None else spec.start}:{'' if spec.stop is None else spec.stop}]",
        )
    return rows[spec.start : spec.stop]


def _only_column(rows: Sequence[Row], legal: Sequence[str], name: str, prefill: str | None) -> str | None:
    """Return the column to take when none is named; None where rows are texts themselves."""
    if not any(isinstance(row.value, dict) for row in rows):
        return None
    if MESSAGES in legal:
        return MESSAGES
    others = [column for column in legal if column != prefill]
    if len(others) == 1:
        return others[0]
    raise wrong_column(name, None, others)


def _cell(row: Row, column: str | None, name: str) -> Any:
    if column is None or isinstance(row.value, str):
        if column is not None:
            raise wrong_column(name, column, ())
        return row.value
    if not has_column(row.value, column):
        raise PromptFileError(
            "A row lacks the column.",
            where=f"{name}, {row.where}",
            expected=column if is_identifier(column) else "the column of the other rows",
            found=listed(list(row.value)) if isinstance(row.value, dict) else "a row that is no object",
        )
    return value_at(row.value, column)


def _conversation(value: Any, where: str, name: str, row: Row) -> Conversation:
    if not isinstance(value, list):
        return ({"role": "user", "content": _text(value, name, row.where)},)
    if not value:
        raise empty_row(name, row.where)
    chat = tuple(_message(message, where, name, row) for message in value)
    if chat[-1]["role"] != "user":
        raise PromptFileError(
            "A chat does not end with the user's message.", where=where, expected="user", found=chat[-1]["role"]
        )
    return chat


def _message(message: Any, where: str, name: str, row: Row) -> dict[str, str]:
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise PromptFileError(
            "A message of a chat has wrong fields.",
            where=where,
            expected="role and content",
            found=listed(list(message)) if isinstance(message, Mapping) else "no object",
        )
    if message["role"] not in _ROLES:
        raise PromptFileError(
            "A message of a chat has an unknown role.", where=where, expected=", ".join(_ROLES), found="another role"
        )
    return {"role": message["role"], "content": _text(message["content"], name, row.where)}


def _text(value: Any, name: str, where: str) -> str:
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        raise empty_row(name, where)
    if not isinstance(value, str):
        raise PromptFileError(
            "A row holds no text.", where=f"{name}, {where}", expected="text", found=type(value).__name__
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        # JSON can spell halves of characters that no text can hold; no digest and no journal could either.
        raise PromptFileError(
            "A row holds half a character.", where=f"{name}, {where}", expected="whole Unicode characters"
        ) from error
    return value
