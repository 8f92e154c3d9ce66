"""Readers of answers with labels (a CSV file) and of answers that are known to be harmless. No torch here."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from steerguard.canonical import digest
from steerguard.errors import PromptFileError
from steerguard.evaluate.column_names import listed

COLUMNS = ("question", "response", "label")
"""Columns that are read; upper and lower case do not matter, and GPTFuzz writes `Response`. Others are ignored."""
_LABELS = {"0": False, "1": True}
_ANSWER = "answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledAnswers:
    """Rows in the order of the file."""

    questions: tuple[str, ...]
    """Text or number of the question; what is not a text can tell questions apart and nothing more."""
    answers: tuple[str, ...]
    harmful: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def digest(self) -> str:
        """`sha256:<hex>` over the rows in order."""
        rows = zip(self.questions, self.answers, self.harmful, strict=True)
        return digest([[question, answer, int(harmful)] for question, answer, harmful in rows])

    def chosen(self, positions: Iterable[int]) -> LabelledAnswers:
        """Return the rows at these positions.

        Args:
            positions: 0-based, in the order wanted.
        """
        kept = list(positions)
        return LabelledAnswers(
            questions=tuple(self.questions[index] for index in kept),
            answers=tuple(self.answers[index] for index in kept),
            harmful=tuple(self.harmful[index] for index in kept),
        )


def read_labelled_answers(path: Path, *, first: int | None = None, stop: int | None = None) -> LabelledAnswers:
    """Read a CSV file with the columns question, response and label (1 = harmful, 0 = not).

    Args:
        path: the file, UTF-8 with a header line.
        first: 0-based number of the first record that counts; None is 0.
        stop: number of the first record that does not count any more; None is the end of the file.

    Raises:
        PromptFileError: the file cannot be read, lacks a column, or holds a cell that is empty or no label.
    """
    records = list(_records(path))
    rows = [_row(record, f"{path.name}, record {number}") for number, record in enumerate(records)][first:stop]
    if not rows:
        raise PromptFileError(
            "No labelled answers were chosen.",
            where=path.name,
            expected="at least one record",
            found=f"{len(records)} records, of which {first or 0} to {'the end' if stop is None else stop} were asked for",
        )
    questions, answers, harmful = zip(*rows, strict=True)
    return LabelledAnswers(questions=questions, answers=answers, harmful=harmful)


def read_harmless_answers(path: Path) -> tuple[str, ...]:
    """Read answers that are known to be harmless: `.txt` with one a line, or `.jsonl` with the field `answer`.

    Args:
        path: the file, UTF-8; empty lines do not count. A `.jsonl` line may be a text or an object with other fields.

    Raises:
        PromptFileError: the file cannot be read, has another ending, or holds a line without an answer.
    """
    if path.suffix not in {".txt", ".jsonl"}:
        raise PromptFileError(
            "Harmless answers are read from text files.", where=path.name, expected=".txt or .jsonl", found=path.suffix
        )
    lines = [(number, line) for number, line in enumerate(_text(path).split("\n"), start=1) if line.strip()]
    if not lines:
        raise PromptFileError("The file of harmless answers is empty.", where=path.name, expected="at least one answer")
    if path.suffix == ".txt":
        return tuple(line.strip() for _, line in lines)
    return tuple(_answer(line, f"{path.name}, line {number}") for number, line in lines)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PromptFileError("A file of answers cannot be read.", where=path, found=type(error).__name__) from error
    except UnicodeDecodeError as error:
        raise PromptFileError("A file of answers is not UTF-8.", where=path.name, expected="UTF-8 text") from error


def _records(path: Path) -> Iterable[tuple[str, ...]]:
    """Yield the three cells of every record."""
    try:
        # `newline=""` leaves line ends inside quoted answers as they are.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            places = _places(next(reader, []), path.name)
            width = max(places) + 1
            for cells in reader:
                if cells:
                    yield tuple(cells[place] for place in places) if len(cells) >= width else ("", "", "")
    except OSError as error:
        raise PromptFileError("A file of answers cannot be read.", where=path, found=type(error).__name__) from error
    except UnicodeDecodeError as error:
        raise PromptFileError("A file of answers is not UTF-8.", where=path.name, expected="UTF-8 text") from error
    except csv.Error as error:
        raise PromptFileError("A CSV file cannot be read.", where=path.name, found=str(error)) from error


def _places(header: Sequence[str], name: str) -> tuple[int, ...]:
    lowered = [cell.strip().lower() for cell in header]
    if any(lowered.count(column) != 1 for column in COLUMNS):
        raise PromptFileError(
            "The file of labelled answers has other columns than needed.",
            where=f"{name}, header",
            expected=f"the columns {', '.join(COLUMNS)}, each once (upper and lower case do not matter)",
            found=listed(header) if header else "no header",
        )
    return tuple(lowered.index(column) for column in COLUMNS)


def _row(cells: Sequence[str], where: str) -> tuple[str, str, bool]:
    question, answer, label = cells
    if not question.strip() or not answer.strip():
        raise PromptFileError(
            "A labelled answer is incomplete.", where=where, expected="a question, a response and a label"
        )
    if label.strip() not in _LABELS:
        raise PromptFileError(
            "A label is neither 0 nor 1.",
            where=where,
            expected="0 (harmless) or 1 (harmful)",
            found=f"{len(label)} characters",
        )
    return question.strip(), answer, _LABELS[label.strip()]


def _answer(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise PromptFileError("A line is not JSON.", where=where) from error
    text = value.get(_ANSWER) if isinstance(value, dict) else value
    if not isinstance(text, str) or not text.strip():
        raise PromptFileError(
            "A line holds no answer.", where=where, expected=f"a text, or an object with the text field `{_ANSWER}`"
        )
    return text
