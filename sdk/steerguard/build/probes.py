"""Linear probes: estimators and out-of-fold scores. No model here, only residuals.

The score of a conversation is the mean over the probe's blocks of `weight . h + bias`, with h the residual after the
block at the end of the generation prompt. Every estimator returns weights in the residual's own units, so that
detecting costs one dot product per block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from steerguard.detect.linear_probe import LinearProbe
from steerguard.errors import BuildError
from steerguard.guidance.inferaligner.formula import mean_difference, midpoint_bias, unit_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

Estimator = Literal["mean_difference", "logistic_regression", "lda"]


def fit_probe(
    harmful: Tensor,
    benign: Tensor,
    blocks: Sequence[int],
    estimator: Estimator,
    *,
    inverse_penalty: float = 1.0,
    seed: int = 0,
) -> LinearProbe:
    """Fit one linear classifier per block; positive scores mean harmful.

    Args:
        harmful: float32 `[n, blocks, width]`.
        benign: float32 `[m, blocks, width]`.
        blocks: which decoder blocks the second axis holds.
        estimator: `mean_difference` (unit difference of means with the bias half way), `logistic_regression`
            (L2 penalty on standardised features, classes weighted equally) or `lda` (shrunk covariance).
        inverse_penalty: `C` of the logistic regression.
        seed: seed of the solver.

    Raises:
        BuildError: scikit-learn is needed and not installed.
    """
    if estimator == "mean_difference":
        directions = unit_rows(mean_difference(harmful, benign))
        return _probe(blocks, directions, midpoint_bias(directions, harmful, benign))
    labels = np.concatenate([np.ones(len(harmful)), np.zeros(len(benign))])
    weights, biases = [], []
    for block in range(harmful.shape[1]):
        features = torch.cat([harmful[:, block], benign[:, block]]).double().numpy()
        weight, bias = (
            _logistic_regression(features, labels, inverse_penalty, seed)
            if estimator == "logistic_regression"
            else _lda(features, labels)
        )
        weights.append(torch.from_numpy(weight))
        biases.append(bias)
    return _probe(blocks, torch.stack(weights).float(), torch.tensor(biases, dtype=torch.float64).float())


def out_of_fold_scores(
    harmful: Tensor, benign: Tensor, estimator: Estimator, *, inverse_penalty: float, folds: int, seed: int
) -> tuple[list[float], list[float]]:
    """Return the score of every conversation from a probe that was fitted without it (harmful, benign).

    Args:
        harmful: float32 `[n, blocks, width]`.
        benign: float32 `[m, blocks, width]`.
        estimator: as in `fit_probe`.
        inverse_penalty: as in `fit_probe`.
        folds: number of folds; both classes are spread evenly over them.
        seed: decides the folds.

    Raises:
        BuildError: a class has fewer conversations than folds.
    """
    if min(len(harmful), len(benign)) < folds:
        raise BuildError(
            "Too few prompts for the cross-validation.",
            expected=f"at least {folds} of each class",
            found=f"{len(harmful)} harmful, {len(benign)} benign",
            next_step="lower artifact.folds or add prompts",
        )
    of_harmful, of_benign = _fold_of(len(harmful), folds, seed), _fold_of(len(benign), folds, seed + 1)
    harmful_scores, benign_scores = torch.empty(len(harmful)), torch.empty(len(benign))
    for fold in range(folds):
        probe = fit_probe(
            harmful[of_harmful != fold],
            benign[of_benign != fold],
            range(harmful.shape[1]),
            estimator,
            inverse_penalty=inverse_penalty,
            seed=seed,
        )
        harmful_scores[of_harmful == fold] = probe.score(harmful[of_harmful == fold])
        benign_scores[of_benign == fold] = probe.score(benign[of_benign == fold])
    return harmful_scores.tolist(), benign_scores.tolist()


def _probe(blocks: Sequence[int], weight: Tensor, bias: Tensor) -> LinearProbe:
    return LinearProbe(id="build", blocks=tuple(blocks), weight=weight, bias=bias)


def _fold_of(count: int, folds: int, seed: int) -> Tensor:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    fold = torch.empty(count, dtype=torch.int64)
    fold[order] = torch.arange(count) % folds
    return fold


def _logistic_regression(
    features: NDArray[np.float64], labels: NDArray[np.float64], inverse_penalty: float, seed: int
) -> tuple[NDArray[np.float64], float]:
    try:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - optional extra `build`
    except ImportError as error:
        raise _needs_scikit_learn("logistic_regression") from error
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale == 0] = 1.0
    classifier = LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=5000, random_state=seed)
    classifier.fit((features - mean) / scale, labels)
    weight = classifier.coef_[0] / scale
    return weight, float(classifier.intercept_[0] - mean @ weight)


def _lda(features: NDArray[np.float64], labels: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    try:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # noqa: PLC0415 - optional extra `build`
    except ImportError as error:
        raise _needs_scikit_learn("lda") from error
    classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
    classifier.fit(features, labels)
    return np.asarray(classifier.coef_[0]), float(classifier.intercept_[0])


def _needs_scikit_learn(estimator: Estimator) -> BuildError:
    return BuildError(
        f"The estimator {estimator} needs scikit-learn.",
        where="artifact.estimator",
        expected="scikit-learn installed",
        next_step="pip install 'steerguard[build]', or use the estimator mean_difference",
    )
