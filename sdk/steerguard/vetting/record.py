"""From what was found to the record that a vetter signs: every figure, its bar, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from steerguard.artifacts.times import time_text
from steerguard.artifacts.vetting import (
    StaticCheck,
    VettingEnvironment,
    VettingRecord,
    VettingResult,
    VettingSuiteId,
)
from steerguard.vetting.figures import MeasuredFigure, title_of
from steerguard.vetting.load_suite import LoadedSuite
from steerguard.vetting.run import Vetted, VettingJob
from steerguard.vetting.suite import SuiteCase

DIGITS = 4
"""Decimal places of a figure in a record; a bar is compared with what stands there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VettingTerms:
    """Who states it, and for how long."""

    vetted_by: str
    """Text of the vetter's public key."""
    conditions: tuple[str, ...]
    now: datetime
    valid_for: timedelta


def conditions_of(job: VettingJob, vetted: Vetted) -> tuple[str, ...]:
    """Return sentences that say what the verdict holds for."""
    if vetted.policy is None or not vetted.figures:
        return (f"No answer was generated; the static checks hold for {job.model_name}.",)
    suite, policy = job.suite.suite, vetted.policy.metadata.name
    measured = f"under the policy {policy} of the suite {suite.metadata.name}, greedy"
    return (
        f"Figures hold for {job.model_name} {measured}, {suite.settings.max_new_tokens} new tokens.",
        "Bars are compared with the estimates; intervals are 95 %.",
    )


def record_of(vetted: Vetted, suite: LoadedSuite, terms: VettingTerms) -> VettingRecord:
    """Return the record that says what was found: every figure, and the verdict over checks and bars."""
    results: list[VettingResult] = []
    checks: list[StaticCheck] = list(vetted.static.checks)
    if vetted.figures and vetted.case is not None:
        results = [_result(figure, vetted.case) for figure in vetted.figures]
        known = {figure.id for figure in vetted.figures}
        absent = {f"{bar.metric}.{bar.set}" for bar in vetted.case.bars} - known
        # A bar on a figure without a sample is not reached: there is nothing that reaches it.
        checks += [
            StaticCheck(id=f"measured.{name}", passed=False, found="no row to measure this bar on")
            for name in sorted(absent)
        ]
    passed = all(check.passed for check in checks) and all(result.passed is not False for result in results)
    return VettingRecord(
        level=vetted.level,
        suite=_suite_id(suite) if vetted.level >= 2 else None,
        environment=vetted.environment,
        static_checks=tuple(checks),
        results=tuple(results),
        verdict="pass" if passed else "fail",
        conditions=terms.conditions,
        vetted_by=terms.vetted_by,
        vetted_at=time_text(terms.now),
        expires_at=time_text(terms.now + terms.valid_for),
    )


def _result(figure: MeasuredFigure, case: SuiteCase) -> VettingResult:
    value = decimal(figure.value)
    bars = [bar for bar in case.bars if f"{bar.metric}.{bar.set}" == figure.id]
    return VettingResult(
        id=figure.id,
        title=title_of(figure.name),
        set=figure.set,
        n=figure.n,
        value=value,
        low=decimal(figure.low),
        high=decimal(figure.high),
        bar=" and ".join(bar.text for bar in bars) or None,
        passed=all(bar.reached(float(value)) for bar in bars) if bars else None,
        unit=figure.unit,
    )


def decimal(value: float) -> str:
    """Return a figure as records hold it."""
    return f"{value:.{DIGITS}f}"


def hardware(environment: VettingEnvironment) -> str:
    """Return platform, device and number of threads; no name of a machine."""
    return f"{environment.platform}, {environment.threads} threads"


def _suite_id(suite: LoadedSuite) -> VettingSuiteId:
    meta = suite.suite.metadata
    return VettingSuiteId(name=meta.name, version=meta.version, sha256=suite.sha256)
