"""Choose parts and estimator of a probe by cross-validation on build data.

A setting is measured by the share of harmful prompts found out of fold at a false-positive rate of 0.05, ties by
AUROC, then by the order in which the recipe lists them. Parts are fitted apart unless the setting is joint, so a part
that stands in several settings is fitted once per estimator, and each such fit is a cached step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from steerguard.artifacts.probe_params import Part
from steerguard.build.parts import ComparedSettings
from steerguard.build.probes import found_at_rate, out_of_fold_by_part
from steerguard.build.recipe_probe import ProbeEstimator, ProbeRecipe
from steerguard.build.steps import BuildContext
from steerguard.evaluate.proportions import auroc
from steerguard.models.prompt_mean import SKIPPED_TOKENS

RATE = 0.05
_DEFAULT_PENALTY = 1.0
_COLUMNS = {
    "blocks": "blocks",
    "mean_blocks": "blocks, prompt mean",
    "estimator": "estimator",
    "inverse_penalty": "C",
    "joint": "joint",
    "found": "harmful found at fpr 0.05",
    "auroc": "AUROC",
    "chosen": "chosen",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenProbe:
    """Settings of the probe that is built."""

    parts: tuple[Part, ...]
    """By block, the end before the prompt mean."""
    estimator: ProbeEstimator
    inverse_penalty: float
    joint: bool
    compared: ComparedSettings | None = None
    """The table that they were chosen from."""


# Estimator, inverse penalty and the parts that one fit sees; several parts only where it is joint.
_Fit = tuple[ProbeEstimator, float, tuple[Part, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    settings: ChosenProbe
    found: float
    auroc: float


def read_parts(recipe: ProbeRecipe) -> tuple[Part, ...]:
    """Return every part that any setting of the recipe reads, by block, the end before the prompt mean."""
    return tuple(sorted({part for settings in _settings(recipe) for part in settings.parts}))


def choose_probe(
    context: BuildContext, recipe: ProbeRecipe, harmful: Tensor, benign: Tensor, prompts: tuple[str, str]
) -> ChosenProbe:
    """Return the recipe's settings, or the best of those that it lists.

    Args:
        context: the build.
        recipe: the probe part of the recipe.
        harmful: float32 residuals `[n, parts, width]` of the build split, parts as `read_parts` lists them.
        benign: float32 residuals `[m, parts, width]` of the build split.
        prompts: digests of both prompt sets, for the cache.

    Raises:
        BuildError: scikit-learn is missing, or a class has fewer prompts than folds.
    """
    listed = list(_settings(recipe))
    if recipe.search is None:
        return listed[0]
    columns = {part: column for column, part in enumerate(read_parts(recipe))}
    fits = sorted({fit for settings in listed for fit in _fits(settings)})
    report = context.progress.step("cross-validation", len(fits))
    scores: dict[_Fit, tuple[Tensor, Tensor]] = {}
    for done, fit in enumerate(fits, start=1):
        chosen = [columns[part] for part in fit[2]]
        residuals = harmful[:, chosen], benign[:, chosen]
        scores[fit] = _cached_fit(context, residuals, fit, folds=recipe.folds, prompts=prompts)
        report(done)
    candidates = [_measured(settings, scores) for settings in listed]
    best = max(candidates, key=lambda one: (one.found, one.auroc))
    return replace(best.settings, compared=_table(candidates, best, recipe, len(harmful), len(benign)))


def _settings(recipe: ProbeRecipe) -> Iterator[ChosenProbe]:
    search = recipe.search
    block_lists = (search and search.blocks) or (recipe.blocks or (),)
    mean_lists = (search and search.mean_blocks) or (recipe.mean_blocks or (),)
    estimators = (search and search.estimators) or ((recipe.estimator,) if recipe.estimator is not None else ())
    single = _DEFAULT_PENALTY if recipe.inverse_penalty is None else recipe.inverse_penalty
    penalties = (search and search.inverse_penalties) or (single,)
    joints = (search and search.joint) or (bool(recipe.joint),)
    for blocks, mean_blocks, estimator in product(block_lists, mean_lists, estimators):
        parts: list[Part] = [(block, "end") for block in blocks]
        parts += [(block, "prompt_mean") for block in mean_blocks]
        regression = estimator == "logistic_regression"
        for penalty, joint in product(penalties, joints) if regression else ((single, False),):
            yield ChosenProbe(parts=tuple(sorted(parts)), estimator=estimator, inverse_penalty=penalty, joint=joint)


def _fits(settings: ChosenProbe) -> list[_Fit]:
    """Return the fits whose mean is the score of a setting."""
    together = [settings.parts] if settings.joint else [(part,) for part in settings.parts]
    return [(settings.estimator, settings.inverse_penalty, parts) for parts in together]


def _cached_fit(
    context: BuildContext, residuals: tuple[Tensor, Tensor], fit: _Fit, *, folds: int, prompts: tuple[str, str]
) -> tuple[Tensor, Tensor]:
    estimator, penalty, parts = fit
    seed = context.recipe.document.seed
    joint = len(parts) > 1
    depends_on: dict[str, Any] = {
        **context.batched_identity(),
        "harmful": prompts[0],
        "benign": prompts[1],
        "estimator": estimator,
        "inverse_penalty": str(penalty),
        "parts": [list(part) for part in parts],
        "skipped_tokens": SKIPPED_TOKENS,
        "folds": folds,
        "seed": seed,
    }

    def compute() -> dict[str, Tensor]:
        harmful, benign = out_of_fold_by_part(
            *residuals, estimator, inverse_penalty=penalty, folds=folds, seed=seed, joint=joint
        )
        return {"harmful": harmful.mean(dim=1), "benign": benign.mean(dim=1)}

    result = context.cache.run("probe-fold", depends_on, compute)
    return result["harmful"], result["benign"]


def _measured(settings: ChosenProbe, scores: dict[_Fit, tuple[Tensor, Tensor]]) -> _Candidate:
    fits = [scores[fit] for fit in _fits(settings)]
    harmful = torch.stack([fit[0] for fit in fits]).mean(dim=0).tolist()
    benign = torch.stack([fit[1] for fit in fits]).mean(dim=0).tolist()
    return _Candidate(settings=settings, found=found_at_rate(harmful, benign, RATE), auroc=auroc(harmful, benign))


def _table(
    candidates: list[_Candidate], best: _Candidate, recipe: ProbeRecipe, harmful: int, benign: int
) -> ComparedSettings:
    rows = tuple(
        {
            "blocks": [block for block, over in one.settings.parts if over == "end"],
            "mean_blocks": [block for block, over in one.settings.parts if over == "prompt_mean"] or None,
            "estimator": one.settings.estimator,
            "inverse_penalty": str(one.settings.inverse_penalty)
            if one.settings.estimator == "logistic_regression"
            else None,
            "joint": one.settings.joint,
            "found": f"{one.found:.4f}",
            "auroc": f"{one.auroc:.4f}",
            "chosen": one is best,
        }
        for one in candidates
    )
    return ComparedSettings(
        id="probe_search",
        title="What was compared",
        text=(
            f"{recipe.folds}-fold out-of-fold scores of {harmful} harmful and {benign} benign prompts, split `build`, "
            f"float32. The setting that finds most harmful prompts at a false-positive rate of {RATE} was chosen, ties by "
            "AUROC. Since it was chosen by them, its own figures in this table flatter."
        ),
        columns=_COLUMNS,
        rows=rows,
    )
