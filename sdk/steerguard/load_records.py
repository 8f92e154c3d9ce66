"""What the audit log learns when a policy or an artifact is asked for and not used: class names, references, digests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from steerguard.artifacts.reference import parse_reference
from steerguard.audit.log import AuditLog
from steerguard.audit.records.events import ArtifactVerifyFailed, PolicyReject
from steerguard.audit.records.fields import PolicyReference, class_name, escaped
from steerguard.errors import (
    ArtifactFormatError,
    ArtifactIntegrityError,
    AuditError,
    AuditSinkError,
    IncompatibleModelError,
    LockError,
    RevokedError,
    RollbackError,
    SignatureError,
    StaleError,
    SteerguardError,
    VettingError,
)
from steerguard.plan.resolve import artifact_needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from steerguard.audit.records.record import DecisionContext
    from steerguard.plan.plan import Plan
    from steerguard.policy.document import Policy
    from steerguard.registry.lockfile import Lockfile

NOT_VERIFIED: Final = (
    ArtifactIntegrityError,
    ArtifactFormatError,
    SignatureError,
    VettingError,
    RevokedError,
    StaleError,
    RollbackError,
    LockError,
)
"""Errors that say that bytes, signature, vetting or lock of an artifact could not be verified."""

_REFERENCE: Final = re.compile(r"([a-z0-9][a-z0-9.-]*)/([a-z0-9][a-z0-9.-]*)[@/]([0-9]+\.[0-9]+\.[0-9]+)(?![0-9.])")
"""As errors name an artifact: `family/variant@version`, or its folder `…/family/variant/version`."""
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownArtifacts:
    """What tells which artifact an error is about. Only these names may go from a message into a record."""

    families: frozenset[str] = frozenset()
    digests: Mapping[str, str] = field(default_factory=dict)
    """By `family/variant@version`, where something pins it."""

    def reference_in(self, error: SteerguardError) -> str | None:
        """Return the artifact that an error names; None where it names none that is known."""
        for text in (str(error.where), error.summary):
            for family, variant, version in _REFERENCE.findall(text):
                reference = f"{family}/{variant}@{version}"
                if family in self.families and len(reference) <= _LONGEST:
                    return reference
        return next((reference for reference, digest in self.digests.items() if digest == error.expected), None)


def known_artifacts(
    document: Policy | None = None, *, lock: Lockfile | None = None, plans: Iterable[Plan] = ()
) -> KnownArtifacts:
    """Return what a policy asks for, as its lock file and plans pin it; errors of a malformed reference are not raised."""
    pins = {pin.reference: pin.digest for plan in plans for pin in plan.artifacts}
    locked = {} if lock is None else {f"{one.family}/{one.variant}@{one.version}": one.digest for one in lock.artifacts}
    families = {reference.partition("/")[0] for reference in (*pins, *locked)}
    for text in () if document is None else artifact_needs(document):
        try:
            families.add(parse_reference(text).family)
        except SteerguardError:
            # That the reference is malformed is what is about to be raised; nothing has its name.
            continue
    return KnownArtifacts(families=frozenset(families), digests=locked | pins)


def reference_of(policy: Policy) -> PolicyReference:
    """Return name, version and digest of a document."""
    return PolicyReference(
        name=escaped(policy.metadata.name), version=escaped(policy.metadata.version), digest=policy.digest
    )


def code_of(error: BaseException) -> str:
    """Return the class name of an error; `Exception` where a foreign class has a name that a record may not hold."""
    return class_name(error)


def not_verified(error: SteerguardError, known: KnownArtifacts) -> ArtifactVerifyFailed:
    """Say that an artifact was not verified."""
    reference = known.reference_in(error)
    expected = error.expected if isinstance(error.expected, str) and _DIGEST.fullmatch(error.expected) else None
    digest = expected if reference is None else known.digests.get(reference, expected)
    return ArtifactVerifyFailed(ref=reference, digest=digest, code=code_of(error))


def is_not_verified(error: SteerguardError, known: KnownArtifacts) -> bool:
    """Return whether an error says that an artifact could not be verified, or does not fit the weights."""
    fit = isinstance(error, IncompatibleModelError) and known.reference_in(error) is not None
    return fit or isinstance(error, NOT_VERIFIED)


def rejected(
    error: SteerguardError,
    *,
    scope: Literal["guard", "request"],
    policy: PolicyReference | None,
    in_force: DecisionContext | None = None,
) -> PolicyReject:
    """Say that a policy was asked for and not put in force."""
    return PolicyReject(
        scope=scope,
        code=code_of(error),
        rejected=policy,
        policy=None if in_force is None else in_force.policy,
        plan=None if in_force is None else in_force.plan,
    )


def noted(error: BaseException, record: Callable[[], object]) -> None:
    """Record something about an error that is about to be raised; when that fails, say so on the error."""
    try:
        record()
    except AuditError as audit_error:
        error.add_note(f"The audit log could not record this failure: {audit_error.code}.")


class Attempt:
    """One attempt to put a policy in force, and what is known of it so far.

    Attributes:
        document: the policy, once it was read.
        known: the artifacts that it asks for.
    """

    def __init__(self) -> None:
        self.document: Policy | None = None
        self.known = KnownArtifacts()

    @contextmanager
    def recorded_in(self, audit: AuditLog | Path | str | None) -> Iterator[None]:
        """Record why the block failed, before its error is raised on.

        Args:
            audit: an open log; or where one is opened for these records, in which nothing of prompts can be recorded.
        """
        try:
            yield
        except AuditSinkError:
            raise
        except SteerguardError as error:
            cause = error
            noted(cause, lambda: self._tell(cause, audit))
            raise

    def _tell(self, error: SteerguardError, audit: AuditLog | Path | str | None) -> None:
        if not isinstance(audit, AuditLog):
            with AuditLog.open(None if audit is None else Path(audit), content="none") as log:
                self._tell(error, log)
            return
        if is_not_verified(error, self.known):
            audit.record(not_verified(error, self.known))
        policy = None if self.document is None else reference_of(self.document)
        audit.record(rejected(error, scope="guard", policy=policy))
