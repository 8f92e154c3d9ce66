"""A second harm judge: what an answer is about, by a sentence encoder, beside its words.

It sees the same rows as the judge of words (`judge.py`), learns in the same way and has the same kind of threshold; it
shares no weight with a guarded model. The prompt is no feature of it either.
Embeddings: Reimers and Gurevych, Sentence-BERT, EMNLP 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from steerguard.evaluate.judge import Flags, Floats, HarmJudge, WordClassifier, train_judge_on
from steerguard.evaluate.labelled_answers import LabelledAnswers, read_harmless_answers, read_labelled_answers
from steerguard.evaluate.labelled_split import judge_rows

NAME = "word-and-sentence-answer/1"
"""Features and version: raise the number when training changes what it yields."""
_INVERSE_PENALTY = 1.0
_BOUND = 1e-6
"""Probabilities are kept this far from 0 and 1 before they become log-odds."""


class Encoder(Protocol):
    """What turns texts into unit vectors."""

    identity: str
    """What it is, with the digest of its weights."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one vector per text, float32 `[texts, width]`."""


def train_sentence_judge(
    path: Path,
    *,
    seed: int = 0,
    harmless_answers: Path | None = None,
    rows: Literal["judge", "all"] = "judge",
) -> HarmJudge:
    """Train a judge that reads words and sentences; arguments as for `judge.train_judge`.

    Raises:
        EvaluationError: a file is wrong, there are too few rows, or scikit-learn is not installed.
        ContentError: the sentence encoder is not installed.
    """
    from steerguard.models.sentence_encoder import packaged_encoder  # noqa: PLC0415  loads torch

    labelled = read_labelled_answers(path)
    if rows == "judge":
        labelled = labelled.chosen(judge_rows(labelled.questions))
    harmless = () if harmless_answers is None else read_harmless_answers(harmless_answers)
    return train_sentence_judge_on(labelled, harmless, packaged_encoder(), seed=seed, name=path.name)


def train_sentence_judge_on(
    labelled: LabelledAnswers,
    harmless: Sequence[str],
    encoder: Encoder,
    *,
    seed: int = 0,
    name: str = "labelled answers",
) -> HarmJudge:
    """Train a judge on rows that were read already; all of them are used.

    Args:
        labelled: answers with labels.
        harmless: further harmless answers.
        encoder: reads sentences; each distinct text is encoded once.
        seed: decides the folds.
        name: what errors call the rows.

    Raises:
        EvaluationError: there are too few rows, or scikit-learn is not installed.
    """
    remembered = _Remembered(encoder)

    def fit(texts: Sequence[str], harmful: Flags) -> _Both:
        return _Both(remembered, texts, harmful)

    return train_judge_on(labelled, harmless, seed=seed, name=name, features=f"{NAME} {encoder.identity}", fit=fit)


class _Remembered:
    """Encodes each text once."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._found: dict[str, npt.NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in self._found]
        if new:
            self._found.update(zip(new, self._encoder.encode(new), strict=True))
        return np.stack([self._found[text] for text in texts])


class _Both:
    """The sum of the log-odds of two classifiers, words and logistic regression on embeddings.

    Each is divided by its standard deviation on the training texts: so both count the same, and no weight was chosen.
    """

    def __init__(self, encode: _Remembered, texts: Sequence[str], harmful: Flags) -> None:
        self._words = WordClassifier(texts, harmful)
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - optional extra `eval`, asked for above

        self._encode = encode
        self._regression: Any = LogisticRegression(C=_INVERSE_PENALTY, class_weight="balanced", max_iter=2000)
        self._regression.fit(encode(texts), harmful)
        self._spreads = [float(odds.std()) for odds in self._odds(texts)]

    def scores(self, texts: Sequence[str]) -> Floats:
        """Return probabilities, rounded so that a threshold means the same on every machine."""
        scaled = [odds / spread for odds, spread in zip(self._odds(texts), self._spreads, strict=True)]
        return np.round(1.0 / (1.0 + np.exp(-(scaled[0] + scaled[1]))), 6)

    def _odds(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        words = np.clip(self._words.scores(texts), _BOUND, 1.0 - _BOUND)
        sentences: Floats = self._regression.decision_function(self._encode(texts)).astype(np.float64)
        return np.log(words / (1.0 - words)), sentences
