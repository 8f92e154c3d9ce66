"""From a plan and its artifacts to what the engine runs: everything verified, every step bound by its method's binder."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from steerguard.artifacts.verify import VerifiedArtifact, verify_artifact
from steerguard.critics.text_judge import RunsAModel
from steerguard.detect.bind import bind_probe
from steerguard.engine.program import Program, bind_program
from steerguard.engine.rolling import watched_program
from steerguard.engine.search_program import searched_program
from steerguard.errors import UnsupportedPlanError
from steerguard.guidance.answer_watch import AnswerWatch
from steerguard.guidance.intervention import Intervention
from steerguard.guidance.search.search_guidance import SearchGuidance
from steerguard.methods.catalog import method_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from steerguard.plan.plan import Plan
    from steerguard.plan.resolve import ResolvedArtifact


def verified_artifacts(plan: Plan, resolved: Mapping[str, ResolvedArtifact]) -> dict[str, VerifiedArtifact]:
    """Return every artifact of the plan by digest, fully verified."""
    found = {artifact.pin.digest: artifact for artifact in resolved.values()}
    return {
        pin.digest: verify_artifact(
            found[pin.digest].store.read(found[pin.digest].pin), pin.digest, where=pin.reference
        )
        for pin in plan.artifacts
    }


def bound_program(
    plan: Plan, artifacts: Mapping[str, VerifiedArtifact], *, device: torch.device | str = "cpu"
) -> Program:
    """Return what the engine runs for a plan.

    Args:
        plan: the plan.
        artifacts: its verified artifacts by digest.
        device: where models that judge texts go.

    Raises:
        ArtifactFormatError: tensors are not what a binder reads.
        UnsupportedPlanError: a binder returned something else than its step declared.
    """
    probes = [bind_probe(detector, artifacts[detector.artifact.digest]) for detector in plan.detectors]
    bound: list[Intervention | AnswerWatch | SearchGuidance] = []
    for step in plan.steps:
        module, _, function = method_named(step.method).executor.partition(":")
        bind = getattr(importlib.import_module(module), function)
        bound += bind(step, {role: artifacts[pin.digest] for role, pin in step.artifacts.items()})
    program = bind_program(plan, probes, [item for item in bound if isinstance(item, Intervention)])
    program = watched_program(program, tuple(item for item in bound if isinstance(item, AnswerWatch)))
    searches = [item for item in bound if isinstance(item, SearchGuidance)]
    for search in searches:
        if isinstance(search.cost, RunsAModel):
            search.cost.model.to(device)
    return searched_program(program, searches)


def require_compilable(program: Program) -> None:
    """Refuse programs that decode steps compiled by the app cannot follow.

    Raises:
        UnsupportedPlanError: the program searches.
    """
    if program.searches:
        raise UnsupportedPlanError(
            "This version does not search under the compiled executor.",
            expected="a policy without searches, or the eager executor",
            found=f"guidance entry `{program.searches[0].step}`",
            where="executor",
            next_step='Wrap the model with `executor="eager"`.',
        )
