"""`Totals`: what the records of any number of logs come to, in constant memory.

    totals = Totals(by="policy")
    verify_path(path, on_record=totals.add)
    totals.applied["refuse"], totals.scores["harm"].quantiles.at(0.95), totals.document()

Counts are exact. Quantiles are off by at most one per cent (`quantiles.RELATIVE_ERROR`); their least and greatest
number are exact. At most a thousand names of a kind are told apart (`tally.MAX_NAMES`), and as many groups; what is
beyond is counted under `(others)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from steerguard.artifacts.wilson import wilson_interval
from steerguard.audit.reading.announcement import announces
from steerguard.audit.reading.quantiles import RELATIVE_ERROR, Quantiles
from steerguard.audit.reading.selection import fits
from steerguard.audit.reading.tally import MAX_NAMES, OTHERS, Tally

Grouping = Literal["day", "policy", "model", "tenant", "rule"]
NO_TENANT: Final = "(none)"
MAX_SOURCES: Final = 200
"""Detectors and gates whose scores are told apart."""

Record = Mapping[str, Any]


@dataclass(slots=True)
class ScoreTotals:
    """What one detector or gate read."""

    quantiles: Quantiles = field(default_factory=Quantiles)
    not_finite: int = 0
    near: int = 0
    """Scores within their tolerance of a threshold."""
    thresholds: Tally = field(default_factory=Tally)
    """How often a score was compared with each: `<rule> ≥ <value>` or `<rule> < <value>`."""

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            **summary(self.quantiles),
            "not_finite": self.not_finite,
            "near": self.near,
            "thresholds": self.thresholds.counts,
        }


@dataclass(slots=True)
class Totals:
    """Counts over records. `add` takes them in any order; everything else is for reading.

    Args:
        by: also keep the same totals per day (UTC), policy (`<name> <version>`), name of the model, tenant or matched
            rule, in `groups`. A record without such a field is in no group, one with two rules in both.
    """

    by: Grouping | None = None
    groups: dict[str, Totals] = field(default_factory=dict, init=False)
    records: int = field(default=0, init=False)
    """Records that fit the schema of their type."""
    misfits: int = field(default=0, init=False)
    """Records that do not; they are counted here and nowhere else."""
    first_t: str | None = field(default=None, init=False)
    """Time of the earliest record; None without records."""
    last_t: str | None = field(default=None, init=False)
    types: Tally = field(default_factory=Tally, init=False)
    decisions: int = field(default=0, init=False)
    """Rows of requests: records of type guard.decision, except those in `announced`."""
    announced: int = field(default=0, init=False)
    """Decisions that were recorded before a streamed answer; only the complete record of the row counts as a decision."""
    intended: Tally = field(default_factory=Tally, init=False)
    applied: Tally = field(default_factory=Tally, init=False)
    outcomes: Tally = field(default_factory=Tally, init=False)
    """`<intended> → <applied>`."""
    causes: Tally = field(default_factory=Tally, init=False)
    rules: Tally = field(default_factory=Tally, init=False)
    """How often each rule matched."""
    modes: Tally = field(default_factory=Tally, init=False)
    policies: Tally = field(default_factory=Tally, init=False)
    """Decisions per `<name> <version>`."""
    models: Tally = field(default_factory=Tally, init=False)
    scores: dict[str, ScoreTotals] = field(default_factory=dict, init=False)
    """By source: a detector id, `<step id>/block <n>` of a gate, a step id."""
    prompt_tokens: int = field(default=0, init=False)
    generated_tokens: int = field(default=0, init=False)
    extra_forward_tokens: Quantiles = field(default_factory=Quantiles, init=False)
    """Per decision: what the guard added; `total` is their sum."""
    budgets: Tally = field(default_factory=Tally, init=False)
    """Decisions by `within`, `fallback`, `exceeded`; those without a budget are not in it."""
    exceeded: Tally = field(default_factory=Tally, init=False)
    """budget.exceeded by limit."""
    row_errors: Tally = field(default_factory=Tally, init=False)
    """Decisions with an error, by class name."""
    calls: Tally = field(default_factory=Tally, init=False)
    """guard.request by `generate`, `check`, `forward`."""
    duration_us: Quantiles = field(default_factory=Quantiles, init=False)
    """Per request, from the start of the call to its record."""
    guard_us: Quantiles = field(default_factory=Quantiles, init=False)
    """Per request, the part of it outside the model's own generation loop."""
    bypasses: Tally = field(default_factory=Tally, init=False)
    """guard.bypass by kind."""
    errors: Tally = field(default_factory=Tally, init=False)
    """guard.error by class name."""
    error_stages: Tally = field(default_factory=Tally, init=False)
    rejections: Tally = field(default_factory=Tally, init=False)
    """policy.reject and artifact.verify_failed by class name."""
    revocations: Tally = field(default_factory=Tally, init=False)
    """artifact.revoked by state."""
    torn_bytes: int = field(default=0, init=False)
    """What recovery set aside."""

    def add(self, record: Record) -> None:
        """Count one record, whatever it holds."""
        if not fits(record):
            self.misfits += 1
            return
        self._count(record)
        if self.by is not None:
            for key in _KEYS[self.by](record):
                self._group(key)._count(record)  # noqa: SLF001 - the same class

    def share(self, action: str) -> dict[str, float | int]:
        """Return the share of decisions whose applied action this was, with its 95 % Wilson interval."""
        count = self.applied[action]
        low, high = wilson_interval(count, self.decisions)
        return {
            "count": count,
            "of": self.decisions,
            "share": count / self.decisions if self.decisions else 0.0,
            "low": low,
            "high": high,
        }

    def document(self) -> dict[str, Any]:
        """Return everything as JSON values; durations are in microseconds."""
        own: dict[str, Any] = {
            "records": self.records,
            "misfits": self.misfits,
            "first_t": self.first_t,
            "last_t": self.last_t,
            "types": self.types.counts,
            "decisions": self.decisions,
            "announced": self.announced,
            "refused": self.share("refuse"),
            "guided": self.share("guide"),
            "intended": self.intended.counts,
            "applied": self.applied.counts,
            "outcomes": self.outcomes.counts,
            "causes": self.causes.counts,
            "rules": self.rules.counts,
            "modes": self.modes.counts,
            "policies": self.policies.counts,
            "models": self.models.counts,
            "scores": {source: self.scores[source].document() for source in sorted(self.scores)},
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.generated_tokens,
            "extra_forward_tokens": summary(self.extra_forward_tokens),
            "budgets": self.budgets.counts,
            "budget_exceeded": self.exceeded.counts,
            "row_errors": self.row_errors.counts,
            "calls": self.calls.counts,
            "duration_us": summary(self.duration_us),
            "guard_us": summary(self.guard_us),
            "bypasses": self.bypasses.counts,
            "errors": self.errors.counts,
            "error_stages": self.error_stages.counts,
            "rejections": self.rejections.counts,
            "revocations": self.revocations.counts,
            "checkpoints": self.types["checkpoint"],
            "torn_bytes": self.torn_bytes,
            "quantile_error": RELATIVE_ERROR,
        }
        if self.by is not None:
            own |= {"by": self.by, "groups": {key: self.groups[key].document() for key in sorted(self.groups)}}
        return own

    def _group(self, key: str) -> Totals:
        if key not in self.groups and len(self.groups) >= MAX_NAMES:
            key = OTHERS
        return self.groups.setdefault(key, Totals())

    def _count(self, record: Record) -> None:
        self.records += 1
        t: str = record["t"]
        self.first_t = t if self.first_t is None else min(self.first_t, t)
        self.last_t = t if self.last_t is None else max(self.last_t, t)
        kind: str = record["type"]
        self.types.add(kind)
        count = _COUNTS.get(kind)
        if count is not None:
            count(self, record)

    def _score(self, source: str) -> ScoreTotals:
        if source not in self.scores and len(self.scores) >= MAX_SOURCES:
            source = OTHERS
        return self.scores.setdefault(source, ScoreTotals())


