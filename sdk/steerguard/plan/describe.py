"""A plan in plain words: what will happen on this model, one sentence a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steerguard.plan.plan import Plan, PlannedDetector, PlannedStep
    from steerguard.policy.rules import PlannedBound, PlannedRule


def describe(plan: Plan) -> tuple[str, ...]:
    """Return what the plan does, in the order in which things happen."""
    return (
        f"Policy {plan.policy_name} {plan.policy_version} in mode {plan.mode} ({plan.policy_digest}).",
        _model(plan),
        *(f"Artifact {pin.reference}, pinned to {pin.digest}." for pin in plan.artifacts),
        *(f"Detector {detector.id} reads {_reads(detector)}." for detector in plan.detectors),
        *(f"Rates of {name} come from {source.words}." for name, source in plan.calibrations.items()),
        *(_rule(rule) for rule in plan.rules),
        f"Otherwise: {plan.default_action}.",
        *(_step(step) for step in plan.steps),
        *_cost(plan),
        f"A prompt without an open assistant header: {plan.unrecognised_prompt.action}.",
        f"Plan digest: {plan.digest}",
    )


def _model(plan: Plan) -> str:
    facts = plan.model
    return (
        f"Model {facts.name or 'without a name'}: {facts.architecture}, {facts.num_blocks} blocks of width "
        f"{facts.hidden_size}, {facts.dtype}, takes {', '.join(facts.modalities)}."
    )


def _reads(detector: PlannedDetector) -> str:
    parts = tuple(zip(detector.blocks, detector.over, strict=True))
    ends = tuple(block for block, over in parts if over == "end")
    means = tuple(block for block, over in parts if over == "prompt_mean")
    found = [f"blocks {_blocks(ends)} at the end of the generation prompt"] if ends else []
    found += [f"the prompt mean of blocks {_blocks(means)}"] if means else []
    return " and ".join(found)


def _rule(rule: PlannedRule) -> str:
    outcome = f"{rule.action} with {', '.join(rule.use)}" if rule.use else rule.action
    if rule.detector is None:
        return f"Rule {rule.id}: always {outcome}."
    bounds = [
        f"{words} {_bound(bound)}" for words, bound in (("at least", rule.at_least), ("below", rule.below)) if bound
    ]
    return f"Rule {rule.id}: when {rule.detector} reads {' and '.join(bounds)}, {outcome}."


def _bound(bound: PlannedBound) -> str:
    calibrated = f" (false-positive rate {bound.fpr} on the calibration prompts)" if bound.fpr else ""
    return f"{bound.value:.4f}{calibrated}"


def _step(step: PlannedStep) -> str:
    gates = " where the block's own gate opens too" if step.read_blocks else ""
    return (
        f"Step {step.id}: {step.method} changes blocks {_blocks(step.blocks)} {_when(step)}, "
        f"coefficient {step.coefficient} times calibrated strength {step.strength}{gates}."
    )


def _when(step: PlannedStep) -> str:
    if step.schedule == "constant":
        return f"at positions {step.positions}"
    if step.schedule == "by_phase":
        return "by phase (one vector for the prompt, one for its last token, one for generated tokens)"
    return (
        f"by step (one vector for the prompt, one for its last token, one for each of the first {step.schedule_steps} "
        "generated tokens, none afterwards)"
    )


def _cost(plan: Plan) -> Iterator[str]:
    cost = plan.cost
    if cost.passes == 1:
        yield "One pass: the verdict falls inside the prompt's own forward pass; no extra forward token."
    else:
        yield (
            "Two passes: the verdict needs a block above the first steered one, so a prompt whose gate opens is read "
            "twice. This version cannot execute such a plan; steer from the detector's last block on."
        )
    yield (
        f"Hooked blocks: {cost.hooked_blocks_prefill} while the prompt is read; then {cost.hooked_blocks_open} while "
        f"any gate of the batch is open{_ending(plan)}, none otherwise."
    )
    yield "Limits on candidates and added latency bind search methods; this plan only steers."
    yield f"Added memory: {cost.resident_bytes} bytes, and {cost.bytes_per_row} bytes per row of a running request."


def _ending(plan: Plan) -> str:
    """Say when hooks go although gates stay open."""
    by_step = [step.schedule_steps or 0 for step in plan.steps if step.schedule == "by_step"]
    return f" (blocks that only follow steps: for {max(by_step)} generated tokens at most)" if by_step else ""


def _blocks(blocks: tuple[int, ...]) -> str:
    """Write `10, 11, 12, 20` as `10-12, 20`."""
    runs: list[list[int]] = []
    for block in sorted(blocks):
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
