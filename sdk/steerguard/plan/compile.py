"""Compile a policy against a model: pure, and the place where what does not fit together is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from steerguard.artifacts.paths import CALIBRATION
from steerguard.artifacts.probe_params import probe_parts
from steerguard.errors import BudgetInfeasibleError, IncompatibleModelError, UnsupportedPlanError
from steerguard.methods.bounds import CalibratedBound
from steerguard.plan.answer_rates import check_answer_rate, check_reads_prompts
from steerguard.plan.cost import CostFormula, SteeredBlock, steering_cost
from steerguard.plan.plan import (
    Mode,
    PinnedArtifact,
    Plan,
    PlannedCalibration,
    PlannedDetector,
    PlannedStep,
    UnrecognisedPrompt,
)
from steerguard.plan.planned_rules import planned_rule, planned_threshold
from steerguard.plan.resolve import ResolvedArtifact
from steerguard.plan.score_tolerance import score_tolerance
from steerguard.plan.search_plan import check_fallback, check_searches, held_bytes, planned_cost_budget
from steerguard.policy.failure import Loosening
from steerguard.policy.rule_documents import comparisons

if TYPE_CHECKING:
    from steerguard.methods.spec import GuidanceSpec
    from steerguard.models.facts import ModelFacts
    from steerguard.policy.document import Policy, ProbeDetector
    from steerguard.policy.rules import PlannedBound

MEBIBYTE = 1024 * 1024


def compile_plan(
    policy: Policy,
    facts: ModelFacts,
    artifacts: Mapping[str, ResolvedArtifact],
    *,
    mode: Mode | None = None,
) -> Plan:
    """Return the plan of a policy on a model.

    Args:
        policy: the validated document.
        facts: what is known of the model.
        artifacts: the chosen variant for every reference in the policy, by reference.
        mode: overrides the mode of the policy.

    Raises:
        IncompatibleModelError: the model takes a modality that the policy does not cover, or a block does not exist.
        CalibrationError: a `{fpr: x}` threshold cannot be resolved.
        BudgetInfeasibleError: the estimate already exceeds the budget.
        UnsupportedPlanError: the policy asks for what this version cannot execute.
        ArtifactFormatError: a manifest's `params` are malformed, or nothing states the cost budget of a search.
    """
    _check_modalities(policy, facts)
    check_supported(policy)
    detectors = tuple(
        _planned_detector(policy, detector, artifacts[detector.artifact], facts) for detector in policy.detectors
    )
    steps = tuple(planned_step(spec, facts, artifacts) for spec in policy.guidance)
    by_id = {detector.id: (detector, artifacts[detector.artifact]) for detector in policy.detectors}
    tolerances = {detector.id: detector.tolerance for detector in detectors}
    rules = tuple(planned_rule(rule, by_id, tolerances) for rule in policy.rules)
    cost = cost_of(detectors, steps, facts)
    plan = Plan(
        policy_name=policy.metadata.name,
        policy_version=policy.metadata.version,
        policy_digest=policy.digest,
        mode=mode or policy.mode,
        model=facts,
        detectors=detectors,
        steps=steps,
        rules=rules,
        default_action=policy.default.action,
        default_use=tuple(policy.default.use),
        unrecognised_prompt=_unrecognised(policy),
        refusal_template=policy.refusal.template,
        audit_content=policy.audit.content,
        streaming=policy.streaming.strategy,
        max_extra_memory_bytes=_mebibytes(policy.budget.max_extra_memory_mib),
        max_extra_forward_tokens=policy.budget.max_extra_forward_tokens,
        max_candidates=policy.budget.max_candidates,
        max_added_latency_ms=policy.budget.max_added_latency_ms,
        on_exceeded=policy.budget.on_exceeded,
        fallback=tuple(policy.budget.fallback),
        cost=cost,
    )
    _check_budget(plan)
    check_searches(plan)
    return plan


def _check_modalities(policy: Policy, facts: ModelFacts) -> None:
    uncovered = sorted(set(facts.modalities) - set(policy.target.modalities))
    if uncovered:
        raise IncompatibleModelError(
            "The model takes inputs that the policy does not cover.",
            expected=f"modalities within {', '.join(policy.target.modalities)}",
            found=", ".join(facts.modalities),
            where="target.modalities",
            next_step=f"Add {', '.join(uncovered)} to target.modalities once the policy is meant to cover it.",
        )


def check_supported(policy: Policy) -> None:
    """Refuse what this version validates but cannot execute; needs no artifact and no model.

    Raises:
        UnsupportedPlanError: names the setting.
    """
    check_fallback(policy)
    if policy.unrecognised_prompt == "gate_every_turn":
        raise _unsupported("`unrecognised_prompt: gate_every_turn`", "unrecognised_prompt")
    for name in ("detector", "guidance", "audit"):
        if getattr(policy.failure, name) != "refuse":
            raise _unsupported("a loosened failure rule", f"failure.{name}")


def _unsupported(what: str, where: str) -> UnsupportedPlanError:
    return UnsupportedPlanError(
        f"This version validates {what} but cannot execute it.",
        where=where,
        next_step="Remove it from the policy, or see the README for the methods and their status.",
    )


def _pin(artifact: ResolvedArtifact) -> PinnedArtifact:
    pin = artifact.pin
    return PinnedArtifact(
        family=pin.family, variant=pin.variant, version=pin.version, digest=pin.digest, type=pin.manifest.type
    )


def _planned_detector(
    policy: Policy, detector: ProbeDetector, artifact: ResolvedArtifact, facts: ModelFacts
) -> PlannedDetector:
    manifest = artifact.pin.manifest
    parts = probe_parts(manifest)
    if manifest.method != detector.type:
        raise UnsupportedPlanError(
            f"Detector `{detector.id}` is of type `{detector.type}`, and its artifact is of another method.",
            expected=f"an artifact of method `{detector.type}`",
            found=f"{manifest.reference} of method `{manifest.method}`",
            where=f"detector `{detector.id}`",
            next_step=f"Write `type: {manifest.method}`, or name an artifact of method `{detector.type}`.",
        )
    check_reads_prompts(manifest, detector.id)
    return PlannedDetector(
        id=detector.id,
        type=detector.type,
        artifact=_pin(artifact),
        blocks=tuple(block for block, _ in parts),
        over=tuple(over for _, over in parts),
        calibration=_planned_calibration(policy, detector, artifact),
        tolerance=score_tolerance(detector.type, facts.dtype, artifact.calibration),
    )


def planned_step(spec: GuidanceSpec, facts: ModelFacts, artifacts: Mapping[str, ResolvedArtifact]) -> PlannedStep:
    """Return the plan of one guidance entry.

    Raises:
        UnsupportedPlanError: the method declares no footprint, or an artifact is of another method.
        IncompatibleModelError: a block does not exist.
        CalibrationError: a `{fpr: x}` threshold cannot be resolved.
        ArtifactFormatError: a manifest's `params` are malformed.
    """
    needs = {need.role: artifacts[need.reference] for need in spec.artifact_needs()}
    _check_methods(spec, artifacts)
    parameters = {role: artifact.pin.manifest.params for role, artifact in needs.items()}
    footprint, search = spec.footprint(parameters), spec.search(parameters)
    if footprint is None:
        raise _unsupported(f"method `{spec.method}`", f"guidance entry `{spec.id}`")
    read = footprint.answer_blocks if search is not None else ()
    outside = [block for block in (*footprint.steered_blocks, *read) if not 0 <= block < facts.num_blocks]
    if outside:
        raise IncompatibleModelError(
            "The policy steers or reads decoder blocks that the model does not have.",
            expected=f"blocks 0 to {facts.num_blocks - 1}",
            found=outside,
            where=f"guidance entry `{spec.id}`",
            next_step="Remove `blocks` to use the artifact's calibrated window.",
        )
    return PlannedStep(
        id=spec.id,
        method=spec.method,
        spec=spec,
        artifacts={role: _pin(artifact) for role, artifact in needs.items()},
        blocks=footprint.steered_blocks,
        read_blocks=footprint.read_blocks,
        positions=footprint.positions,
        first_steps=footprint.first_steps,
        modality_tokens=footprint.modality_tokens,
        schedule=footprint.schedule,
        schedule_steps=footprint.steps,
        coefficient=repr(float(getattr(spec, "coefficient", 1.0))),
        strength=footprint.strength,
        operator=footprint.operator,
        points=footprint.points,
        rank=footprint.rank,
        answer_blocks=footprint.answer_blocks,
        kept_reads=footprint.kept_reads,
        threshold=_threshold(spec, needs) if search is None else None,
        search=search,
        cost_budget=None if search is None else planned_cost_budget(spec, search, _judge(spec, needs)),
        held_bytes=0 if search is None else sum(held_bytes(artifact.pin.manifest) for artifact in needs.values()),
    )


def _judge(spec: GuidanceSpec, needs: Mapping[str, ResolvedArtifact]) -> ResolvedArtifact:
    """Return the artifact that says what an answer costs: the first one that a search needs."""
    (need, *_) = spec.artifact_needs()
    return needs[need.role]


def _threshold(spec: GuidanceSpec, needs: Mapping[str, ResolvedArtifact]) -> PlannedBound | None:
    """Return the resolved threshold of a step that reads answers; None for every other step."""
    bound = getattr(spec, "threshold", None)
    if bound is None:
        return None
    check_answer_rate(spec, needs["probe"].pin.manifest)
    return planned_threshold(bound, needs["probe"], f"guidance entry `{spec.id}`")


def _planned_calibration(
    policy: Policy, detector: ProbeDetector, artifact: ResolvedArtifact
) -> PlannedCalibration | None:
    """Return where the detector's rates come from; None when no rule states one, or when there is nothing."""
    compared = [comparison for rule in policy.rules for _, comparison in comparisons(rule.when)]
    scores = [comparison.score for comparison in compared if comparison.detector == detector.id]
    if not any(isinstance(bound, CalibratedBound) for score in scores for bound in (score.at_least, score.below)):
        return None
    attested = artifact.attested.get(detector.id)
    if attested is not None:
        return PlannedCalibration(origin="attestation", digest=attested.digest, n=attested.calibration.n)
    entry = artifact.pin.manifest.file_entries.get(CALIBRATION)
    if artifact.calibration is None or entry is None:
        return None
    return PlannedCalibration(origin="artifact", digest=f"sha256:{entry.sha256}", n=artifact.calibration.n)


