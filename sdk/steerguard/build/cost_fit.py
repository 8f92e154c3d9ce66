"""Fit a cost model to readings of answers, and score answers with it. No model here, only states.

An answer is read at several lengths, and each reading has the label of the whole answer, so that the cost model works
on answers that are still being written. Each answer counts alike whatever its length, and so does each label; its end,
which the label is of, counts more than its beginnings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from steerguard.artifacts.calibration import to_float32
from steerguard.build.cost_inputs import CostClass
from steerguard.build.cost_states import PrefixStates
from steerguard.build.probes import needs_scikit_learn, spread_over_folds
from steerguard.critics.response_states import apply_head
from steerguard.errors import BuildError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Head = tuple[tuple[Tensor, Tensor], ...]
"""Weight `[outputs, inputs]` and bias `[outputs]` of each layer, float32; standardisation is folded in."""

_STEPS = 1500
_MINIBATCH = 512
_LEARNING_RATE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSettings:
    """How a head is fitted, and to which blocks."""

    blocks: tuple[int, ...]
    inverse_penalty: float
    hidden: int | None = None
    """Width of the hidden layer; None is a linear head."""
    end_share: float = 0.5
    """Share of an answer's weight that its last reading has where it has several; the others share the rest."""


def fit_head(
    classes: Sequence[CostClass], settings: HeadSettings, *, seed: int, left_out: Sequence[Tensor] | None = None
) -> Head:
    """Fit a head on all readings of the answers; positive costs mean harmful.

    Args:
        classes: answers with labels.
        settings: blocks, penalty and depth.
        seed: of the solver, and of the start and the order of a two-layer head.
        left_out: per class which answers are not learned from, bool `[answers]`.

    Raises:
        BuildError: scikit-learn is not installed, or one of the labels has no answer.
    """
    masks = [torch.zeros(len(one.harmful), dtype=torch.bool) for one in classes] if left_out is None else left_out
    features, labels, weights = _examples(classes, settings, masks)
    mean = np.average(features, axis=0, weights=weights)
    features -= mean
    scale = np.sqrt(np.average(features**2, axis=0, weights=weights))
    scale[scale == 0] = 1.0
    features /= scale
    if settings.hidden is None:
        layers = _linear(features, labels, weights, settings.inverse_penalty, seed)
    else:
        layers = _two_layers(features, labels, weights, settings, seed)
    (weight, bias), *rest = layers
    weight = weight / scale
    return tuple(
        (torch.from_numpy(one).float(), torch.from_numpy(other).float())
        for one, other in [(weight, bias - weight @ mean), *rest]
    )


def out_of_fold_costs(
    classes: Sequence[CostClass], settings: HeadSettings, *, folds: int, seed: int
) -> tuple[Tensor, ...]:
    """Return per class the cost of every reading by a head that saw no answer to its question, float32 `[readings]`.

    Args:
        classes: answers with labels.
        settings: blocks, penalty and depth.
        folds: number of folds; the questions of each class are spread evenly over them.
        seed: decides the folds, and is that of the fits.

    Raises:
        BuildError: a class has fewer questions than folds.
    """
    fold_of = [_folds(one, folds, seed + number) for number, one in enumerate(classes)]
    costs = tuple(torch.empty(len(one.states.tokens)) for one in classes)
    for fold in range(folds):
        head = fit_head(classes, settings, seed=seed, left_out=[of == fold for of in fold_of])
        for one, of, found in zip(classes, fold_of, costs, strict=True):
            places = (of == fold)[one.states.answers]
            found[places] = apply_head(head, one.states.features(settings.blocks)[places])
    return costs


def recall_threshold(costs: Sequence[float], recall: str) -> float:
    """Return the highest float32 threshold that at least this share of the costs reaches; a cost fires at `>=`.

    Args:
        costs: of harmful answers, float32 values, at least one.
        recall: above 0 and below 1, decimal string.
    """
    needed = math.ceil(Decimal(recall) * len(costs))
    return to_float32(sorted(costs, reverse=True)[needed - 1])


