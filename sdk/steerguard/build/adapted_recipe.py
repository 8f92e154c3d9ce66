"""A recipe for another model: blocks scaled to its depth, another variant, another base. The result is a recipe again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from steerguard.build.recipe import Recipe, parse_recipe
from steerguard.errors import RecipeError
from steerguard.policy.yaml_subset import read_document

_FILE = "adapted recipe"


def adapted_recipe(recipe: Recipe, *, variant: str, repo: str, source: str, num_blocks: int | None = None) -> Recipe:
    """Return the recipe for another model, with its own text, which the artifact records.

    Args:
        recipe: a recipe for some model.
        variant: name of the other model's variant.
        repo: where the other model comes from.
        source: which weights exactly.
        num_blocks: depth of the other model; every list of blocks is scaled to it. None keeps the blocks.

    Raises:
        RecipeError: the recipe does not say which depth its blocks are for, or a field is wrong after the change, such
            as a fingerprint of fewer than three blocks.
    """
    data: dict[str, Any] = read_document(recipe.text, file=_FILE).data
    data["metadata"]["variant"] = variant
    base: dict[str, Any] = {"repo": repo, "source": source}
    note = f"# Adapted from a recipe for {recipe.document.metadata.variant}."
    recorded = recipe.document.base.num_blocks
    if num_blocks is not None:
        if recorded is None:
            raise RecipeError(
                "The recipe does not say which depth its blocks are for.",
                where="base.num_blocks",
                expected="the number of decoder blocks of the model that the recipe was written for",
                found="nothing",
            )
        _scale(data, recorded, num_blocks)
        note += f" Blocks scaled from {recorded} to {num_blocks}."
    if num_blocks is not None or recorded is not None:
        base["num_blocks"] = num_blocks or recorded
    data["base"] = base
    # One line per text, whatever its length: folded lines would read worse.
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=10_000)
    return parse_recipe(f"{note}\n{text}", file=_FILE, folder=recipe.folder)


def scaled_block(block: int, depth: int, other: int) -> int:
    """Return the block at the same share of another depth; the middle of a block decides.

    Args:
        block: 0 to `depth - 1`.
        depth: number of blocks of the one model.
        other: number of blocks of the other.
    """
    return (2 * block + 1) * other // (2 * depth)


def _scale(data: dict[str, Any], depth: int, other: int) -> None:
    def scaled(blocks: Sequence[int]) -> list[int]:
        return sorted({scaled_block(block, depth, other) for block in blocks})

    artifact = data["artifact"]
    search = artifact.get("search") or {}
    for part, field in (
        (artifact, "blocks"),
        (artifact, "mean_blocks"),
        (artifact.get("donor") or {}, "train_blocks"),
        (data["fingerprint"], "blocks"),
    ):
        if part.get(field) is not None:
            part[field] = scaled(part[field])
    for field in ("blocks", "mean_blocks"):
        if search.get(field) is not None:
            search[field] = _each_once([scaled(blocks) for blocks in search[field]])
    if search.get("windows") is not None:
        ends = [
            [scaled_block(first, depth, other), scaled_block(last, depth, other)] for first, last in search["windows"]
        ]
        search["windows"] = _each_once(ends)


def _each_once(lists: list[list[int]]) -> list[list[int]]:
    """Return the lists without those that became equal to an earlier one."""
    return [entry for place, entry in enumerate(lists) if entry not in lists[:place]]
