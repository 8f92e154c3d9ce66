"""Which labelled rows belong to the harm judge and which to cost models: a fixed rule on the question. No torch here.

A judge says something about a search only while it has seen none of the rows that the optimised cost was learned
from. The rule looks at the question and at nothing else, so that all answers to one question lie on the same side,
and it needs no list that could go stale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_SHARES = 3


def is_judge_question(question: str) -> bool:
    """Tell whether the answers to a question are the judge's.

    They are when SHA-256 of the question (UTF-8, without white space at both ends), read as one big-endian integer,
    is divisible by 3: about a third of all questions.

    Args:
        question: the cell of the column `question` as it stands in the file, be it a text or a number.
    """
    return int.from_bytes(hashlib.sha256(question.strip().encode()).digest()) % _SHARES == 0


def judge_rows(questions: Sequence[str]) -> tuple[int, ...]:
    """Return the positions of the rows that only a judge may be trained on, ascending.

    Args:
        questions: one per row of the file.
    """
    return tuple(index for index, question in enumerate(questions) if is_judge_question(question))


def cost_model_rows(questions: Sequence[str]) -> tuple[int, ...]:
    """Return the positions of the rows that cost models may be trained on: all that are not the judge's, ascending.

    Args:
        questions: one per row of the file.
    """
    return tuple(index for index, question in enumerate(questions) if not is_judge_question(question))
