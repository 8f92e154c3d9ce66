"""Labelled answers for a cost model, read from files outside the repository whose bytes the recipe pins."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerguard.build.cost_states import GivenAnswers
from steerguard.build.recipe_cost import LabelledResponses, PinnedFile
from steerguard.canonical import sha256_hex
from steerguard.errors import RecipeError
from steerguard.evaluate.labelled_answers import LabelledAnswers, read_labelled_answers
from steerguard.evaluate.labelled_split import cost_model_rows
from steerguard.models.inspect import text_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """Labelled answers as they are read."""

    given: GivenAnswers
    harmful: tuple[bool, ...]
    questions: tuple[str, ...]
    """Texts of the questions; answers to one question stay together in folds."""

    def chosen(self, places: Sequence[int]) -> LabelledSet:
        """Return the answers at these places, in the order given."""
        given = self.given
        return LabelledSet(
            given=GivenAnswers(
                conversations=tuple(given.conversations[place] for place in places),
                begins=tuple(given.begins[place] for place in places),
                answers=tuple(given.answers[place] for place in places),
            ),
            harmful=tuple(self.harmful[place] for place in places),
            questions=tuple(self.questions[place] for place in places),
        )


def labelled_set(
    folder: Path | None, settings: LabelledResponses, tokenizer: Any, *, seed: int, where: str
) -> LabelledSet:
    """Return the labelled answers that a recipe names, each cut to the tokens that are read.

    Args:
        folder: the data folder; None where the build was given none.
        settings: files, rows and length.
        tokenizer: the target's.
        seed: decides which answers are drawn where a question has more than asked for.
        where: field of the recipe, for messages.

    Raises:
        RecipeError: there is no data folder, a file is missing or has other bytes than pinned, or a question has no text.
        PromptFileError: a file does not hold labelled answers.
    """
    path = pinned_file(folder, settings.responses, where=f"{where}.responses")
    rows = read_labelled_answers(path)
    if settings.rows == "cost_model":
        rows = rows.chosen(cost_model_rows(rows.questions))
    texts = None
    if settings.questions is not None:
        texts = question_texts(
            pinned_file(folder, settings.questions, where=f"{where}.questions"), where=f"{where}.questions"
        )
    found = given_labelled(rows, texts, tokenizer, tokens=settings.tokens, where=where)
    if settings.max_per_question is None:
        return found
    return found.chosen(drawn_per_question(found.questions, settings.max_per_question, seed))


def drawn_per_question(questions: Sequence[str], limit: int, seed: int) -> list[int]:
    """Return the places of at most so many answers to each question, ascending; the same for the same seed."""
    # Not security: a draw that is the same for the same seed.
    draw = random.Random(seed)  # noqa: S311 - see the line above
    places: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        places.setdefault(question, []).append(place)
    return sorted(place for own in places.values() for place in draw.sample(own, min(limit, len(own))))


def given_labelled(
    rows: LabelledAnswers,
    texts: dict[str, str] | None,
    tokenizer: Any,
    *,
    tokens: int,
    where: str,
    distinct: bool = True,
) -> LabelledSet:
    """Return labelled rows as prompts with answer ids.

    Args:
        rows: the rows.
        texts: texts of the questions by the content of the column; None where it holds the texts.
        tokenizer: encodes the answers, apart from the prompt.
        tokens: ids that are kept of each answer.
        where: for messages.
        distinct: whether an answer that stands twice for a question with the same label counts once.

    Raises:
        RecipeError: a question has no text, or no row is left.
    """
    questions = [_question(question, texts, where) for question in rows.questions]
    entries = list(zip(questions, rows.answers, rows.harmful, strict=True))
    if distinct:
        entries = list(dict.fromkeys(entries))
    plain = text_tokenizer(tokenizer)
    encoded = [tuple(plain(answer, add_special_tokens=False)["input_ids"][:tokens]) for _, answer, _ in entries]
    kept = [index for index, ids in enumerate(encoded) if ids]
    if not kept:
        raise RecipeError("There are no labelled answers to learn from.", where=where, found="0 rows")
    return LabelledSet(
        given=GivenAnswers(
            conversations=tuple(({"role": "user", "content": entries[index][0]},) for index in kept),
            begins=(None,) * len(kept),
            answers=tuple(encoded[index] for index in kept),
        ),
        harmful=tuple(entries[index][2] for index in kept),
        questions=tuple(entries[index][0] for index in kept),
    )


def pinned_file(folder: Path | None, file: PinnedFile, *, where: str) -> Path:
    """Return the path of a file whose bytes are those that the recipe pins.

    Raises:
        RecipeError: there is no folder, the path leaves it, the file is missing, or it has another digest.
    """
    if folder is None:
        raise RecipeError(
            "This recipe reads files that are not part of the project.",
            where=where,
            expected=f"{file.path} with sha256 {file.sha256}",
            found="no data folder",
            next_step="name the folder that holds the file with --data FOLDER",
        )
    path = folder / file.path
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RecipeError(
            "A data file lies outside the data folder.", where=where, expected="a path below it", found=file.path
        )
    try:
        found = sha256_hex(path.read_bytes())
    except OSError as error:
        raise RecipeError(
            "A data file cannot be read.",
            where=f"{where}: {path}",
            expected=f"a file with sha256 {file.sha256}",
            found=type(error).__name__,
            next_step="name the folder that holds the file with --data FOLDER",
        ) from error
    if found != file.sha256:
        raise RecipeError(
            "A data file has other bytes than the recipe pins.",
            where=f"{where}: {path}",
            expected=f"sha256 {file.sha256}",
            found=f"sha256 {found}",
            next_step="fetch the file again, or pin the new bytes in a recipe of your own",
        )
    return path


def question_texts(path: Path, *, where: str) -> dict[str, str]:
    """Return the texts of questions by index.

    Raises:
        RecipeError: the file has no columns index and text.
    """
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
    columns = rows.fieldnames or ()
    if not {"index", "text"} <= set(columns):
        raise RecipeError(
            "The file of questions has other columns than needed.",
            where=where,
            expected="the columns index and text",
            found=", ".join(columns)[:200] or "no header",
        )
    return {str(row["index"]).strip(): str(row["text"]).strip() for row in rows}


def _question(question: str, texts: dict[str, str] | None, where: str) -> str:
    if texts is None:
        return question
    if not texts.get(question):
        raise RecipeError(
            "A labelled answer names a question without a text.",
            where=f"{where}.questions",
            expected="an index of the file of questions",
            found=question if question.isdigit() else f"{len(question)} characters",
        )
    return texts[question]
