"""Linear probes: estimators and out-of-fold scores. No model here, only residuals.

A part is a block and what is read there: the hidden state at the end of the generation prompt, or the prompt mean.
The score of a conversation is the mean over the probe's parts of `weight . h + bias`. Every estimator returns weights
in the residual's own units, so that detecting costs one dot product per part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from steerguard.artifacts.probe_params import Part
from steerguard.build.recipe_probe import ProbeEstimator
from steerguard.detect.linear_probe import LinearProbe
from steerguard.errors import BuildError
from steerguard.guidance.inferaligner.formula import mean_difference, midpoint_bias, unit_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fit_probe(
    harmful: Tensor,
    benign: Tensor,
    parts: Sequence[Part],
    estimator: ProbeEstimator,
    *,
    inverse_penalty: float = 1.0,
    joint: bool = False,
    seed: int = 0,
) -> LinearProbe:
    """Fit one linear classifier per part, or one on all parts; positive scores mean harmful.

    Args:
        harmful: float32 `[n, parts, width]`.
        benign: float32 `[m, parts, width]`.
        parts: what the second axis holds.
        estimator: `mean_difference` (unit difference of means with the bias half way), `logistic_regression`
            (L2 penalty on standardised features, classes weighted equally) or `lda` (shrunk covariance).
        inverse_penalty: `C` of the logistic regression.
        joint: fit one logistic regression on the parts side by side instead of one for each; other estimators do not
            know it.
        seed: seed of the solver.

    Raises:
        BuildError: scikit-learn is needed and not installed.
    """
    if joint:
        return _joint_probe(harmful, benign, parts, inverse_penalty, seed)
    if estimator == "mean_difference":
        directions = unit_rows(mean_difference(harmful, benign))
        return _probe(parts, directions, midpoint_bias(directions, harmful, benign))
    labels = _labels(harmful, benign)
    weights, biases = [], []
    for part in range(harmful.shape[1]):
        features = torch.cat([harmful[:, part], benign[:, part]]).double().numpy()
        weight, bias = (
            _logistic_regression(features, labels, inverse_penalty, seed)
            if estimator == "logistic_regression"
            else _lda(features, labels)
        )
        weights.append(torch.from_numpy(weight))
        biases.append(bias)
    return _probe(parts, torch.stack(weights).float(), torch.tensor(biases, dtype=torch.float64).float())


def out_of_fold_scores(
    harmful: Tensor,
    benign: Tensor,
    estimator: ProbeEstimator,
    *,
    inverse_penalty: float,
    folds: int,
    seed: int,
    joint: bool = False,
) -> tuple[list[float], list[float]]:
    """Return the score of every conversation from a probe that was fitted without it (harmful, benign).

    Args:
        harmful: float32 `[n, parts, width]`.
        benign: float32 `[m, parts, width]`.
        estimator: as in `fit_probe`.
        inverse_penalty: as in `fit_probe`.
        folds: number of folds; both classes are spread evenly over them.
        seed: decides the folds.
        joint: as in `fit_probe`.

    Raises:
        BuildError: a class has fewer conversations than folds.
    """
    by_part = out_of_fold_by_part(
        harmful, benign, estimator, inverse_penalty=inverse_penalty, folds=folds, seed=seed, joint=joint
    )
    return by_part[0].mean(dim=-1).tolist(), by_part[1].mean(dim=-1).tolist()


def out_of_fold_by_part(
    harmful: Tensor,
    benign: Tensor,
    estimator: ProbeEstimator,
    *,
    inverse_penalty: float,
    folds: int,
    seed: int,
    joint: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return what each part contributes to the out-of-fold scores, float32 `[n, parts]` (harmful, benign).

    The score is the mean of the columns. Unless they are fitted jointly, parts are fitted apart, so the score of any
    set of them is the mean of their columns.
    Arguments and errors are those of `out_of_fold_scores`.
    """
    if min(len(harmful), len(benign)) < folds:
        raise BuildError(
            "Too few prompts for the cross-validation.",
            expected=f"at least {folds} of each class",
            found=f"{len(harmful)} harmful, {len(benign)} benign",
            next_step="lower artifact.folds or add prompts",
        )
    of_harmful, of_benign = (
        spread_over_folds(len(harmful), folds, seed),
        spread_over_folds(len(benign), folds, seed + 1),
    )
    parts: list[Part] = [(index, "end") for index in range(harmful.shape[1])]
    harmful_scores, benign_scores = torch.empty(len(harmful), len(parts)), torch.empty(len(benign), len(parts))
    for fold in range(folds):
        probe = fit_probe(
            harmful[of_harmful != fold],
            benign[of_benign != fold],
            parts,
            estimator,
            inverse_penalty=inverse_penalty,
            joint=joint,
            seed=seed,
        )
        for scores, states in (
            (harmful_scores, (of_harmful == fold, harmful)),
            (benign_scores, (of_benign == fold, benign)),
        ):
            left_out, residuals = states
            scores[left_out] = (residuals[left_out] * probe.weight).sum(dim=-1) + probe.bias
    return harmful_scores, benign_scores