def _check_methods(spec: GuidanceSpec, artifacts: Mapping[str, ResolvedArtifact]) -> None:
    for need in spec.artifact_needs():
        manifest = artifacts[need.reference].pin.manifest
        if manifest.method not in need.methods:
            methods = " or ".join(f"`{method}`" for method in need.methods)
            right = f"Write `method: {manifest.method}`, or name" if spec.method in need.methods else "Name"
            raise UnsupportedPlanError(
                f"Guidance entry `{spec.id}` uses method `{spec.method}` with an artifact of another method.",
                expected=f"an artifact of method {methods}",
                found=f"{manifest.reference} of method `{manifest.method}`",
                where=f"guidance entry `{spec.id}`",
                next_step=f"{right} an artifact of method {methods}{need.otherwise and f', or {need.otherwise}'}.",
            )


def cost_of(detectors: tuple[PlannedDetector, ...], steps: tuple[PlannedStep, ...], facts: ModelFacts) -> CostFormula:
    """Return the cost formula; a verdict that needs a block behind the first steered place costs a second pass."""
    steered = tuple(
        SteeredBlock(
            block=block,
            point=point,
            schedule=step.schedule,
            steps=step.schedule_steps,
            first_steps=step.first_steps,
            operator=step.operator,
            rank=step.rank,
        )
        for step in steps
        for block in step.blocks
        for point in step.points
    )
    # The input of a block is reached when the block before it was read.
    first = min((entry.block - (entry.point == "resid_pre") for entry in steered), default=None)
    last_read = max((block for detector in detectors for block in detector.blocks), default=None)
    passes: Literal[1, 2] = 2 if first is not None and last_read is not None and last_read > first else 1
    late = {name for step in steps for name in step.spec.opened_entries()}
    reads = [block for detector in detectors for block in detector.blocks]
    reads += [block for step in steps for block in step.read_blocks]
    return steering_cost(
        passes=passes,
        reads=tuple(reads),
        steered=steered,
        hidden_size=facts.hidden_size,
        dtype=facts.dtype,
        answer_reads=tuple(step.answer_blocks for step in steps if step.answer_blocks and step.search is None),
        kept_reads=sum(step.kept_reads for step in steps),
        opened_late=len({block for step in steps if step.id in late for block in step.blocks}),
        search_reads=tuple(step.answer_blocks for step in steps if step.search is not None),
        held_bytes=sum(step.held_bytes for step in steps),
    )


