"""May a policy replace the one in force for a single request? Only where it is nowhere less restrictive.

A plan tightens another one on the same model when all of this holds:

- It needs no artifact beyond those of the plan in force, which were verified when the model was wrapped.
- It has every detector of the plan in force, with the same artifact and the same reads; it may have more.
- Its guidance entries are entries of the plan in force, unchanged and in the same order; it may have fewer.
- For every combination of scores its action is at least as restrictive, and where both guide, it uses every guidance
  entry that the plan in force uses. An entry that does anything else than adding is used only where that plan uses it.
- A prompt without an assistant header is not allowed where, or for longer than, the plan in force allows it.
- Streamed tokens leave no earlier.
- Its limits on memory and forward tokens are at most those in force.
- Everything else, except names, digests and the refusal's text, is equal.

The rules are compared exactly: a plan's verdict changes only where a score comes within its tolerance of a bound, or
leaves it, so one combination of scores stands for all between the same two such places. Both plans have the same
tolerances, which belong to the detectors that they share.
"""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import product
from math import inf, nextafter, prod
from typing import TYPE_CHECKING

from steerguard.decision import ACTION_ORDER
from steerguard.errors import LooserPolicyError
from steerguard.policy.rules import decide

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from steerguard.plan.plan import Plan
    from steerguard.policy.limits import Strategy
    from steerguard.policy.rules import Verdict

MAX_CASES = 4096
"""Combinations of score intervals that are compared; policies with more are refused."""

RELEASES: tuple[Strategy, ...] = ("buffer", "window", "unsafe_passthrough")
"""When streamed tokens leave, from late to early."""

FREE = frozenset({"policy_name", "policy_version", "policy_digest", "refusal_template", "cost"})
"""Fields of a plan that may differ in any way: they name it, word its refusal, or follow from its other fields."""

COMPARED = frozenset({
    "detectors", "steps", "rules", "default_action", "default_use", "unrecognised_prompt",
    "max_extra_memory_bytes", "max_extra_forward_tokens", "streaming",
})  # fmt: skip
"""Fields of a plan that may be stricter; every field that is in neither set must be equal."""


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
        if step not in known:
            yield "guidance", "entries of the policy in force, unchanged and in their order", f"`{step.id}`"
        else:
            del known[: known.index(step) + 1]


def _settings(in_force: Plan, wanted: Plan) -> Iterator[tuple[str, object, object]]:
    for field in fields(in_force):
        one, other = getattr(in_force, field.name), getattr(wanted, field.name)
        if field.name not in FREE | COMPARED and one != other:
            yield field.name, "the value of the policy in force", "another value"
    for name in ("max_extra_memory_bytes", "max_extra_forward_tokens"):
        limit, found = getattr(in_force, name), getattr(wanted, name)
        if limit is not None and (found is None or found > limit):
            yield f"budget: {name}", f"at most {limit}", "no limit" if found is None else found
    if RELEASES.index(wanted.streaming) > RELEASES.index(in_force.streaming):
        yield "streaming", f"`{in_force.streaming}` or later", f"`{wanted.streaming}`"
    allowed, asked = in_force.unrecognised_prompt, wanted.unrecognised_prompt
    longer = allowed.expires is not None and (asked.expires is None or asked.expires > allowed.expires)
    if asked.action != "refuse" and (asked.action != allowed.action or longer):
        yield "unrecognised_prompt", "`refuse`, or what the policy in force allows", f"`{asked.action}`"


def _verdicts(in_force: Plan, wanted: Plan) -> Iterator[tuple[str, object, object]]:
    if not {detector.id for detector in in_force.detectors} <= {detector.id for detector in wanted.detectors}:
        return
    values = _values(in_force, wanted)
    cases = prod(len(found) for found in values.values())
    if cases > MAX_CASES:
        yield "rules", f"at most {MAX_CASES} combinations of score intervals", cases
        return
    # Taking a component out of a state can take refusals away.
    unordered = {step.id for step in wanted.steps if step.operator != "add"}
    for chosen in product(*values.values()):
        scores = dict(zip(values, chosen, strict=True))
        before, after = _verdict(in_force, scores), _verdict(wanted, scores)
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


def _values(in_force: Plan, wanted: Plan) -> dict[str, tuple[float, ...]]:
    """Return per detector one score in each interval on which every comparison with it is constant."""
    turns: dict[str, set[float]] = {detector.id: set() for detector in wanted.detectors}
    for plan in (in_force, wanted):
        for rule in plan.rules:
            for detector, score in rule.turns(plan.tolerances):
                turns[detector].add(score)
    ordered = {name: sorted(found) for name, found in turns.items()}
    return {name: (nextafter(cuts[0], -inf), *cuts) if cuts else (0.0,) for name, cuts in ordered.items()}


def _verdict(plan: Plan, scores: Mapping[str, float]) -> Verdict:
    return decide(plan.rules, plan.default_action, plan.default_use, scores, tolerances=plan.tolerances)


def _words(verdict: Verdict) -> str:
    return f"{verdict.action} with {', '.join(verdict.use)}" if verdict.use else verdict.action
