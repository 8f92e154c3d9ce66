"""The searches of a plan: their cost budgets, and what this version cannot search with, or within."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerguard.errors import ArtifactFormatError, BudgetInfeasibleError, CalibrationError, UnsupportedPlanError
from steerguard.methods.bounds import CalibratedBound, RawBound
from steerguard.methods.spec import SEARCHES
from steerguard.plan.planned_rules import planned_threshold
from steerguard.plan.search_cost import chooses, draw_tokens
from steerguard.plan.verdict_cases import MAX_CASES, VerdictCases, verdict_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from steerguard.artifacts.manifest import ArtifactManifest
    from steerguard.methods.search_parts import SearchParts
    from steerguard.methods.spec import GuidanceSpec
    from steerguard.plan.plan import Plan, PlannedStep
    from steerguard.plan.resolve import ResolvedArtifact
    from steerguard.policy.document import Policy
    from steerguard.policy.rules import PlannedBound

CALIBRATED_ON = "calibrated_on"
"""Parameter of a cost model that says which cost of each benign answer its calibration holds."""
AT_THE_END = "end"
"""The cost of the whole answer; what is meant where the parameter is left out."""
ON_THE_WAY = "highest"
"""The highest cost that the answer had after any of its tokens."""
TENSOR_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def searches(spec: GuidanceSpec) -> bool:
    """Return whether a guidance entry chooses among candidates."""
    return SEARCHES in spec.features()


def planned_cost_budget(spec: GuidanceSpec, parts: SearchParts, artifact: ResolvedArtifact) -> PlannedBound:
    """Return the cost budget of a search, with a rate resolved from the artifact's own calibration.

    Args:
        spec: the guidance entry.
        parts: its search.
        artifact: its cost model, or critic with a cost model.

    Raises:
        CalibrationError: a rate cannot be resolved, or says nothing about what this search does.
        ArtifactFormatError: the entry states no budget, and neither does the artifact.
    """
    where = f"guidance entry `{spec.id}`"
    bound = spec.cost_bound()
    if bound is None:
        return planned_threshold(RawBound(value=_stated_threshold(artifact.pin.manifest)), artifact, where)
    if isinstance(bound, CalibratedBound):
        _check_rate(parts, artifact.pin.manifest, where)
    return planned_threshold(bound, artifact, where)


def _stated_threshold(manifest: ArtifactManifest) -> float:
    text = manifest.params.get("threshold")
    try:
        value = float(text) if isinstance(text, str) else None
    except ValueError:
        value = None
    if value is None or not -1e6 <= value <= 1e6:
        raise ArtifactFormatError(
            "The entry states no cost budget, and neither does the artifact.",
            expected="a number as a decimal string, from -1e6 to 1e6",
            found=repr(text)[:80],
            where=f"{manifest.reference}: params.threshold",
            next_step="Write `cost_budget` in the policy, or rebuild the artifact with `steerguard build`.",
        )
    return value


def _check_rate(parts: SearchParts, manifest: ArtifactManifest, where: str) -> None:
    """Refuse a rate of a filter that compares every token, where the calibration holds costs of whole answers."""
    calibrated_on = manifest.params.get(CALIBRATED_ON, AT_THE_END)
    if parts.draw == "top" and parts.start == "always" and calibrated_on != ON_THE_WAY:
        raise CalibrationError(
            "The rate is of answers' costs at their end, and this entry compares the cost after every token.",
            expected=f"an artifact with `{CALIBRATED_ON}: {ON_THE_WAY}`",
            found=f"{manifest.reference}, calibrated on `{calibrated_on}`",
            where=where,
            next_step="Write `start: lazy`, or the threshold as {value: x}.",
        )


def held_bytes(manifest: ArtifactManifest) -> int:
    """Return the bytes of an artifact's tensors, without those of its fingerprints."""
    fingerprints = {entry.file for entry in manifest.fingerprints}
    total = 0
    for file in manifest.files:
        if file.path not in fingerprints:
            for tensor in (file.tensors or {}).values():
                size = TENSOR_BYTES[tensor.dtype]
                for axis in tensor.shape:
                    size *= axis
                total += size
    return total


def check_fallback(policy: Policy) -> None:
    """Refuse a fallback to anything that does not search; needs no artifact and no model.

    Raises:
        UnsupportedPlanError: names the entry.
    """
    searching = [spec.id for spec in policy.guidance if searches(spec)]
    for name in policy.budget.fallback:
        if name not in searching:
            raise UnsupportedPlanError(
                f"This version falls back to searches only, and `{name}` is none.",
                expected=f"one of {', '.join(searching)}" if searching else "an entry that searches; there is none",
                found=name,
                where="budget.fallback",
                next_step="Name an entry that searches with fewer candidates, or write `on_exceeded: refuse`.",
            )


