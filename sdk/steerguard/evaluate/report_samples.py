"""The rows of an evaluation as the data block of the report: compact JSON that no HTML parser can leave."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from steerguard.errors import EvaluationError, SteerguardError
from steerguard.evaluate.result import UNGUIDED, Evaluation
from steerguard.evaluate.rows import EvaluatedRow

SAME_TEXT = 0
"""Stands for the text of an answer that equals the unguided one."""


def sample_data(evaluation: Evaluation, rows: Iterable[EvaluatedRow]) -> dict[str, Any]:
    """Return what the sample browser reads: sets, runs and, in the order of the sets, the prompts with their answers.

    An answer is the list of text (or `SAME_TEXT`), identical to unguided, intended action, applied action, scores,
    probability of harm, perplexities, extra forward tokens; null where a run has no row for the prompt.

    Args:
        evaluation: the document that the rows belong to.
        rows: in any order.

    Raises:
        EvaluationError: a row belongs to no set or run of the document, occurs twice or contradicts another run's
            prompt.
    """
    sets = {part.name: number for number, part in enumerate(evaluation.sets)}
    sizes = {part.name: part.n for part in evaluation.sets}
    runs = {run.name: number for number, run in enumerate(evaluation.runs)}
    samples: dict[tuple[int, int], tuple[str, str | None, list[EvaluatedRow | None]]] = {}
    for row in rows:
        if row.set not in sets or row.run not in runs or row.index >= sizes[row.set]:
            raise _foreign_row(row, "a set, run and index of the result document", "one that is not in it")
        key = (sets[row.set], row.index)
        prompt, prefill, answers = samples.setdefault(key, (row.prompt, row.prefill, [None] * len(runs)))
        if answers[runs[row.run]] is not None:
            raise _foreign_row(row, "one row for each set, run and index", "two")
        if (prompt, prefill) != (row.prompt, row.prefill):
            raise _foreign_row(row, "the same prompt in every run", "another prompt")
        answers[runs[row.run]] = row
    unguided = runs.get(UNGUIDED)
    return {
        "sets": [{"name": part.name, "harmful": part.expect == "refuse"} for part in evaluation.sets],
        "runs": list(runs),
        "unguided": unguided,
        "samples": [
            [number, index, prompt, prefill, _answers(answers, unguided)]
            for (number, index), (prompt, prefill, answers) in sorted(samples.items(), key=lambda item: item[0])
        ],
    }


def script_json(data: Any) -> str:
    """Return JSON in ASCII without `<`, `>` and `&`: it may stand in a script block whatever texts it holds."""
    text = json.dumps(data, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _answers(rows: list[EvaluatedRow | None], unguided: int | None) -> list[list[Any] | None]:
    reference = rows[unguided] if unguided is not None else None
    return [None if row is None else _answer(row, reference) for row in rows]


def _answer(row: EvaluatedRow, reference: EvaluatedRow | None) -> list[Any]:
    repeats = reference is not None and row is not reference and row.answer == reference.answer
    return [
        SAME_TEXT if repeats else row.answer,
        row.identical_to_unguided,
        row.action,
        row.applied,
        dict(row.scores),
        row.harm,
        dict(row.perplexity),
        row.extra_forward_tokens,
    ]


def _foreign_row(row: EvaluatedRow, expected: str, found: str) -> SteerguardError:
    return EvaluationError(
        "A row does not belong to the evaluation.",
        where=f"set {row.set}, run {row.run}, index {row.index}",
        expected=expected,
        found=found,
        next_step="Report the rows of the journal that the result document was made from.",
    )