def _examples(
    classes: Sequence[CostClass], settings: HeadSettings, left_out: Sequence[Tensor]
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Return features `[readings, inputs]`, labels and weights `[readings]`; the mean weight is 1."""
    features, labels, shares = [], [], []
    for one, skipped in zip(classes, left_out, strict=True):
        answers = one.states.answers
        kept = ~skipped[answers]
        features.append(one.states.features(settings.blocks)[kept])
        labels.append(torch.tensor(one.harmful, dtype=torch.float64)[answers][kept])
        shares.append(reading_shares(one.states, settings.end_share)[kept])
    label, share = torch.cat(labels), torch.cat(shares)
    totals = [float(share[label == value].sum()) for value in (0.0, 1.0)]
    if not all(totals):
        raise BuildError(
            "A cost model needs answers with both labels.",
            expected="harmful and harmless answers",
            found=f"{totals[1]:.0f} harmful and {totals[0]:.0f} harmless answers",
            next_step="look at the labels of the data, or raise artifact.answers.max_benign_prompts",
        )
    share /= torch.where(label > 0, totals[1], totals[0])
    weights = (share / share.mean()).numpy()
    return torch.cat(features).numpy(), label.numpy(), weights


def reading_shares(states: PrefixStates, end_share: float) -> Tensor:
    """Return how much each reading counts, float64 `[readings]`; those of one answer add up to 1.

    Args:
        states: readings of answers.
        end_share: of the last reading of an answer that has several.
    """
    counts = torch.tensor(states.counts, dtype=torch.float64)
    shares = ((1.0 - end_share) / (counts - 1).clamp_min(1))[states.answers]
    shares[states.ends] = torch.where(counts > 1, end_share, 1.0).double()
    return shares


def _folds(one: CostClass, folds: int, seed: int) -> Tensor:
    """Return the fold of each answer, int64 `[answers]`; answers to one question share it."""
    groups = list(dict.fromkeys(one.groups))
    if len(groups) < folds:
        raise BuildError(
            "Too few questions for the cross-validation.",
            expected=f"at least {folds} of the answers `{one.name}`",
            found=len(groups),
            next_step="lower artifact.folds or add answers to other questions",
        )
    of_group = dict(zip(groups, spread_over_folds(len(groups), folds, seed).tolist(), strict=True))
    return torch.tensor([of_group[group] for group in one.groups])


def _linear(
    features: NDArray[np.float32],
    labels: NDArray[np.float64],
    weights: NDArray[np.float64],
    inverse_penalty: float,
    seed: int,
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    try:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - optional extra `build`
    except ImportError as error:
        raise needs_scikit_learn("logistic_regression") from error
    classifier = LogisticRegression(C=inverse_penalty, max_iter=3000, random_state=seed)
    classifier.fit(features, labels, sample_weight=weights)
    return [(classifier.coef_.astype(np.float64), classifier.intercept_.astype(np.float64))]


def _two_layers(
    features: NDArray[np.float32],
    labels: NDArray[np.float64],
    weights: NDArray[np.float64],
    settings: HeadSettings,
    seed: int,
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Fit two layers by Adam on the same loss as the linear head, with the penalty on both weight matrices."""
    inputs, targets, counts = (torch.from_numpy(array).float() for array in (features, labels, weights))
    draw = torch.Generator().manual_seed(seed)
    hidden = int(settings.hidden or 1)
    first, second = nn.Linear(inputs.shape[1], hidden), nn.Linear(hidden, 1)
    with torch.no_grad():
        for layer in (first, second):
            layer.weight.normal_(0.0, layer.in_features**-0.5, generator=draw)
            layer.bias.zero_()
    parameters = [*first.parameters(), *second.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=_LEARNING_RATE)
    penalty = 0.5 / (settings.inverse_penalty * len(inputs))
    with torch.enable_grad():
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(_STEPS):
            if len(order) < min(_MINIBATCH, len(inputs)):
                order = torch.cat([order, torch.randperm(len(inputs), generator=draw)])
            rows, order = order[:_MINIBATCH], order[_MINIBATCH:]
            logits = second(first(inputs[rows]).relu())[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(logits, targets[rows], weight=counts[rows])
            loss = loss + penalty * (first.weight.square().sum() + second.weight.square().sum())
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimiser.step()
    return [(layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()) for layer in (first, second)]
