"""What another policy would have decided: the readings of a log go through its rules, with its thresholds.

What is decided anew is the verdict of the rules at the end of the prompt, by `steerguard.policy.rules.decide`, as the guard
does it. Limits of a budget are not: what a request would have cost is not on the line. A record that lacks what the
policy needs is counted as one that cannot be decided, with the reason; nothing is guessed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from steerguard.audit.reading.announcement import announces
from steerguard.audit.reading.tally import Tally
from steerguard.audit.replaying.recorded_rules import (
    answer_readings,
    detector_readings,
    gate_readings,
    scores_of,
)
from steerguard.audit.replaying.replay_plan import RecordedModel, Target, Targets
from steerguard.errors import SteerguardError
from steerguard.policy.rules import Verdict, decide

if TYPE_CHECKING:
    from steerguard.plan.plan import Plan
    from steerguard.policy.document import Policy
    from steerguard.registry.store import ArtifactStore

_ANSWER_CAUSES: Final = frozenset({"answer_reading", "no_candidate", "critic_failed", "budget", "non_finite"})
_MAX_KINDS: Final = 4096
"""Artifacts of which the type is remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One record that the other policy decides otherwise."""

    log: str
    seq: int
    req: str
    row: int
    before: str
    after: str
    rules_before: tuple[str, ...]
    rules_after: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecided:
    """Why a record cannot be decided under the other policy."""

    reason: str


class Replay:
    """Decides records anew under one policy, in memory that does not grow with their number.

    Args:
        policy: the policy that decides anew.
        store: where its artifacts come from.
        keep: how many changes are kept; all are counted.
    """

    def __init__(self, policy: Policy, store: ArtifactStore, *, keep: int = 20) -> None:
        self.records = 0
        """Decisions that were looked at."""
        self.announced = 0
        """Decisions of streamed answers that were recorded before the answer; the complete record is looked at instead."""
        self.decided = 0
        self.actions = Tally()
        """`before → after` of every decided record, by intended action."""
        self.rules = Tally()
        """By rule, how many records it matches newly (`+ rule`) or no longer (`- rule`)."""
        self.undecided = Tally()
        """By reason."""
        self.changes: list[Change] = []
        self._keep = keep
        self._targets = Targets(policy, store)
        self._kinds: OrderedDict[str, str] = OrderedDict()

    def learn(self, record: Mapping[str, Any]) -> None:
        """Take what a record says of artifacts, whether it is decided anew or not."""
        if record["type"] == "artifact.load":
            self._kinds[record["artifact"]["digest"]] = record["artifact_type"]
            if len(self._kinds) > _MAX_KINDS:
                self._kinds.popitem(last=False)

    def add(self, record: Mapping[str, Any]) -> None:
        """Decide one record anew; those of other types than `guard.decision` are passed over."""
        if record["type"] != "guard.decision":
            return
        if announces(record):
            self.announced += 1
            return
        self.records += 1
        found = redecided(record, self._targets.of(self._model(record)))
        if isinstance(found, Undecided):
            self.undecided.add(found.reason)
            return
        self.decided += 1
        self._count(record, found)

    def _count(self, record: Mapping[str, Any], found: Verdict) -> None:
        before, after = str(record["intended"]), found.action
        self.actions.add(f"{before} → {after}")
        for rule in sorted(set(found.rules) - set(record["rules"])):
            self.rules.add(f"+ {rule}")
        for rule in sorted(set(record["rules"]) - set(found.rules)):
            self.rules.add(f"- {rule}")
        if before != after and len(self.changes) < self._keep:
            place = {name: record[name] for name in ("log", "seq", "req", "row")}
            self.changes.append(
                Change(
                    **place, before=before, after=after, rules_before=tuple(record["rules"]), rules_after=found.rules
                )
            )

    @property
    def changed(self) -> int:
        """How many decided records have another intended action now."""
        return sum(count for name, count in self.actions.counts.items() if _differs(name))

    def document(self) -> dict[str, Any]:
        """Return what was found, as JSON values."""
        return {
            "records": self.records,
            "announced": self.announced,
            "decided": self.decided,
            "changed": self.changed,
            "undecided": self.undecided.total,
            "actions": self.actions.counts,
            "rules": self.rules.counts,
            "reasons": self.undecided.counts,
            "changes": [asdict(one) for one in self.changes],
        }

    def _model(self, record: Mapping[str, Any]) -> RecordedModel:
        return RecordedModel(
            name=record["model"]["name"],
            architecture=record["model"]["architecture"],
            dtype=record["model"]["dtype"],
            artifacts=tuple((pin["digest"], self._kinds.get(pin["digest"])) for pin in record["artifacts"]),
            policy=record["policy"]["digest"],
        )


def redecided(record: Mapping[str, Any], target: Target) -> Verdict | Undecided:
    """Return the verdict of a plan on the readings of one record, or why there is none."""
    plan, cause = target.plan, record["cause"]
    if plan is None:
        return Undecided(reason=target.reason)
    if record["err"] is not None:
        return Undecided(reason="a part of the guard failed, and the failure rule decided")
    if cause == "unrecognised_prompt":
        action = plan.unrecognised_prompt.on(record["t"][:10])
        return Verdict(rules=(), action=action, use=(), cause="unrecognised_prompt")
    if cause == "revoked":
        return Undecided(reason="an artifact was revoked, and nothing was read")
    if cause == "budget" and not record["rules"] and record.get("search") is None:
        return Undecided(reason="it was refused for its budget before any rule was asked")
    return _by_rules(record, target, plan)


def _by_rules(record: Mapping[str, Any], target: Target, plan: Plan) -> Verdict | Undecided:
    readings = {reading["source"]: reading for reading in detector_readings(record)}
    wanted = [detector.id for detector in plan.detectors]
    for name in wanted:
        doubt = (target.unsure or {}).get(name)
        if name not in readings or doubt:
            return Undecided(reason=doubt or f"the record has no reading of detector `{name}`")
    if any(readings[name]["score"] is None for name in wanted):
        return Verdict(rules=(), action="refuse", use=(), cause="non_finite")
    scores = scores_of(readings[name] for name in wanted)
    order = tuple(step.id for step in plan.steps)
    try:
        verdict = decide(
            plan.rules, plan.default_action, plan.default_use, scores, guidance=order, tolerances=plan.tolerances
        )
    except SteerguardError as error:
        return Undecided(reason=f"the rules cannot be asked ({error.code}: {error.summary})")
    return _with_answer(record, target, plan, verdict)


def _with_answer(record: Mapping[str, Any], target: Target, plan: Plan, verdict: Verdict) -> Verdict | Undecided:
    """Return the verdict after the answer: a guided row may still be refused for what was read while it was written."""
    if verdict.action != "guide":
        return verdict
    if target.same_policy:
        # The answer is the one of this policy, so what followed from it stands.
        stands = record["cause"] in _ANSWER_CAUSES
        return Verdict(rules=verdict.rules, action="refuse", use=(), cause=record["cause"]) if stands else verdict
    reads = [step.id for step in plan.steps if step.id in verdict.use and (step.threshold or step.search)]
    if reads:
        return Undecided(reason=f"guidance entry `{reads[0]}` reads the answer, and the answer is not on record")
    unread = [reading for reading in [*gate_readings(record), *answer_readings(record)] if reading["score"] is None]
    if unread or record["cause"] == "non_finite":
        return Undecided(reason="a gate or the answer was not finite, and the policy guides the row")
    return verdict


def _differs(name: str) -> bool:
    before, _, after = name.partition(" → ")
    return before != after
