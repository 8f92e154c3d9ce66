"""Fit a linear probe to reads of answers, and score answers with it. No model here, only states.

An answer is read many times, so each answer counts alike whatever its length, and so does each class. The score of an
answer is what a rolling guard compares with its threshold: the highest over its reads of the lowest of several in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from steerguard.build.answer_reads import AnswerReads
from steerguard.build.probes import needs_scikit_learn, spread_over_folds
from steerguard.detect.linear_probe import LinearProbe
from steerguard.errors import BuildError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fit_answer_probe(
    harmful: AnswerReads, benign: AnswerReads, *, inverse_penalty: float, seed: int = 0
) -> LinearProbe:
    """Fit one logistic regression on all parts together, over all reads; positive scores mean harmful.

    Args:
        harmful: reads of answers that should score high.
        benign: reads of the others, of the same parts.
        inverse_penalty: `C`, on features standardised with the weights of the reads.
        seed: seed of the solver.

    Raises:
        BuildError: scikit-learn is not installed, or a class has no read.
    """
    if not sum(harmful.counts) or not sum(benign.counts):
        raise BuildError(
            "There are no answers to fit a probe to.",
            expected="reads of harmful and of benign answers",
            found=f"{sum(harmful.counts)} and {sum(benign.counts)} reads",
            next_step="lower artifact.answers.first, or look whether the model refuses or ends every answer at once",
        )
    try:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - optional extra `build`
    except ImportError as error:
        raise needs_scikit_learn("logistic_regression") from error
    features = torch.cat([harmful.states(), benign.states()]).flatten(start_dim=1).double().numpy()
    labels = np.concatenate([np.ones(sum(harmful.counts)), np.zeros(sum(benign.counts))])
    weights = read_weights(harmful.counts, benign.counts)
    mean = np.average(features, axis=0, weights=weights)
    features -= mean
    scale = np.sqrt(np.average(features**2, axis=0, weights=weights))
    scale[scale == 0] = 1.0
    features /= scale
    classifier = LogisticRegression(C=inverse_penalty, max_iter=3000, random_state=seed)
    classifier.fit(features, labels, sample_weight=weights)
    weight = classifier.coef_[0] / scale
    bias = float(classifier.intercept_[0] - mean @ weight)
    parts = harmful.parts
    # The score is the mean over parts, and the decision function is a sum over them.
    by_part = torch.from_numpy(weight).reshape(len(parts), -1) * len(parts)
    return LinearProbe(
        id="build",
        blocks=tuple(block for block, _ in parts),
        over=tuple(over for _, over in parts),
        weight=by_part.float(),
        bias=torch.full((len(parts),), bias, dtype=torch.float64).float(),
    )


def read_weights(harmful: Sequence[int], benign: Sequence[int]) -> NDArray[np.float64]:
    """Return how much each read counts, `[reads of both]`, harmful first; the mean is 1.

    Args:
        harmful: reads of each answer.
        benign: the same of the other class; both with at least one read.
    """
    classes = []
    for counts in (harmful, benign):
        repeated = np.repeat(np.asarray(counts, dtype=np.float64), np.asarray(counts))
        classes.append(1.0 / repeated / sum(count > 0 for count in counts))
    weights: NDArray[np.float64] = np.concatenate(classes)
    weights /= weights.mean()
    return weights


def answer_scores(probe: LinearProbe, reads: AnswerReads, in_a_row: int) -> list[float]:
    """Return the score of each answer; minus infinity for one with fewer reads than have to reach a threshold together.

    Args:
        probe: of the parts that were read.
        reads: of the answers.
        in_a_row: reads, one after the other, whose lowest score counts.
    """
    if not sum(reads.counts):
        return [-torch.inf for _ in reads.counts]
    scores = probe.score(reads.states())
    return [highest_run(of_answer, in_a_row) for of_answer in torch.split(scores, list(reads.counts))]


def highest_run(scores: Tensor, in_a_row: int) -> float:
    """Return the highest over an answer's reads of the lowest of so many in a row, float32 `[reads]` to a number."""
    if len(scores) < in_a_row:
        return -torch.inf
    return float(scores.unfold(0, in_a_row, 1).amin(dim=1).amax())


def out_of_fold_answers(
    harmful: AnswerReads, benign: AnswerReads, *, in_a_row: int, inverse_penalty: float, folds: int, seed: int
) -> tuple[list[float], list[float]]:
    """Return the score of every answer from a probe that saw no read of it (harmful, benign).

    Args:
        harmful: as in `fit_answer_probe`; one answer for each prompt, so folds of answers are folds of prompts.
        benign: the same.
        in_a_row: as in `answer_scores`.
        inverse_penalty: as in `fit_answer_probe`.
        folds: number of folds; both classes are spread evenly over them.
        seed: decides the folds.

    Raises:
        BuildError: a class has fewer answers than folds, or a fold no read.
    """
    sets = (harmful, benign)
    if min(len(reads.counts) for reads in sets) < folds:
        raise BuildError(
            "Too few answers for the cross-validation.",
            expected=f"at least {folds} of each class",
            found=f"{len(harmful.counts)} harmful, {len(benign.counts)} benign",
            next_step="lower artifact.folds or add prompts",
        )
    fold_of = [spread_over_folds(len(reads.counts), folds, seed + number) for number, reads in enumerate(sets)]
    found = [[0.0] * len(reads.counts) for reads in sets]
    for fold in range(folds):
        seen = [reads.chosen(of != fold) for reads, of in zip(sets, fold_of, strict=True)]
        probe = fit_answer_probe(*seen, inverse_penalty=inverse_penalty, seed=seed)
        for reads, of, scores in zip(sets, fold_of, found, strict=True):
            left_out = torch.nonzero(of == fold).flatten().tolist()
            for index, score in zip(left_out, answer_scores(probe, reads.chosen(of == fold), in_a_row), strict=True):
                scores[index] = score
    return found[0], found[1]
