"""Searches in the program of a plan: what was bound is what the steps declared, and a judge that fails says so by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from steerguard.errors import CostModelError, SteerguardError, UnsupportedPlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from steerguard.critics.cost import CostInputs, CostModel, Critic
    from steerguard.engine.program import Program
    from steerguard.guidance.search.search_guidance import SearchGuidance

Judged = TypeVar("Judged")


def searched_program(program: Program, searches: Sequence[SearchGuidance]) -> Program:
    """Return a program that also searches.

    Raises:
        UnsupportedPlanError: an entry searches otherwise than its step declared.
    """
    declared = {step.id: step for step in program.plan.steps if step.search is not None}
    bound = {search.step: search for search in searches}
    if declared.keys() != bound.keys():
        raise _other("entries that search", ", ".join(declared) or "none", ", ".join(bound) or "none")
    for name, search in bound.items():
        step = declared[name]
        read = tuple(sorted(set(search.cost.blocks)))
        if search.parts != step.search:
            raise _other(f"parts of `{name}`", step.search, search.parts)
        if read != step.answer_blocks:
            raise _other(f"blocks that `{name}` reads", step.answer_blocks, read)
        if search.parts.checks_prompt and search.prompt_cost is None:
            raise _other(f"who judges prompts for `{name}`", "a cost model of prompts", "none")
        if step.cost_budget is None or search.cost_budget != step.cost_budget.value:
            raise _other(f"cost budget of `{name}`", step.cost_budget, search.cost_budget)
    return replace(program, searches=tuple(named_failures(search) for search in searches))


@dataclass(frozen=True, slots=True, eq=False)
class _Judge:
    """A cost model whose failures have a name."""

    step: str
    inner: CostModel

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.inner.blocks

    def cost(self, inputs: CostInputs) -> Tensor:
        return _named(self.step, lambda: self.inner.cost(inputs))


@dataclass(frozen=True, slots=True, eq=False)
class _Foresight:
    """A critic whose failures have a name."""

    step: str
    inner: Critic

    def values(self, inputs: CostInputs, z: Tensor) -> tuple[Tensor, Tensor]:
        return _named(self.step, lambda: self.inner.values(inputs, z))


def named_failures(search: SearchGuidance) -> SearchGuidance:
    """Return the search with a cost model and a critic whose failures are `CostModelError`."""
    critic, of_prompts = search.critic, search.prompt_cost
    return replace(
        search,
        cost=_Judge(search.step, search.cost),
        critic=None if critic is None else _Foresight(search.step, critic),
        prompt_cost=None if of_prompts is None else lambda texts: _named(search.step, lambda: of_prompts(texts)),
    )


def _named(step: str, judge: Callable[[], Judged]) -> Judged:
    try:
        return judge()
    except SteerguardError:
        raise
    # Whatever somebody else's cost model raises: the row is refused, and the cause is kept.
    except Exception as error:
        raise CostModelError(
            "A cost model or critic failed, so no answer can be judged.",
            expected="a cost for each answer",
            found=type(error).__name__,
            where=f"guidance entry `{step}`",
            next_step="Look at the cause of this error.",
        ) from error


def _other(what: str, expected: object, found: object) -> UnsupportedPlanError:
    return UnsupportedPlanError(
        "What was bound searches otherwise than the plan says.",
        expected=f"{what}: {expected}",
        found=str(found),
        where="policy",
        next_step="Declare in `search` and `footprint` of the method what its binder returns.",
    )