def found_at_rate(harmful: Sequence[float], benign: Sequence[float], rate: float) -> float:
    """Return the share of harmful scores above a threshold that at most this share of benign scores exceeds.

    Args:
        harmful: scores of the class that should score high; not empty.
        benign: scores of the other class; not empty.
        rate: accepted share of benign scores above the threshold, in [0, 1).
    """
    threshold = sorted(benign, reverse=True)[int(rate * len(benign) + 1e-9)]
    return sum(score > threshold for score in harmful) / len(harmful)


def _joint_probe(
    harmful: Tensor, benign: Tensor, parts: Sequence[Part], inverse_penalty: float, seed: int
) -> LinearProbe:
    features = torch.cat([harmful, benign]).flatten(start_dim=1).double().numpy()
    weight, bias = _logistic_regression(features, _labels(harmful, benign), inverse_penalty, seed)
    # The score is the mean over parts, and the joint decision function is a sum over them.
    weights = torch.from_numpy(weight).reshape(len(parts), -1) * len(parts)
    return _probe(parts, weights.float(), torch.full((len(parts),), bias, dtype=torch.float64).float())


def _probe(parts: Sequence[Part], weight: Tensor, bias: Tensor) -> LinearProbe:
    blocks, over = tuple(block for block, _ in parts), tuple(over for _, over in parts)
    return LinearProbe(id="build", blocks=blocks, over=over, weight=weight, bias=bias)


def _labels(harmful: Tensor, benign: Tensor) -> NDArray[np.float64]:
    return np.concatenate([np.ones(len(harmful)), np.zeros(len(benign))])


def spread_over_folds(count: int, folds: int, seed: int) -> Tensor:
    """Return the fold of each of so many conversations, int64 `[count]`; folds differ in size by one at most."""
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
        raise needs_scikit_learn("logistic_regression") from error
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale == 0] = 1.0
    classifier = LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=3000, random_state=seed)
    classifier.fit((features - mean) / scale, labels)
    weight = classifier.coef_[0] / scale
    return weight, float(classifier.intercept_[0] - mean @ weight)


def _lda(features: NDArray[np.float64], labels: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    try:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # noqa: PLC0415 - optional extra `build`
    except ImportError as error:
        raise needs_scikit_learn("lda") from error
    classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
    classifier.fit(features, labels)
    return np.asarray(classifier.coef_[0]), float(classifier.intercept_[0])


def needs_scikit_learn(estimator: ProbeEstimator) -> BuildError:
    """Return the error for an estimator that is not installed."""
    return BuildError(
        f"The estimator {estimator} needs scikit-learn.",
        where="artifact.estimator",
        expected="scikit-learn installed",
        next_step="pip install 'steerguard[build]', or use the estimator mean_difference",
    )
