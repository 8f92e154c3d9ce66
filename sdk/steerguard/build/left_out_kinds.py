"""Kinds of benign prompts that a recipe keeps out of the calibration: which prompts they are, by group."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from steerguard.build.contrast import PromptSet
from steerguard.errors import RecipeError


def kinds_by_group(prompts: PromptSet, groups: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the kinds that each group stands for.

    Args:
        prompts: benign prompts of every split.
        groups: kinds, or patterns such as `*_twin`.

    Raises:
        RecipeError: a group has no prompt in any split, or two groups share a kind.
    """
    # Of every split: thresholds are not for a left-out kind that only `held_out` has, either.
    kinds = sorted(set(prompts.kinds))
    found: dict[str, tuple[str, ...]] = {}
    for group in groups:
        chosen = tuple(kind for kind in kinds if fnmatchcase(kind, group))
        taken = {kind: other for other, members in found.items() for kind in members}
        shared = [kind for kind in chosen if kind in taken]
        if not chosen or shared:
            raise RecipeError(
                "A group of kinds that the calibration leaves out is not a group of its own.",
                where="artifact.calibration_kinds_left_out",
                expected=f"kinds of benign prompts, each in one group: {', '.join(kinds)}",
                found=f"{group}: shares {', '.join(shared)}" if shared else f"{group}: no such kind",
            )
        found[group] = chosen
    return found


def of_kinds(prompts: PromptSet, kinds: Sequence[str]) -> PromptSet:
    """Return the prompts of these kinds, in order."""
    return prompts.chosen([index for index, kind in enumerate(prompts.kinds) if kind in kinds])
