"""A plan in plain words: what will happen on this model, one sentence a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerguard.plan.search_cost import chooses, most_search_tokens
from steerguard.policy.rules import PlannedAll, PlannedAny, PlannedComparison, PlannedNot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steerguard.plan.plan import Plan, PlannedDetector, PlannedStep
    from steerguard.policy.rules import PlannedBound, PlannedCondition, PlannedRule

TOLD_TOKENS = 256
"""New tokens for which the cost of a search is told."""


def describe(plan: Plan) -> tuple[str, ...]:
    """Return what the plan does, in the order in which things happen."""
    return (
        f"Policy {plan.policy_name} {plan.policy_version} in mode {plan.mode} ({plan.policy_digest}).",
        _model(plan),
        *(f"Artifact {pin.reference}, pinned to {pin.digest}." for pin in plan.artifacts),
        *(f"Detector {detector.id} reads {_reads(detector)}." for detector in plan.detectors),
        *(_tolerance(detector) for detector in plan.detectors),
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


def _tolerance(detector: PlannedDetector) -> str:
    return (
        f"A score of {detector.id} within {detector.tolerance:.3g} of a bound counts as on either side of it: the row "
        "takes the stricter verdict."
    )


def _rule(rule: PlannedRule) -> str:
    outcome = f"{rule.action} with {', '.join(rule.use)}" if rule.use else rule.action
    if rule.when is None:
        return f"Rule {rule.id}: always {outcome}."
    return f"Rule {rule.id}: when {_condition(rule.when)}, {outcome}."


def _condition(condition: PlannedCondition) -> str:
    match condition:
        case PlannedAny(any_of=parts):
            return " or ".join(_part(part, among=len(parts)) for part in parts)
        case PlannedAll(all_of=parts):
            return " and ".join(_part(part, among=len(parts)) for part in parts)
        case PlannedNot(negated=part):
            return f"it is not true that {_part(part, among=2)}"
        case PlannedComparison(at_least=low, below=high):
            bounds = [f"{words} {_bound(bound)}" for words, bound in (("at least", low), ("below", high)) if bound]
            return f"{condition.detector} reads {' and '.join(bounds)}"


def _part(condition: PlannedCondition, *, among: int) -> str:
    """Return a condition as one of several, in parentheses where `and` and `or` could be read in another order."""
    text = _condition(condition)
    simple = isinstance(condition, PlannedComparison) and (condition.at_least is None or condition.below is None)
    return text if simple or among == 1 else f"({text})"


def _bound(bound: PlannedBound) -> str:
    calibrated = f" (false-positive rate {bound.fpr} on the calibration prompts)" if bound.fpr else ""
    return f"{bound.value:.4f}{calibrated}"


def _step(step: PlannedStep) -> str:
    if step.search is not None and step.cost_budget is not None:
        return f"Step {step.id}: {step.method} {step.spec.summary()}; its cost budget is {step.cost_budget.value:.4f}."
    if not step.blocks:
        return f"Step {step.id}: {step.method} {step.spec.summary()}{_threshold(step)}."
    gates = " where the block's own gate opens too" if step.read_blocks else ""
    spared = " (not where an image, sound or video stands)" if step.modality_tokens == "exclude" else ""
    return (
        f"Step {step.id}: {step.method} {_change(step)} {_blocks(step.blocks)} {_when(step)}{spared}, "
        f"coefficient {step.coefficient} times calibrated strength {step.strength}{gates}."
    )


def _threshold(step: PlannedStep) -> str:
    return "" if step.threshold is None else f", which is {step.threshold.value:.4f}"


def _change(step: PlannedStep) -> str:
    """Say what is done where: `changes blocks` for additions to outputs."""
    if step.operator == "add" and step.points == ("resid_post",):
        return "changes blocks"
    verbs = {"add": "adds to", "ablate": "ablates", "clamp": "clamps", "affine": "maps"}
    names = {"resid_pre": "the input", "resid_post": "the output"}
    return f"{verbs[step.operator]} {' and '.join(names[point] for point in step.points)} of blocks"


def _when(step: PlannedStep) -> str:
    if step.schedule == "constant":
        return _where(step)
    if step.schedule == "by_phase":
        return "by phase (one vector for the prompt, one for its last token, one for generated tokens)"
    return (
        f"by step (one vector for the prompt, one for its last token, one for each of the first {step.schedule_steps} "
        "generated tokens, none afterwards)"
    )


def _where(step: PlannedStep) -> str:
    if step.first_steps is None:
        return f"at positions {step.positions}"
    return f"at the first {step.first_steps} generated tokens"


def _cost(plan: Plan) -> Iterator[str]:
    cost = plan.cost
    if cost.passes == 1:
        yield "One pass: the verdict falls inside the prompt's own forward pass; no extra forward token."
    else:
        yield (
            "Two passes: the verdict needs a block behind the first steered place, so every prompt is read once before "
            "its own forward pass; one extra forward token per prompt token."
        )
    yield (
        f"Hooked blocks: {cost.hooked_blocks_prefill} while the prompt is read; then {cost.hooked_blocks_open} while "
        f"any gate of the batch is open{_ending(plan)}, none otherwise."
    )
    if cost.hooked_blocks_reading:
        yield (
            f"Read at generated tokens: {cost.hooked_blocks_reading} blocks, while the answer of any row is watched or "
            "searched for."
        )
    yield from _searches(plan)
    yield f"Added memory: {cost.resident_bytes} bytes, and {cost.bytes_per_row} bytes per row of a running request."


def _searches(plan: Plan) -> Iterator[str]:
    """Say what each search takes at most, and what limits it."""
    found = {step.id: step.search for step in plan.steps if step.search is not None}
    if not found:
        yield "Limits on candidates and added latency bind search methods; this plan only steers."
        return
    for name, parts in found.items():
        if chooses(parts):
            tokens = most_search_tokens(parts, TOLD_TOKENS)
            yield f"Search {name} takes at most {tokens} forward tokens a row for {TOLD_TOKENS} new ones."
        else:
            yield f"Search {name} draws nothing: it gives the plain answer, or refuses."
    limits = [f"{plan.max_candidates} candidates at once", f"{plan.max_added_latency_ms} ms of added latency"]
    if plan.max_extra_forward_tokens is not None:
        limits.append(f"{plan.max_extra_forward_tokens} extra forward tokens")
    if plan.max_extra_memory_bytes is not None:
        limits.append(f"{plan.max_extra_memory_bytes} bytes")
    then = f"falls back to {', then '.join(plan.fallback)}, and then is refused" if plan.fallback else "is refused"
    yield f"A search may take {', '.join(limits)} a request; a row whose search reaches a limit {then}."


def _ending(plan: Plan) -> str:
    """Say when hooks go although gates stay open."""
    ends = [step.first_steps or step.schedule_steps or 0 for step in plan.steps if _ends(step)]
    return f" (blocks that only follow steps: for {max(ends)} generated tokens at most)" if ends else ""


def _ends(step: PlannedStep) -> bool:
    return step.schedule == "by_step" or step.first_steps is not None


def _blocks(blocks: tuple[int, ...]) -> str:
    """Write `10, 11, 12, 20` as `10-12, 20`."""
    runs: list[list[int]] = []
    for block in sorted(blocks):
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