def summary(numbers: Quantiles) -> dict[str, float | int | None]:
    """Return count, sum, least, median, p95, p99 and greatest; all but the first two are null when there are none."""
    return {
        "count": numbers.count,
        "total": numbers.total,
        "least": numbers.least if numbers.count else None,
        "median": numbers.at(0.5),
        "p95": numbers.at(0.95),
        "p99": numbers.at(0.99),
        "greatest": numbers.greatest if numbers.count else None,
    }


def _decision(totals: Totals, record: Record) -> None:
    if announces(record):
        totals.announced += 1
        return
    totals.decisions += 1
    totals.intended.add(record["intended"])
    totals.applied.add(record["applied"])
    totals.outcomes.add(f"{record['intended']} → {record['applied']}")
    totals.causes.add(record["cause"])
    for rule in record["rules"]:
        totals.rules.add(rule)
    totals.modes.add(record["mode"])
    totals.policies.add(_policy(record["policy"]))
    totals.models.add(_model(record["model"]))
    for reading in record["readings"]:
        _reading(totals._score(reading["source"]), reading)  # noqa: SLF001 - same module
    usage = record["usage"]
    totals.prompt_tokens += usage["prompt_tokens"]
    totals.generated_tokens += usage["generated_tokens"]
    totals.extra_forward_tokens.add(usage["extra_forward_tokens"])
    if record["budget"] is not None:
        totals.budgets.add(record["budget"]["outcome"])
    if record["err"] is not None:
        totals.row_errors.add(record["err"]["code"])


