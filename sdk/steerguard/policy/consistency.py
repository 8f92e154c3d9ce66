"""What must hold between the parts of a policy. Pure; each finding names the field to change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerguard.decision import ACTION_ORDER
from steerguard.methods.bounds import CalibratedBound, RawBound
from steerguard.policy.conditions import can_be_true, too_deep
from steerguard.policy.problems import nearest
from steerguard.policy.rule_documents import MAX_COMPARISONS, MAX_LEVELS, comparisons

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from steerguard.policy.document import Policy
    from steerguard.policy.problems import Path
    from steerguard.policy.rule_documents import Condition, Outcome, ScoreRange


@dataclass(frozen=True, slots=True)
class Inconsistency:
    """Two parts of a policy that contradict each other."""

    path: Path
    """Path of the field to change."""
    message: str
    expected: str | None = None
    found: str | None = None
    hint: str | None = None


def inconsistencies(policy: Policy) -> tuple[Inconsistency, ...]:
    """Return everything that contradicts itself in a policy whose parts are each valid."""
    return (
        *_repeated_ids(policy),
        *_outcomes(policy),
        *_conditions(policy),
        *_calibrations(policy),
        *_fallback(policy),
        *_unused_guidance(policy),
        *_opened(policy),
        *_streaming(policy),
        *_modalities(policy),
    )


def _repeated_ids(policy: Policy) -> Iterator[Inconsistency]:
    lists: tuple[tuple[str, Sequence[str]], ...] = (
        ("detectors", [entry.id for entry in policy.detectors]),
        ("guidance", [entry.id for entry in policy.guidance]),
        ("rules", [entry.id for entry in policy.rules]),
    )
    for name, ids in lists:
        for index, entry in enumerate(ids):
            if entry in ids[:index]:
                yield Inconsistency(
                    (name, index, "id"),
                    f"The id `{entry}` stands twice in `{name}`.",
                    hint="Give each entry an id of its own.",
                )


def _outcomes(policy: Policy) -> Iterator[Inconsistency]:
    guidance = [entry.id for entry in policy.guidance]
    yield from _outcome(("default",), policy.default, guidance)
    for index, rule in enumerate(policy.rules):
        yield from _outcome(("rules", index, "then"), rule.then, guidance)
        if ACTION_ORDER.index(rule.then.action) < ACTION_ORDER.index(policy.default.action):
            yield Inconsistency(
                ("rules", index, "then", "action"),
                f"Rule `{rule.id}` can never take effect, because the default is more restrictive.",
                expected=f"`{policy.default.action}` or a more restrictive action",
                found=f"`{rule.then.action}`",
                hint="Rules only tighten the default: loosen `default`, or remove the rule.",
            )


def _outcome(path: Path, outcome: Outcome, guidance: Sequence[str]) -> Iterator[Inconsistency]:
    if outcome.action == "guide" and not outcome.use:
        yield Inconsistency(
            (*path, "action"),
            "The action `guide` needs `use` with at least one guidance entry.",
            expected=_one_of(guidance),
            hint="Add `use: [id]`.",
        )
    if outcome.action != "guide" and outcome.use:
        yield Inconsistency(
            (*path, "use"),
            f"`use` has no effect with the action `{outcome.action}`.",
            expected="`use` only together with `action: guide`",
            hint="Remove `use`, or write `action: guide`.",
        )
    yield from _references((*path, "use"), outcome.use, guidance, "guidance entry")


def _conditions(policy: Policy) -> Iterator[Inconsistency]:
    detectors = [entry.id for entry in policy.detectors]
    for index, rule in enumerate(policy.rules):
        path: Path = ("rules", index, "when")
        found = [*_size(path, rule.when), *_comparisons(path, rule.when, detectors)]
        yield from found
        if not found and not can_be_true(rule.when):
            yield Inconsistency(
                path,
                f"No scores at all make the condition of rule `{rule.id}` true.",
                expected="parts of which some combination can hold at once",
                hint="Look for bounds of one detector that exclude each other, and for a `not` around what always holds.",
            )


def _size(path: Path, condition: Condition) -> Iterator[Inconsistency]:
    deep = too_deep(condition, MAX_LEVELS)
    if deep is not None:
        yield Inconsistency(
            (*path, *deep),
            "`any`, `all` and `not` stand inside one another too deep.",
            expected=f"at most {MAX_LEVELS} levels",
            hint="Split the rule: rules with one outcome act as `any` of their conditions.",
        )
    count = sum(1 for _ in comparisons(condition))
    if count > MAX_COMPARISONS:
        yield Inconsistency(
            path,
            "The condition has too many comparisons.",
            expected=f"at most {MAX_COMPARISONS}",
            found=str(count),
            hint="Split the rule: rules with one outcome act as `any` of their conditions.",
        )


def _comparisons(path: Path, condition: Condition, detectors: Sequence[str]) -> Iterator[Inconsistency]:
    for inner, comparison in comparisons(condition):
        yield from _reference((*path, *inner, "detector"), comparison.detector, detectors, "detector")
        yield from _score((*path, *inner, "score"), comparison.score)


def _score(path: Path, score: ScoreRange) -> Iterator[Inconsistency]:
    low, high = score.at_least, score.below
    if low is None and high is None:
        yield Inconsistency(path, "The interval of scores has no end.", expected="`at_least`, `below`, or both")
    elif isinstance(low, RawBound) and isinstance(high, RawBound) and high.value <= low.value:
        yield Inconsistency(
            (*path, "below"),
            "No score lies in this interval.",
            expected=f"a value above {low.value}",
            found=str(high.value),
        )
    elif isinstance(low, CalibratedBound) and isinstance(high, CalibratedBound) and high.fpr >= low.fpr:
        yield Inconsistency(
            (*path, "below"),
            "No score lies in this interval.",
            expected=f"a false-positive rate under {low.fpr_text} (a smaller rate is a higher score)",
            found=high.fpr_text,
        )


def _calibrations(policy: Policy) -> Iterator[Inconsistency]:
    by_rate = {
        comparison.detector
        for rule in policy.rules
        for _, comparison in comparisons(rule.when)
        for bound in (comparison.score.at_least, comparison.score.below)
        if isinstance(bound, CalibratedBound)
    }
    for index, detector in enumerate(policy.detectors):
        if detector.calibration is not None and detector.id not in by_rate:
            yield Inconsistency(
                ("detectors", index, "calibration"),
                f"No rule compares `{detector.id}` with a rate, so its calibration has no effect.",
                expected="a bound `{fpr: rate}` on this detector",
                hint="Write a bound as `{fpr: rate}`, or remove `calibration`.",
            )


def _fallback(policy: Policy) -> Iterator[Inconsistency]:
    budget = policy.budget
    if budget.on_exceeded == "fallback" and not budget.fallback:
        yield Inconsistency(
            ("budget", "on_exceeded"),
            "`on_exceeded: fallback` needs a `fallback` list.",
            hint="Name cheaper guidance entries in `fallback`, or write `on_exceeded: refuse`.",
        )
    if budget.on_exceeded == "refuse" and budget.fallback:
        yield Inconsistency(
            ("budget", "fallback"),
            "`fallback` has no effect with `on_exceeded: refuse`.",
            hint="Write `on_exceeded: fallback`, or empty the list.",
        )
    guidance = [entry.id for entry in policy.guidance]
    yield from _references(("budget", "fallback"), budget.fallback, guidance, "guidance entry")


def _unused_guidance(policy: Policy) -> Iterator[Inconsistency]:
    used = {*policy.default.use, *policy.budget.fallback, *(name for rule in policy.rules for name in rule.then.use)}
    used |= {name for entry in policy.guidance for name in entry.opened_entries()}
    for index, entry in enumerate(policy.guidance):
        if entry.id not in used:
            yield Inconsistency(
                ("guidance", index, "id"),
                f"No rule uses the guidance entry `{entry.id}`, so it would never act.",
                hint="Name it in `use` of a rule, or remove it.",
            )


def _opened(policy: Policy) -> Iterator[Inconsistency]:
    steering = [entry.id for entry in policy.guidance if "operator.add" in entry.features()]
    for index, entry in enumerate(policy.guidance):
        yield from _references(
            ("guidance", index, "opens"), entry.opened_entries(), steering, "entry that can be opened"
        )


def _streaming(policy: Policy) -> Iterator[Inconsistency]:
    if policy.streaming.strategy == "buffer":
        return
    for entry in policy.guidance:
        if entry.needs_buffered_stream():
            yield Inconsistency(
                ("streaming", "strategy"),
                f"The guidance entry `{entry.id}` may replace a finished answer.",
                expected="`buffer`",
                found=f"`{policy.streaming.strategy}`",
                hint="Write `strategy: buffer`.",
            )


def _modalities(policy: Policy) -> Iterator[Inconsistency]:
    modalities = policy.target.modalities
    if "text" not in modalities or len(set(modalities)) < len(modalities):
        yield Inconsistency(
            ("target", "modalities"),
            "`modalities` must contain `text`, and each entry once.",
            found=", ".join(modalities),
        )


def _references(path: Path, names: Sequence[str], legal: Sequence[str], noun: str) -> Iterator[Inconsistency]:
    for index, name in enumerate(names):
        yield from _reference((*path, index), name, legal, noun)
        if name in names[:index]:
            yield Inconsistency((*path, index), f"`{name}` stands twice in this list.", hint="Remove one of the two.")


def _reference(path: Path, name: str, legal: Sequence[str], noun: str) -> Iterator[Inconsistency]:
    if name not in legal:
        near = nearest(name, legal)
        yield Inconsistency(
            path,
            f"There is no {noun} `{name}`.",
            expected=_one_of(legal),
            found=f"`{name}`",
            hint=f"Did you mean `{near}`?" if near else None,
        )


def _one_of(names: Sequence[str]) -> str:
    return f"one of {', '.join(f'`{name}`' for name in names)}" if names else "an entry, but the document has none"
