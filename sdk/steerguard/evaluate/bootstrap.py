"""Percentile-bootstrap intervals of means, medians and AUROCs. Seeded; prompts are the unit that is drawn.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
_CHUNK = 100
"""Resamples at a time, so that memory stays small for long lists; does not change what is drawn."""

Floats = npt.NDArray[np.float64]


def mean_interval(values: Sequence[float], *, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean.

    Args:
        values: one number per prompt, at least one.
        seed: of the draws.
    """
    return _interval(values, lambda drawn: drawn.mean(axis=1), seed)


def median_interval(values: Sequence[float], *, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the median; arguments as for `mean_interval`."""
    return _interval(values, lambda drawn: np.median(drawn, axis=1), seed)


def auroc_interval(positive: Sequence[float], negative: Sequence[float], *, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the AUROC; both classes are drawn anew each time.

    Args:
        positive: scores of the class that should score high, at least one.
        negative: scores of the other class, at least one.
        seed: of the draws.
    """
    high, low = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    levels, places = np.unique(np.concatenate([high, low]), return_inverse=True)
    places_high, places_low = places[: len(high)], places[len(high) :]
    generator = np.random.default_rng(seed)
    found: list[Floats] = []
    for count in _chunks():
        drawn_high = _histogram(places_high, count, len(levels), generator)
        drawn_low = _histogram(places_low, count, len(levels), generator)
        # Negatives below a level count whole, those at the level half.
        below = np.cumsum(drawn_low, axis=1) - drawn_low / 2
        found.append((drawn_high * below).sum(axis=1) / (len(high) * len(low)))
    return _percentiles(found)


def _interval(values: Sequence[float], statistic: Callable[[Floats], Any], seed: int) -> tuple[float, float]:
    sample = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    return _percentiles(
        [statistic(sample[generator.integers(0, len(sample), size=(count, len(sample)))]) for count in _chunks()]
    )


def _histogram(places: Any, count: int, levels: int, generator: np.random.Generator) -> Floats:
    """Draw `count` resamples and return how often each level occurs in each, `[count, levels]`."""
    drawn = places[generator.integers(0, len(places), size=(count, len(places)))]
    offsets = levels * np.arange(count)[:, None]
    return np.bincount((drawn + offsets).ravel(), minlength=count * levels).reshape(count, levels).astype(np.float64)


def _chunks() -> list[int]:
    return [min(_CHUNK, RESAMPLES - start) for start in range(0, RESAMPLES, _CHUNK)]


def _percentiles(found: Sequence[Floats]) -> tuple[float, float]:
    low, high = np.percentile(np.concatenate(found), [2.5, 97.5])
    return float(low), float(high)