def _reading(into: ScoreTotals, reading: Record) -> None:
    # A number of the schema may still be too large for a float.
    score = math.nan if reading["score"] is None else float(reading["score"])
    if math.isfinite(score):
        into.quantiles.add(score)
    else:
        into.not_finite += 1
    # Records from before the score tolerance do not say.
    into.near += bool(reading.get("near"))
    for bound in reading["thresholds"]:
        into.thresholds.add(f"{bound['rule']} {'≥' if bound['bound'] == 'at_least' else '<'} {bound['value']}")


def _request(totals: Totals, record: Record) -> None:
    totals.calls.add(record["call"])
    totals.duration_us.add(record["duration_us"])
    totals.guard_us.add(record["guard_us"])


def _error(totals: Totals, record: Record) -> None:
    totals.errors.add(record["code"])
    totals.error_stages.add(record["stage"])


def _recovered(totals: Totals, record: Record) -> None:
    totals.torn_bytes += record["torn_bytes"]


_COUNTS: Final[dict[str, Callable[[Totals, Record], None]]] = {
    "guard.decision": _decision,
    "guard.request": _request,
    "guard.error": _error,
    "guard.bypass": lambda totals, record: totals.bypasses.add(record["kind"]),
    "budget.exceeded": lambda totals, record: totals.exceeded.add(record["limit"]),
    "policy.reject": lambda totals, record: totals.rejections.add(record["code"]),
    "artifact.verify_failed": lambda totals, record: totals.rejections.add(record["code"]),
    "artifact.revoked": lambda totals, record: totals.revocations.add(record["state"]),
    "log.recovered": _recovered,
}


def _policy(policy: Record) -> str:
    return f"{policy['name']} {policy['version']}"


def _model(model: Record) -> str:
    """Return the name, which may be empty; then the architecture."""
    return str(model["name"] or model["architecture"])


_KEYS: Final[dict[Grouping, Callable[[Record], list[str]]]] = {
    "day": lambda record: [record["t"][:10]],
    "policy": lambda record: [_policy(record["policy"])] if record.get("policy") else [],
    "model": lambda record: [_model(record["model"])] if record.get("model") else [],
    "tenant": lambda record: [record.get("tenant") or NO_TENANT],
    "rule": lambda record: sorted(set(record.get("rules") or ())),
}
