"""Turn a planned step that searches and its verified artifact into a search over candidates, for every such method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerguard.critics.pinned_files import found_locally
from steerguard.critics.response_states import bind_cost
from steerguard.critics.safety_value import bind_critic
from steerguard.critics.text_judge import JudgesPrompts
from steerguard.critics.text_models import bind_text_cost
from steerguard.errors import UnsupportedPlanError
from steerguard.guidance.search.search_guidance import SearchGuidance
from steerguard.methods.search_settings import ROLE, STATE_METHODS, TEXT_METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.critics.cost import CostModel, Critic
    from steerguard.plan.plan import PlannedStep


def bind(step: PlannedStep, artifacts: Mapping[str, VerifiedArtifact]) -> tuple[SearchGuidance, ...]:
    """Return the one search of the step.

    Args:
        step: the planned step, with its parts and its cost budget.
        artifacts: verified artifacts by role; needs `critic`, which may be a cost model.

    Raises:
        ArtifactFormatError: a tensor or a setting of the artifact is not what it may be.
        ArtifactNotFoundError: a file of a text model is not on this machine.
        ArtifactIntegrityError: a file of a text model differs from its pin.
        UnsupportedPlanError: the step was planned without a search, or the artifact reads other blocks than planned, or
            judges no prompts where these are checked.
    """
    if step.search is None or step.cost_budget is None:
        raise _other(step, "a search with a cost budget", "none")
    artifact = artifacts[ROLE]
    cost, critic = _judges(step, artifact, uses_critic=step.search.uses_critic)
    if sorted(cost.blocks) != sorted(step.answer_blocks):
        raise _other(step, f"blocks {step.answer_blocks}", f"blocks {tuple(cost.blocks)}")
    return (
        SearchGuidance(
            step=step.id,
            method=step.method,
            parts=step.search,
            cost_budget=step.cost_budget.value,
            cost_budget_fpr=step.cost_budget.fpr,
            cost=cost,
            critic=critic,
            prompt_cost=_prompt_judge(step, cost) if step.search.checks_prompt else None,
        ),
    )


def _judges(step: PlannedStep, artifact: VerifiedArtifact, *, uses_critic: bool) -> tuple[CostModel, Critic | None]:
    """Return the cost model, and the critic where the search uses one."""
    if uses_critic:
        cost, critic = bind_critic(artifact)
        parts = step.search
        if parts is not None and not critic.params.same_clock(block_tokens=parts.block_tokens, discount=parts.discount):
            raise _other(step, "the discount and blocks that the critic was trained with", "others in the policy")
        return cost, critic
    if artifact.manifest.method in STATE_METHODS:
        return bind_cost(artifact), None
    if artifact.manifest.method in TEXT_METHODS:
        return bind_text_cost(artifact, locate=found_locally), None
    raise _other(step, f"one of the methods {', '.join(STATE_METHODS + TEXT_METHODS)}", artifact.manifest.method)


def _prompt_judge(step: PlannedStep, cost: CostModel) -> Callable[[Sequence[str]], Tensor]:
    """Return what judges prompts without an answer."""
    if not isinstance(cost, JudgesPrompts):
        raise _other(step, "a cost model that judges prompts too, because `check` names `input`", type(cost).__name__)
    return cost.prompt_cost


def _other(step: PlannedStep, expected: str, found: str) -> UnsupportedPlanError:
    return UnsupportedPlanError(
        "A search was planned otherwise than its artifact is.",
        expected=expected,
        found=found,
        where=f"guidance entry `{step.id}`",
        next_step="Compile the plan of this very policy with compile_plan.",
    )