def check_searches(plan: Plan) -> None:
    """Refuse what the engine cannot search beside, and searches that no budget of the plan would let begin.

    Raises:
        UnsupportedPlanError: a plan that searches and reads answers, that may open two searches for one row, that
            releases text before an answer is decided, or that falls back to a search that draws nothing or promises less
            than one that the rules may open.
        BudgetInfeasibleError: a search draws more candidates, or more forward tokens for one block, than the budget
            allows.
    """
    found = [step for step in plan.steps if step.search is not None]
    if not found:
        return
    for step in plan.steps:
        if step.search is None and step.answer_blocks:
            raise UnsupportedPlanError(
                f"This version cannot read answers with `{step.id}` and search with `{found[0].id}` in one plan.",
                expected="one of the two",
                found="both",
                where=f"guidance entries `{step.id}` and `{found[0].id}`",
                next_step="Remove one of them; a search reads every answer itself.",
            )
    if plan.streaming != "buffer":
        raise UnsupportedPlanError(
            f"This version cannot stream an answer that `{found[0].id}` searches for before it is decided.",
            expected="`buffer`",
            found=f"`{plan.streaming}`",
            where="streaming.strategy",
            next_step="Write `strategy: buffer`.",
        )
    _check_alone(plan, [step.id for step in found])
    for step in found:
        _check_limits(plan, step)
        if step.id in plan.fallback and step.search is not None and not chooses(step.search):
            raise UnsupportedPlanError(
                f"The fallback `{step.id}` draws nothing, so it has no other answer to fall back to.",
                expected="searches that draw candidates",
                found="a search that gives the plain answer or refuses",
                where="budget.fallback",
                next_step="Remove it; a row whose last fallback reaches a limit is refused.",
            )
    _check_promises(plan, found)


def _check_promises(plan: Plan, found: list[PlannedStep]) -> None:
    """Require that a row whose search checks the finished answer gets no answer through a fallback that checks less."""
    named = {*plan.default_use, *(name for rule in plan.rules for name in rule.use)}
    for opened in found:
        if opened.id in named:
            for fallback in found:
                if fallback.id in plan.fallback and not _promises(fallback, opened):
                    raise UnsupportedPlanError(
                        f"The fallback `{fallback.id}` may give an answer that `{opened.id}` would refuse as too costly.",
                        expected=f"the check of `{opened.id}`: {_promise(opened)}, or a lower budget",
                        found=_promise(fallback),
                        where=f"budget.fallback: `{fallback.id}`, guidance entry `{opened.id}`",
                        next_step="Give the fallback the same critic, `final_check: cost_model` and a budget no higher.",
                    )


def _promises(fallback: PlannedStep, opened: PlannedStep) -> bool:
    """Return whether every answer of a fallback is within the budget of the search that it stands in for."""
    mine, theirs = fallback.search, opened.search
    if theirs is None or theirs.final_check == "none":
        return True
    if mine is None or mine.final_check == "none" or fallback.cost_budget is None or opened.cost_budget is None:
        return False
    same = fallback.artifacts["critic"].digest == opened.artifacts["critic"].digest
    return same and fallback.cost_budget.value <= opened.cost_budget.value


def _promise(step: PlannedStep) -> str:
    if step.search is None or step.search.final_check == "none" or step.cost_budget is None:
        return "`final_check: none`"
    critic = step.artifacts["critic"]
    return f"cost by {critic.reference} ({critic.digest[:19]}) below {step.cost_budget.value!r}"


def _check_alone(plan: Plan, searching: list[str]) -> None:
    """Require that no scores open two searches for one row; a fallback opens its own, one after the other."""
    named = _among([*plan.default_use, *(name for rule in plan.rules for name in rule.use)], searching)
    if len(named) < 2:
        return
    cases = VerdictCases(plan)
    if cases.count > MAX_CASES:
        raise _two(named, f"more than {MAX_CASES} combinations of score intervals, too many to look through")
    for scores in cases:
        opened = _among(verdict_of(plan, scores).use, searching)
        if len(opened) > 1:
            at = ", ".join(f"{name} = {score!r}" for name, score in scores.items()) or "any score"
            raise _two(opened, f"both, at {at}")


def _among(names: Iterable[str], searching: list[str]) -> list[str]:
    found = set(names)
    return [name for name in searching if name in found]


def _two(names: list[str], found: str) -> UnsupportedPlanError:
    return UnsupportedPlanError(
        f"The rules may open the searches {' and '.join(f'`{name}`' for name in names)} for one row.",
        expected="at most one search for any scores",
        found=found,
        where="rules and default",
        next_step="Name one of them in `use`, and the cheaper ones in `budget.fallback`.",
    )


def _check_limits(plan: Plan, step: PlannedStep) -> None:
    parts = step.search
    if parts is None or not chooses(parts):
        return
    if parts.candidates > plan.max_candidates:
        raise BudgetInfeasibleError(
            f"The search `{step.id}` draws more candidates than the budget allows.",
            expected=f"at most {plan.max_candidates} candidates",
            found=f"{parts.candidates} candidates",
            where="budget.max_candidates",
            next_step="Raise the budget, or draw fewer candidates.",
        )
    block = draw_tokens(parts, parts.block_tokens or 1)
    if plan.max_extra_forward_tokens is not None and block > plan.max_extra_forward_tokens:
        what = "one token" if parts.block_tokens is None else f"one block of {parts.block_tokens} tokens"
        raise BudgetInfeasibleError(
            f"The search `{step.id}` needs more forward tokens for {what} than the budget allows for the whole answer.",
            expected=f"at most {plan.max_extra_forward_tokens} extra forward tokens",
            found=f"{block} for {what} of {parts.candidates} candidates",
            where="budget.max_extra_forward_tokens",
            next_step="Raise the budget, or draw fewer candidates or shorter blocks.",
        )
