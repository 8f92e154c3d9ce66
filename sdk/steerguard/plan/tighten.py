"""May a policy replace the one in force for a single request? Only where it is nowhere less restrictive.

A plan tightens another one on the same model when all of this holds:

- It needs no artifact beyond those of the plan in force, which were verified when the model was wrapped.
- It has every detector of the plan in force, with the same artifact and the same reads; it may have more.
- Its guidance entries are entries of the plan in force, unchanged and in the same order; it may have fewer. The cost
  budget of a search whose final check is its cost model may be lower.
- For every combination of scores its action is at least as restrictive, and where both guide, it uses every guidance
  entry that the plan in force uses. An entry that does anything else than adding is used only where that plan uses it.
- A prompt without an assistant header is not allowed where, or for longer than, the plan in force allows it.
- Streamed tokens leave no earlier.
- Its limits on memory, forward tokens, candidates and latency are at most those in force, and what exceeds them is
  refused; or all of these, and the fallback, are the same. With a search under `final_check: none` they are the same:
  it may answer with the best of fewer candidates.
- Everything else, except names, digests and the refusal's text, is equal.

The rules are compared exactly, by one combination of scores for each that they tell apart. Both plans have the same
tolerances, which belong to the detectors that they share.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from steerguard.decision import ACTION_ORDER
from steerguard.errors import LooserPolicyError
from steerguard.plan.verdict_cases import MAX_CASES, VerdictCases, verdict_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from steerguard.plan.plan import Plan, PlannedStep
    from steerguard.policy.limits import Strategy
    from steerguard.policy.rules import Verdict

RELEASES: tuple[Strategy, ...] = ("buffer", "window", "unsafe_passthrough")
"""When streamed tokens leave, from late to early."""

FREE = frozenset({"policy_name", "policy_version", "policy_digest", "refusal_template", "cost"})
"""Fields of a plan that may differ in any way: they name it, word its refusal, or follow from its other fields."""

COMPARED = frozenset({
    "detectors", "steps", "rules", "default_action", "default_use", "unrecognised_prompt",
    "max_extra_memory_bytes", "max_extra_forward_tokens", "max_candidates", "max_added_latency_ms", "on_exceeded",
    "fallback", "streaming",
})  # fmt: skip
"""Fields of a plan that may be stricter; every field that is in neither set must be equal."""

LIMITS = ("max_extra_memory_bytes", "max_extra_forward_tokens", "max_candidates", "max_added_latency_ms")
"""Fields of a plan that limit what a request may add."""


def check_tightens(in_force: Plan, wanted: Plan) -> None:
    """Refuse a plan that is anywhere less restrictive than the plan in force, or that cannot be compared with it.

    Raises:
        LooserPolicyError: names what is looser.
    """
    for where, expected, found in _differences(in_force, wanted):
        raise LooserPolicyError(
            "A policy for one request may only tighten the policy in force, and this one does not, or not provably.",
            expected=expected,
            found=found,
            where=f"policy `{wanted.policy_name}`: {where}",
            next_step="Make it at least as strict everywhere, or wrap another model object with it.",
        )


def _differences(in_force: Plan, wanted: Plan) -> Iterator[tuple[str, object, object]]:
    yield from _parts(in_force, wanted)
    yield from _settings(in_force, wanted)
    yield from _limits(in_force, wanted)
    yield from _verdicts(in_force, wanted)


def _parts(in_force: Plan, wanted: Plan) -> Iterator[tuple[str, object, object]]:
    legal = {pin.digest for pin in in_force.artifacts}
    for pin in wanted.artifacts:
        if pin.digest not in legal:
            yield "artifacts", "artifacts of the policy in force", pin.reference
    read = {detector.id: replace(detector, calibration=None) for detector in wanted.detectors}
    for detector in in_force.detectors:
        if read.get(detector.id) != replace(detector, calibration=None):
            found = "another one of that name" if detector.id in read else "none of that name"
            yield "detectors", f"the detector `{detector.id}` of the policy in force", found
    known = list(in_force.steps)
    for step in wanted.steps:
        place = next((place for place, other in enumerate(known) if _same_or_cheaper(step, other)), None)
        if place is None:
            yield "guidance", "entries of the policy in force, unchanged and in their order", f"`{step.id}`"
        else:
            del known[: place + 1]


def _same_or_cheaper(step: PlannedStep, other: PlannedStep) -> bool:
    """Return whether a step is one of the plan in force, or the same search with a lower cost budget.

    A lower budget is stricter only where no answer beyond it is given at all.
    """
    if step == other:
        return True
    mine, theirs = step.cost_budget, other.cost_budget
    if mine is None or theirs is None or mine.value > theirs.value:
        return False
    if step.search is None or step.search.final_check != "cost_model":
        return False
    same = replace(step, spec=other.spec, cost_budget=theirs) == other
    return same and _without_budget(step) == _without_budget(other)


def _without_budget(step: PlannedStep) -> dict[str, object]:
    """Return the settings of a search, its cost budget left out."""
    return step.spec.model_dump(exclude={"cost_budget", "threshold"})


def _settings(in_force: Plan, wanted: Plan) -> Iterator[tuple[str, object, object]]:
    for field in fields(in_force):
        one, other = getattr(in_force, field.name), getattr(wanted, field.name)
        if field.name not in FREE | COMPARED and one != other:
            yield field.name, "the value of the policy in force", "another value"
    if RELEASES.index(wanted.streaming) > RELEASES.index(in_force.streaming):
        yield "streaming", f"`{in_force.streaming}` or later", f"`{wanted.streaming}`"
    allowed, asked = in_force.unrecognised_prompt, wanted.unrecognised_prompt
    longer = allowed.expires is not None and (asked.expires is None or asked.expires > allowed.expires)
    if asked.action != "refuse" and (asked.action != allowed.action or longer):
        yield "unrecognised_prompt", "`refuse`, or what the policy in force allows", f"`{asked.action}`"


def _limits(in_force: Plan, wanted: Plan) -> Iterator[tuple[str, object, object]]:
    # Lower limits leave such a search fewer candidates, and it answers with the best of them, whatever that costs.
    unchecked = [step.id for step in in_force.steps if step.search is not None and step.search.final_check == "none"]
    for name in LIMITS:
        limit, found = getattr(in_force, name), getattr(wanted, name)
        if limit is not None and (found is None or found > limit):
            yield f"budget: {name}", f"at most {limit}", "no limit" if found is None else found
        elif limit != found and wanted.on_exceeded != "refuse":
            # What is exceeded earlier falls back earlier, to an entry of which nobody can say that it is stricter.
            yield f"budget: {name}", f"{limit}, or `on_exceeded: refuse`", found
        elif limit != found and unchecked:
            expected = f"{'no limit' if limit is None else limit}, because `{unchecked[0]}` has `final_check: none`"
            yield f"budget: {name}", expected, found
    if wanted.on_exceeded != "refuse":
        for name in ("on_exceeded", "fallback"):
            one, other = getattr(in_force, name), getattr(wanted, name)
            if one != other:
                yield f"budget: {name}", f"{one}, or `on_exceeded: refuse`", other


def _verdicts(in_force: Plan, wanted: Plan) -> Iterator[tuple[str, object, object]]:
    if not {detector.id for detector in in_force.detectors} <= {detector.id for detector in wanted.detectors}:
        return
    cases = VerdictCases(in_force, wanted)
    if cases.count > MAX_CASES:
        yield "rules", f"at most {MAX_CASES} combinations of score intervals", cases.count
        return
    # Taking a component out of a state can take refusals away, and a search gives another answer.
    unordered = {step.id for step in wanted.steps if step.operator != "add" or step.search is not None}
    for scores in cases:
        before, after = verdict_of(in_force, scores), verdict_of(wanted, scores)
        if not at_least_as_restrictive(after, before, unordered=unordered):
            at = ", ".join(f"{name} = {score!r}" for name, score in scores.items()) or "any score"
            yield f"rules, at {at}", _words(before), _words(after)


def at_least_as_restrictive(one: Verdict, other: Verdict, *, unordered: Collection[str] = ()) -> bool:
    """Return whether one verdict permits nothing that the other does not.

    Args:
        one: the verdict of the stricter policy.
        other: the verdict of the policy in force.
        unordered: guidance entries of which nobody can say that using them is stricter than not using them.
    """
    if (set(one.use) - set(other.use)) & set(unordered):
        return False
    if one.action == other.action:
        return set(one.use) >= set(other.use)
    return ACTION_ORDER.index(one.action) > ACTION_ORDER.index(other.action)


def _words(verdict: Verdict) -> str:
    return f"{verdict.action} with {', '.join(verdict.use)}" if verdict.use else verdict.action
