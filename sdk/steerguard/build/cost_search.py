"""Choose blocks and penalty of a cost model by cross-validation on its training data, by question.

A setting is measured by the mean over the read lengths of the AUROC of labelled answers out of fold; of equal ones the
first in the recipe is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from steerguard.build.cost_fit import HeadSettings, out_of_fold_costs
from steerguard.build.cost_inputs import CostClass
from steerguard.build.cost_lengths import area_by_length
from steerguard.build.parts import ComparedSettings
from steerguard.build.recipe_cost import CostModelRecipe
from steerguard.build.steps import BuildContext

_COLUMNS = {
    "blocks": "blocks",
    "inverse_penalty": "C",
    "auroc": "AUROC, mean over lengths",
    "within": "the same within questions",
    "chosen": "chosen",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenHead:
    """Settings of the head that is built, and what they cost out of fold."""

    settings: HeadSettings
    costs: tuple[Tensor, ...]
    """Per class the cost of every reading by a head that saw no answer to its question."""
    compared: ComparedSettings | None = None
    """The table that the settings were chosen from; None where the recipe names them."""


def chosen_head(context: BuildContext, recipe: CostModelRecipe, classes: Sequence[CostClass]) -> ChosenHead:
    """Return the settings of the head; with a search the best of them.

    Args:
        context: the build; costs out of fold are cached steps.
        recipe: the cost model's part of the recipe.
        classes: answers with labels, the labelled ones first.

    Raises:
        BuildError: as `out_of_fold_costs`.
    """
    search = recipe.search
    if search is None:
        settings = HeadSettings(
            blocks=tuple(recipe.blocks or ()),
            inverse_penalty=recipe.inverse_penalty or 1.0,
            hidden=recipe.hidden,
            end_share=recipe.end_share,
        )
        return ChosenHead(settings=settings, costs=_costs(context, recipe, classes, settings))
    candidates = [
        HeadSettings(blocks=blocks, inverse_penalty=penalty, hidden=recipe.hidden, end_share=recipe.end_share)
        for blocks, penalty in product(
            search.blocks or (recipe.blocks or (),), search.inverse_penalties or (recipe.inverse_penalty or 1.0,)
        )
    ]
    report = context.progress.step("compare settings", len(candidates))
    found: list[tuple[HeadSettings, tuple[Tensor, ...], float, float]] = []
    for done, settings in enumerate(candidates, start=1):
        costs = _costs(context, recipe, classes, settings)
        areas = [area_by_length(classes, costs, length) for length in (*recipe.prefixes, None)]
        count = len(areas)
        found.append(
            (
                settings,
                costs,
                sum(area.pooled for area in areas) / count,
                sum(area.within for area in areas) / count,
            )
        )
        report(done)
    best = max(found, key=lambda entry: entry[2])
    return ChosenHead(settings=best[0], costs=best[1], compared=_table(found, best[0], recipe))


def _costs(
    context: BuildContext, recipe: CostModelRecipe, classes: Sequence[CostClass], settings: HeadSettings
) -> tuple[Tensor, ...]:
    """Return the costs out of fold of every class, from the cache if there."""
    seed = context.recipe.document.seed
    depends_on = {
        "answers": [one.identity for one in classes],
        "blocks": list(settings.blocks),
        "inverse_penalty": f"{settings.inverse_penalty:g}",
        "hidden": settings.hidden,
        "end_share": f"{settings.end_share:g}",
        "folds": recipe.folds,
        "seed": seed,
    }
    sizes = [len(one.states.tokens) for one in classes]

    def compute() -> dict[str, Tensor]:
        return {"costs": torch.cat(out_of_fold_costs(classes, settings, folds=recipe.folds, seed=seed))}

    return torch.split(context.cache.run("cost-out-of-fold", depends_on, compute)["costs"], sizes)


def _table(
    found: Sequence[tuple[HeadSettings, tuple[Tensor, ...], float, float]],
    best: HeadSettings,
    recipe: CostModelRecipe,
) -> ComparedSettings:
    lengths = ", ".join(str(length) for length in recipe.prefixes)
    rows: list[dict[str, Any]] = [
        {
            "blocks": list(settings.blocks),
            "inverse_penalty": f"{settings.inverse_penalty:g}",
            "auroc": f"{pooled:.4f}",
            "within": f"{within:.4f}",
            "chosen": settings == best,
        }
        for settings, _, pooled, within in found
    ]
    return ComparedSettings(
        id="cost_settings",
        title="Settings that were compared",
        text=(
            f"On training data only, {recipe.folds} folds by question: AUROC of the labelled answers, harmful against "
            f"harmless, mean over answers cut after {lengths} tokens and at their end. The highest was chosen."
        ),
        columns=_COLUMNS,
        rows=tuple(rows),
    )
