"""Rules on the device: the same verdict as `policy.rules.decide`, as tensors.

A rule matches where its condition may hold for some score within the tolerance, as on the host. So a gate can open inside the prefill without waiting for the host.
The host repeats the verdict afterwards, and the two must agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from operator import and_, or_
from typing import TYPE_CHECKING

import torch

from steerguard.decision import ACTION_ORDER
from steerguard.engine.copies import any_copy
from steerguard.policy.rules import EXACT, PlannedAll, PlannedAny, PlannedComparison, PlannedNot, interval_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from steerguard.decision import Action
    from steerguard.policy.rules import PlannedCondition, PlannedRule

_RANK: dict[Action, int] = {action: rank for rank, action in enumerate(ACTION_ORDER)}
_GUIDE = _RANK["guide"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRules:
    """The rules of a plan, ready to be evaluated on score tensors."""

    rules: tuple[PlannedRule, ...]
    default_action: Action
    default_use: tuple[str, ...]
    steps: tuple[str, ...]
    tolerances: Mapping[str, float] = field(default_factory=lambda: EXACT)
    """How far each score may be off, by detector; one that is not there is exact."""

    def open_rows(self, scores: Mapping[str, Tensor], *, eligible: Tensor, copies: int = 1) -> dict[str, Tensor]:
        """Return, per guidance step, the rows whose verdict selects it.

        Args:
            scores: float32 `[rows]` by detector id.
            eligible: bool `[rows]`; rows outside never open.
            copies: rows per prompt; a rule that matches one copy matches all of them.
        """
        matched = {rule.id: any_copy(self._matches(rule, scores, eligible), copies) for rule in self.rules}
        rank = torch.full(eligible.shape, _RANK[self.default_action], dtype=torch.int64, device=eligible.device)
        for rule in self.rules:
            rank = torch.where(matched[rule.id], rank.clamp(min=_RANK[rule.action]), rank)
        guided = (rank == _GUIDE) & eligible
        return {step: guided & self._selects(step, matched, eligible) for step in self.steps}

    def _selects(self, step: str, matched: Mapping[str, Tensor], eligible: Tensor) -> Tensor:
        by_default = self.default_action == "guide" and step in self.default_use
        chosen = torch.full_like(eligible, by_default)
        for rule in self.rules:
            if rule.action == "guide" and step in rule.use:
                chosen = chosen | matched[rule.id]
        return chosen

    def _matches(self, rule: PlannedRule, scores: Mapping[str, Tensor], eligible: Tensor) -> Tensor:
        if rule.when is None:
            return torch.ones_like(eligible)
        return _holds(rule.when, scores, self.tolerances, eligible, may=True)


def _holds(
    condition: PlannedCondition,
    scores: Mapping[str, Tensor],
    tolerances: Mapping[str, float],
    eligible: Tensor,
    *,
    may: bool,
) -> Tensor:
    """Return the rows for which a condition may hold, or must; bool `[rows]`, void for a row that is not eligible.

    Every part is evaluated for every row: nothing is cut short, so nothing waits for the device.
    """
    match condition:
        case PlannedComparison(detector=detector):
            score = scores[detector].to(eligible.device)
            low, high = interval_of(condition, tolerances.get(detector, 0.0), may=may)
            match = torch.ones_like(eligible)
            if low is not None:
                match = match & (score >= low)
            if high is not None:
                match = match & (score < high)
            return match
        case PlannedAny(any_of=parts):
            found = (_holds(part, scores, tolerances, eligible, may=may) for part in parts)
            return reduce(or_, found, torch.zeros_like(eligible))
        case PlannedAll(all_of=parts):
            found = (_holds(part, scores, tolerances, eligible, may=may) for part in parts)
            return reduce(and_, found, torch.ones_like(eligible))
        case PlannedNot(negated=part):
            return ~_holds(part, scores, tolerances, eligible, may=not may)
