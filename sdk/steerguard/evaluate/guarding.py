"""A model under a policy for as long as it is measured. Decisions go to the journal, so the audit log keeps nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steerguard.audit.log import AuditLog
from steerguard.errors import EvaluationError
from steerguard.evaluate.result import UNGUIDED, EvaluatedRun, RunThreshold
from steerguard.methods.bounds import decimal_text
from steerguard.plan.plan import Plan
from steerguard.policy.document import Policy
from steerguard.policy.rules import PlannedComparison, near
from steerguard.registry.lockfile import Lockfile
from steerguard.registry.store import ArtifactStore
from steerguard.trust.document import TrustPolicy
from steerguard.wrapping import unwrap, wrap


class _NoSink:
    """Keeps no line: what an evaluation asks a guard is no use of a model that anybody must account for."""

    def write(self, line: bytes) -> None:
        """Drop the line."""

    def sync(self) -> None:
        """Nothing is kept, so nothing is flushed."""

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def guarded(
    model: Any,
    policy: Policy,
    tokenizer: Any,
    registry: ArtifactStore | Path | str | None,
    *,
    trust: TrustPolicy | None = None,
    lock: Lockfile | None = None,
) -> Iterator[Any]:
    """Wrap the model inside the block.

    Args:
        model: as for `steerguard.wrap`, like all of these.
        policy: what guards it.
        tokenizer: its tokenizer or processor.
        registry: where artifacts come from.
        trust: whose signatures count.
        lock: what artifacts are pinned to.

    Raises:
        SteerguardError: as `steerguard.wrap`.
    """
    with AuditLog.open(sink=_NoSink(), content="none") as log:
        wrapped = wrap(model, policy, tokenizer=tokenizer, registry=registry, trust=trust, lock=lock, audit=log)
        try:
            yield wrapped
        finally:
            unwrap(wrapped)


def check_policies(policies: tuple[Policy, ...]) -> None:
    """Refuse policies that cannot be told apart in a result.

    Raises:
        EvaluationError: names the policy.
    """
    seen = {UNGUIDED}
    for policy in policies:
        name = policy.metadata.name
        if name in seen:
            raise EvaluationError(
                "Two runs would have the same name.",
                expected=f"a metadata.name of its own for each policy, other than `{UNGUIDED}`",
                found=name,
                next_step="Change metadata.name in a copy of the policy.",
            )
        seen.add(name)


def require_planned(plan: Plan, planned: str | None) -> None:
    """Refuse to answer under another plan than the one that was settled: its artifacts may be others.

    Args:
        plan: of the guard that is to answer.
        planned: digest of the settled plan.

    Raises:
        EvaluationError: they differ.
    """
    if plan.digest != planned:
        raise EvaluationError(
            "The registry changed while the evaluation ran.",
            where=f"policy `{plan.policy_name}`",
            expected=f"the plan {planned}",
            found=plan.digest,
            next_step="Put the registry back as it was, or evaluate into a new folder; a lock file keeps artifacts.",
        )


def described_run(plan: Plan) -> EvaluatedRun:
    """Return what the result says of a run under a plan."""
    return EvaluatedRun(
        name=plan.policy_name,
        policy_version=plan.policy_version,
        policy_digest=plan.policy_digest,
        plan_digest=plan.digest,
        thresholds=tuple(
            RunThreshold(
                rule=rule.id,
                detector=rule.when.detector,
                action=rule.action,
                value=decimal_text(near(rule.when.at_least.value, plan.tolerances[rule.when.detector])[0]),
                fpr=rule.when.at_least.fpr,
            )
            for rule in plan.rules
            # A rule of several comparisons has no threshold of its own that a share of prompts could reach.
            if isinstance(rule.when, PlannedComparison) and rule.when.at_least is not None
        ),
    )