def _check_budget(plan: Plan) -> None:
    needed = plan.cost.extra_bytes(rows=1)
    if plan.max_extra_memory_bytes is not None and needed > plan.max_extra_memory_bytes:
        raise BudgetInfeasibleError(
            "The plan needs more memory than the budget allows, even for one row.",
            expected=f"at most {plan.max_extra_memory_bytes} bytes",
            found=f"{needed} bytes",
            where="budget.max_extra_memory_mib",
            next_step="Raise the budget or steer fewer blocks.",
        )
    per_prompt_token = plan.cost.extra_forward_tokens(1)
    if plan.max_extra_forward_tokens is not None and per_prompt_token > plan.max_extra_forward_tokens:
        raise BudgetInfeasibleError(
            "The plan reads each prompt twice, and the budget allows no extra forward token.",
            expected=f"at most {plan.max_extra_forward_tokens} extra forward tokens",
            found=f"{per_prompt_token} per prompt token",
            where="budget.max_extra_forward_tokens",
            next_step="Raise the budget, or steer only blocks from the detector's last block on.",
        )


def _unrecognised(policy: Policy) -> UnrecognisedPrompt:
    handling = policy.unrecognised_prompt
    if isinstance(handling, Loosening):
        return UnrecognisedPrompt(action="allow", reason=handling.reason, expires=str(handling.expires))
    return UnrecognisedPrompt(action="refuse", reason=None, expires=None)


def _mebibytes(value: int | None) -> int | None:
    return None if value is None else value * MEBIBYTE
