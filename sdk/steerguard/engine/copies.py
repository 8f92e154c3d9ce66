"""The copies of one prompt: rows for its beams, or for further answers to it, side by side in the batch.

Copies of a prompt can differ by rounding, so what is asked of one is asked of all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerguard.decision import ACTION_ORDER
from steerguard.policy.rules import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from steerguard.decision import Cause

_CAUSES: tuple[Cause, ...] = (
    "default",
    "rule",
    "budget",
    "answer_reading",
    "non_finite",
    "unrecognised_prompt",
    "revoked",
)
"""From the least to the most telling."""


def any_copy(rows: Tensor, copies: int) -> Tensor:
    """Return where some copy of the row's prompt is True.

    Args:
        rows: bool `[prompts * copies]`.
        copies: rows per prompt.
    """
    if copies == 1:
        return rows
    return rows.view(-1, copies).any(dim=1, keepdim=True).expand(-1, copies).reshape(-1)


def every_copy(rows: Tensor, copies: int) -> Tensor:
    """Return where all copies of the row's prompt are True; arguments as in `any_copy`."""
    if copies == 1:
        return rows
    return rows.view(-1, copies).all(dim=1, keepdim=True).expand(-1, copies).reshape(-1)


def strictest(verdicts: Sequence[Verdict], *, rules: Sequence[str], guidance: Sequence[str]) -> Verdict:
    """Return the one verdict of a prompt: all rules that matched a copy hold, and the most restrictive action wins.

    Args:
        verdicts: of its copies, at least one.
        rules: ids of all rules in the order of the document.
        guidance: ids of all guidance entries in the order of the document.
    """
    if all(verdict == verdicts[0] for verdict in verdicts):
        return verdicts[0]
    matched = {rule for verdict in verdicts for rule in verdict.rules}
    action = max((verdict.action for verdict in verdicts), key=ACTION_ORDER.index)
    strict = [verdict for verdict in verdicts if verdict.action == action]
    use = {entry for verdict in strict for entry in verdict.use}
    return Verdict(
        rules=tuple(rule for rule in rules if rule in matched),
        action=action,
        use=tuple(entry for entry in guidance if entry in use),
        cause=max((verdict.cause for verdict in strict), key=_CAUSES.index),
    )
