"""What every gate read for one conversation, and what would flip it. Data and plain words, no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerguard.policy.rules import near

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steerguard.decision import Cause, Decision, Reading, Threshold


UNJUDGED: frozenset[Cause] = frozenset({"unrecognised_prompt", "non_finite", "budget", "revoked"})
"""Causes for which no rule is evaluated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A decision with its margins in words."""

    decision: Decision
    lines: tuple[str, ...]
    """One sentence per verdict, reading and bound."""

    def __str__(self) -> str:
        """Return the lines as one text."""
        return "\n".join(self.lines)


def explain(decision: Decision, calibrations: Mapping[str, str] | None = None) -> Explanation:
    """Say in words how a decision came about and what would have changed it.

    Args:
        decision: what happened to one row.
        calibrations: by detector id, where thresholds that are rates come from, in words.
    """
    lines = [f"The verdict is `{decision.intended}` because of {_cause(decision)}; applied: `{decision.applied}`."]
    if decision.cause == "unrecognised_prompt":
        lines.append("No open assistant header of the chat template was found, so no detector was read.")
    if decision.cause == "revoked":
        lines.append("Nothing was read: what a revoked artifact reads decides nothing.")
    for reading in decision.readings:
        lines.extend(_reading_lines(reading, (calibrations or {}).get(reading.source)))
    if decision.near and decision.cause not in UNJUDGED:
        lines.append(
            "A score within its tolerance of a bound may lie on either side, so the row took the stricter verdict."
        )
    lines.extend(_composed_lines(decision))
    return Explanation(decision=decision, lines=tuple(lines))


def _cause(decision: Decision) -> str:
    if decision.cause == "rule":
        return f"rule {', '.join(f'`{rule}`' for rule in decision.rules)}"
    return {
        "default": "the policy's default",
        "unrecognised_prompt": "a prompt without a recognisable generation prompt",
        "non_finite": "a state of the model that is not finite",
        "budget": "the budget of the policy",
        "answer_reading": "what was read while the answer was written",
        "no_candidate": "a search that found no answer within the cost budget",
        "critic_failed": "a cost model or critic that failed",
        "revoked": "an artifact that was revoked, or a list of revocations that is too old",
    }[decision.cause]


def _reading_lines(reading: Reading, calibration: str | None) -> list[str]:
    if reading.score is None:
        return [f"`{reading.source}` read a number that is not finite."]
    when = "" if reading.token is None else f" after {reading.token} generated tokens"
    within = f", give or take {reading.tolerance:.3g}" if reading.tolerance else ""
    lines = [f"`{reading.source}` read {reading.score:.4f}{within}{when}."]
    lines.extend(_bound_line(reading.score, threshold, reading.tolerance) for threshold in reading.thresholds)
    if calibration is not None:
        lines.append(f"  Rates of `{reading.source}` come from {calibration}.")
    return lines


def _bound_line(score: float, threshold: Threshold, tolerance: float) -> str:
    at_least = threshold.bound == "at_least"
    first, end = near(threshold.value, tolerance)
    # What counts as met where it may be is what is asked for, and where it must be what a `not` stands over.
    widened = (threshold.place or "").split(".").count("not") % 2 == 0
    edge = first if at_least == widened else end
    holds = score >= edge if at_least else score < edge
    calibrated = f" (false-positive rate {threshold.fpr})" if threshold.fpr else ""
    relation = "at least" if at_least else "below"
    flip = "below" if holds == at_least else "at or above"
    if threshold.place is None:
        asks, flipped = f"`{threshold.rule}` asks for", "it"
    else:
        asks, flipped = f"`{threshold.rule}` compares at `{threshold.place}` with", "this part"
    found = f"{'holds' if holds else 'does not hold'} by"
    if first <= score < end:
        found = f"counts as {'met' if holds else 'not met'}, being within the score tolerance, at a distance of"
    return (
        f"  {asks} {relation} {threshold.value:.4f}{calibrated}: {found} {abs(score - threshold.value):.4f}; "
        f"a score {flip} {edge:.4f} flips {flipped}."
    )


def _composed_lines(decision: Decision) -> list[str]:
    """Return a line for each rule of several comparisons that was evaluated: whether all of it came out true."""
    if decision.cause in UNJUDGED:
        return []
    composed = [
        threshold.rule
        for reading in decision.readings
        for threshold in reading.thresholds
        if threshold.place is not None
    ]
    return [
        f"The condition of `{rule}` as a whole {'holds' if rule in decision.rules else 'does not hold'}."
        for rule in dict.fromkeys(composed)
    ]
