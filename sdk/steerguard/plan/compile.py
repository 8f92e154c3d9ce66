"""Compile a policy against a model: pure, and the place where what does not fit together is refused."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Literal

from steerguard.errors import BudgetInfeasibleError, CalibrationError, IncompatibleModelError, UnsupportedPlanError
from steerguard.methods.catalog import method_named
from steerguard.plan.cost import CostFormula, steering_cost
from steerguard.plan.plan import Mode, PinnedArtifact, Plan, PlannedDetector, PlannedStep, UnrecognisedPrompt
from steerguard.policy.failure import Loosening
from steerguard.policy.rules import PlannedBound, PlannedRule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steerguard.methods.spec import GuidanceSpec
    from steerguard.models.facts import ModelFacts
    from steerguard.plan.resolve import ResolvedArtifact
    from steerguard.policy.document import Policy
    from steerguard.policy.rule_documents import Bound, Rule

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
    """
    _check_modalities(policy, facts)
    check_supported(policy)
    detectors = tuple(
        PlannedDetector(
            id=detector.id,
            type=detector.type,
            artifact=_pin(artifacts[detector.artifact]),
            blocks=tuple(int(block) for block in artifacts[detector.artifact].pin.manifest.params["blocks"]),
        )
        for detector in policy.detectors
    )
    steps = tuple(_planned_step(spec, facts, artifacts) for spec in policy.guidance)
    by_id = {detector.id: artifacts[detector.artifact] for detector in policy.detectors}
    rules = tuple(_planned_rule(rule, by_id) for rule in policy.rules)
    cost = _cost(detectors, steps, facts)
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
        audit_content="none" if policy.audit.content == "none" else "hmac",
        max_extra_memory_bytes=_mebibytes(policy.budget.max_extra_memory_mib),
        max_extra_forward_tokens=policy.budget.max_extra_forward_tokens,
        cost=cost,
    )
    _check_budget(plan)
    return plan


def float32(value: float) -> float:
    """Return the nearest float32, so that host and device compare a score with the same number."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


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
    for spec in policy.guidance:
        method = method_named(spec.method)
        if method.executor is None:
            raise _unsupported(f"method `{spec.method}`", f"guidance entry `{spec.id}`")
    if policy.unrecognised_prompt == "gate_every_turn":
        raise _unsupported("`unrecognised_prompt: gate_every_turn`", "unrecognised_prompt")
    for name in ("detector", "guidance", "audit"):
        if getattr(policy.failure, name) != "refuse":
            raise _unsupported("a loosened failure rule", f"failure.{name}")
    if policy.budget.on_exceeded == "fallback":
        raise _unsupported("`on_exceeded: fallback`", "budget.on_exceeded")
    if policy.audit.content == "encrypted":
        raise _unsupported("`audit.content: encrypted`", "audit.content")
    if policy.streaming.strategy != "buffer":
        raise _unsupported(f"`streaming.strategy: {policy.streaming.strategy}`", "streaming.strategy")


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


def _planned_step(spec: GuidanceSpec, facts: ModelFacts, artifacts: Mapping[str, ResolvedArtifact]) -> PlannedStep:
    needs = {need.role: artifacts[need.reference] for need in spec.artifact_needs()}
    footprint = spec.footprint({role: artifact.pin.manifest.params for role, artifact in needs.items()})
    if footprint is None:
        raise _unsupported(f"method `{spec.method}`", f"guidance entry `{spec.id}`")
    outside = [block for block in footprint.steered_blocks if not 0 <= block < facts.num_blocks]
    if outside:
        raise IncompatibleModelError(
            "The policy steers decoder blocks that the model does not have.",
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
        coefficient=repr(float(getattr(spec, "coefficient", 1.0))),
        strength=footprint.strength,
    )


def _planned_rule(rule: Rule, detectors: Mapping[str, ResolvedArtifact]) -> PlannedRule:
    detector = rule.when.detector
    score = rule.when.score
    if detector is None or score is None:
        return PlannedRule(
            id=rule.id, detector=None, at_least=None, below=None, action=rule.then.action, use=tuple(rule.then.use)
        )
    return PlannedRule(
        id=rule.id,
        detector=detector,
        at_least=_bound(score.at_least, detectors[detector], f"rule `{rule.id}`"),
        below=_bound(score.below, detectors[detector], f"rule `{rule.id}`"),
        action=rule.then.action,
        use=tuple(rule.then.use),
    )


def _bound(bound: Bound | None, artifact: ResolvedArtifact, where: str) -> PlannedBound | None:
    if bound is None:
        return None
    if bound.value is not None:
        return PlannedBound(value=float32(bound.value), fpr=None)
    if artifact.calibration is None:
        pin = artifact.pin
        raise CalibrationError(
            "A calibrated threshold needs a calibration, and the artifact has none.",
            expected="calibration.json in the artifact",
            found=f"{pin.family}/{pin.variant}@{pin.version} without one",
            where=where,
            next_step="Write the threshold as {value: x}, or build the artifact with calibration prompts.",
        )
    return PlannedBound(value=float32(artifact.calibration.threshold(bound.fpr)), fpr=bound.fpr_text)


def _cost(detectors: tuple[PlannedDetector, ...], steps: tuple[PlannedStep, ...], facts: ModelFacts) -> CostFormula:
    """Return the cost formula; a verdict that needs a block above the first steered one costs a second pass."""
    verdict_blocks = {block for detector in detectors for block in detector.blocks}
    steered = tuple(block for step in steps for block in step.blocks)
    passes: Literal[1, 2] = 2 if steered and verdict_blocks and max(verdict_blocks) > min(steered) else 1
    reads = frozenset(verdict_blocks | {block for step in steps for block in step.read_blocks})
    return steering_cost(
        passes=passes, read_blocks=reads, steered_blocks=steered, hidden_size=facts.hidden_size, dtype=facts.dtype
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
    per_prompt_token = plan.cost.extra_forward_tokens(1, opened=True)
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
