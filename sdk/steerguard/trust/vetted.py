"""Which vetting record of an artifact counts, and for how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from steerguard.artifacts.times import parse_time
from steerguard.artifacts.vetting import MAX_LEVEL, VettingStatement
from steerguard.errors import VettingError
from steerguard.registry.freshness import CLOCK_SKEW
from steerguard.registry.index import IndexEntry
from steerguard.trust.document import Requirement, TrustedKey, Vetter
from steerguard.trust.envelopes import SignedStatement, unreadable, vettings_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedVetting:
    """A vetting record that a trusted vetter signed."""

    level: int
    """What it counts for: at most its own level and the vetter's highest; 3 only from a key that no publisher has."""
    digest: str
    """`sha256:<hex>` over the bytes of the file."""
    vetter: str
    """Id of the vetter in the trust policy."""


def best_vetting(
    entry: IndexEntry,
    attestations: Mapping[str, bytes],
    vetters: Mapping[Vetter, Sequence[TrustedKey]],
    *,
    publisher_keys: frozenset[str],
    require: Requirement,
    now: datetime,
) -> CountedVetting | None:
    """Return the record that counts for most; None where none does and none is asked for.

    Args:
        entry: the artifact.
        attestations: its unverified attestations, by path.
        vetters: by vetter the keys that count at this moment.
        publisher_keys: texts of the keys of every publisher.
        require: what the publisher's artifacts must have.
        now: the present, with time zone.

    Raises:
        VettingError: no valid record reaches the level that is asked for.
    """
    reasons: list[str] = []
    counted: list[CountedVetting] = []
    for signed in vettings_of(entry, attestations):
        outcome = _count(signed, vetters, publisher_keys, require, now)
        if isinstance(outcome, str):
            reasons.append(f"{signed.path}: {outcome}")
        else:
            counted.append(outcome)
    best = max(counted, key=lambda vetting: (vetting.level, vetting.digest), default=None)
    if require.vetting_level == 0 or (best is not None and best.level >= require.vetting_level):
        return best
    reasons += [f"{path}: {why}" for path, why in unreadable(entry, attestations).items()]
    reasons += [f"level {vetting.level} by `{vetting.vetter}`" for vetting in counted]
    raise VettingError(
        f"No valid vetting record of {entry.reference} reaches level {require.vetting_level}.",
        where=entry.reference,
        expected=f"level {require.vetting_level} or higher, signed by one of: "
        + (", ".join(sorted(vetter.id for vetter in vetters)) or "(the trust policy names no vetter)"),
        found="; ".join(reasons)[:1000] or "no vetting record",
        next_step="Have the artifact vetted, or lower `vetting_level` in the trust policy on purpose.",
    )


def _count(
    signed: SignedStatement[VettingStatement],
    vetters: Mapping[Vetter, Sequence[TrustedKey]],
    publisher_keys: frozenset[str],
    require: Requirement,
    now: datetime,
) -> CountedVetting | str:
    """Return what a record counts for, or why it does not count."""
    record = signed.statement.predicate
    if record.verdict != "pass":
        return "its verdict is fail"
    if record.expired(now):
        return f"it expired at {record.expires_at}"
    if parse_time(record.vetted_at) > now + CLOCK_SKEW:
        return f"it is dated in the future, {record.vetted_at}"
    own_only = False
    counted: list[CountedVetting] = []
    for vetter, keys in vetters.items():
        for key in keys:
            if not signed.signers((key.public,)):
                continue
            own = key.key in publisher_keys
            if own and require.other_vetter:
                own_only = True
                continue
            level = min(record.level, vetter.max_level, MAX_LEVEL - 1 if own else MAX_LEVEL)
            counted.append(CountedVetting(level=level, digest=signed.digest, vetter=vetter.id))
    if counted:
        return max(counted, key=lambda vetting: vetting.level)
    if own_only:
        return "a publisher vetted itself, and the trust policy asks for another vetter"
    return f"no vetter that counts signed it; it is said to be by {', '.join(signed.claimed)}"
