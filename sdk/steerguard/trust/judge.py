"""The judge of a trust policy: who vouches for one artifact, decided from its digest and its attestations alone.

The order is fixed: what is revoked is refused whoever signed it; then the publisher's signatures; then the vetting.
No file is read and no manifest is parsed here. What cannot be read among the attestations counts for nothing and is
named: anybody can put a file there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from steerguard.artifacts.release import ReleaseStatement
from steerguard.errors import RevokedError, SignatureError, TrustError
from steerguard.policy.failure import Loosening
from steerguard.registry.index import IndexEntry
from steerguard.registry.names import EMBEDDED
from steerguard.registry.revocations import RevocationList
from steerguard.registry.store import Allowance, Evidence, is_local
from steerguard.trust.document import Publisher, TrustedKey, TrustPolicy
from steerguard.trust.envelopes import SignedStatement, releases_of, unreadable
from steerguard.trust.findings import WatchedArtifact, revoked_in
from steerguard.trust.vetted import best_vetting

Releases = tuple[SignedStatement[ReleaseStatement], ...]


@dataclass(frozen=True, slots=True)
class _Keys:
    """Which keys count at one moment."""

    revoked: frozenset[str]
    now: datetime

    def valid(self, keys: Iterable[TrustedKey]) -> tuple[TrustedKey, ...]:
        return tuple(key for key in keys if key.counts(self.now) and key.public.id not in self.revoked)


class TrustedJudge:
    """A `Judge` that follows a trust policy.

    Args:
        policy: who may publish, vet and revoke.
        revocations: by registry its verified and fresh list; every list counts for every artifact, since the same bytes
            and the same keys may appear in several registries.
        now: the clock, with time zone.
    """

    def __init__(
        self,
        policy: TrustPolicy,
        revocations: Mapping[str, RevocationList],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.policy = policy
        self.revocations = dict(revocations)
        self._now = now

    def admit(self, entry: IndexEntry, *, registry: str, attestations: Mapping[str, bytes]) -> Evidence:
        """Return who vouches for the artifact.

        Args:
            entry: family, variant, version and digest of the manifest.
            registry: name of the registry that the artifact comes from.
            attestations: the unverified files below `attestations/`, by path.

        Raises:
            RevokedError: a list names the artifact, or every key that signed it is revoked.
            SignatureError: no publisher may publish it, or too few of the publisher's keys signed it.
            VettingError: no valid vetting record reaches the level that the publisher needs.
        """
        warnings = self._not_revoked(entry)
        if registry == EMBEDDED and self.policy.embedded == "accept":
            return Evidence(warnings=warnings)
        releases = releases_of(entry, attestations)
        if not releases and not unreadable(entry, attestations) and is_local(registry):
            allowed = self._unsigned_allowed()
            if allowed is not None:
                told = f"Nobody has signed {entry.reference}; the trust policy allows it: {allowed.reason}"
                allowance = Allowance(reason=allowed.reason, expires=allowed.expires.isoformat())
                return Evidence(allowance=allowance, warnings=(*warnings, told))
        publishers = [one for one in self.policy.publishers if one.may_publish(entry, registry)]
        if not publishers:
            raise SignatureError(
                f"The trust policy names no publisher who may publish {entry.reference} here.",
                where=registry,
                expected="a publisher whose registries and artifacts cover it",
                found=", ".join(one.id for one in self.policy.publishers) or "no publisher at all",
                next_step="Add the publisher to the trust policy once you have checked its key by another way.",
            )
        refusals: list[TrustError] = []
        for publisher in publishers:
            try:
                evidence = self._vouched(entry, publisher, releases, attestations, registry)
            except TrustError as error:
                refusals.append(error)
            else:
                return replace(evidence, warnings=(*warnings, *evidence.warnings))
        # The publisher that came furthest says most: its signatures were right.
        raise min(refusals, key=lambda error: isinstance(error, SignatureError))

    def _not_revoked(self, entry: IndexEntry) -> tuple[str, ...]:
        """Return the warnings that lists give about an artifact.

        Raises:
            RevokedError: a list refuses it.
        """
        found = revoked_in(self.revocations, WatchedArtifact(entry=entry))
        if found is None:
            return ()
        said = self.revocations[found.registry].revoked_as(entry)
        note = said.note if said is not None else ""
        if not found.refuses:
            return (f"{entry.reference} is revoked with a warning ({found.reason}): {note}",)
        raise RevokedError(
            f"Artifact {entry.reference} is revoked.",
            where=f"{found.registry}, list {found.sequence}",
            expected="an artifact that no list refuses",
            found=f"{found.reason}, since {said.since if said is not None else 'unknown'}: {note}"[:1000],
            next_step="Move to a version that is not revoked: run steerguard lock --upgrade.",
        )

    def _unsigned_allowed(self) -> Loosening | None:
        setting = self.policy.unsigned_local
        if isinstance(setting, Loosening) and self._now().astimezone(UTC).date() <= setting.expires:
            return setting
        return None

    def _keys(self) -> _Keys:
        listed = {key.key_id for held in self.revocations.values() for key in held.keys}
        return _Keys(revoked=frozenset({*listed, *self.policy.revoked_keys}), now=self._now().astimezone(UTC))

    def _vouched(
        self,
        entry: IndexEntry,
        publisher: Publisher,
        releases: Releases,
        attestations: Mapping[str, bytes],
        registry: str,
    ) -> Evidence:
        keys = self._keys()
        signers = _signers(releases, keys.valid(publisher.keys))
        if len(signers) < publisher.require.signatures:
            raise self._too_few(entry, publisher, releases, attestations, registry, signers)
        own = frozenset(key.key for one in self.policy.publishers for key in one.keys)
        vetting = best_vetting(
            entry,
            attestations,
            {vetter: keys.valid(vetter.keys) for vetter in self.policy.vetters},
            publisher_keys=own,
            require=publisher.require,
            now=keys.now,
        )
        return Evidence(
            signed_by=signers,
            publisher=publisher.id,
            vetting_level=None if vetting is None else vetting.level,
            vetting_digest=None if vetting is None else vetting.digest,
            warnings=tuple(
                f"{path} counts for nothing: {why}" for path, why in unreadable(entry, attestations).items()
            ),
        )

    def _too_few(
        self,
        entry: IndexEntry,
        publisher: Publisher,
        releases: Releases,
        attestations: Mapping[str, bytes],
        registry: str,
        signers: tuple[str, ...],
    ) -> TrustError:
        keys = self._keys()
        ever = _signers(releases, publisher.keys)
        revoked = [key for key in ever if key in keys.revoked]
        if revoked and len(signers) + len(revoked) >= publisher.require.signatures:
            return RevokedError(
                f"Keys that signed {entry.reference} are revoked, and too few others signed it.",
                where=registry,
                expected=f"{publisher.require.signatures} signatures of `{publisher.id}` by keys that count",
                found=f"revoked: {', '.join(revoked)}; left: {', '.join(signers) or 'none'}",
                next_step="Get a version that is signed with another key of the publisher.",
            )
        late = [key for key in ever if key not in keys.revoked and key not in signers]
        notes = [f"valid: {', '.join(signers) or 'none'}"]
        notes += [f"past their last day: {', '.join(late)}"] if late else []
        notes += [f"{release.path} is said to be by {', '.join(release.claimed)}" for release in releases]
        notes += [f"{path}: {why}" for path, why in unreadable(entry, attestations).items()]
        return SignatureError(
            f"Artifact {entry.reference} is not signed as the trust policy requires.",
            where=registry,
            expected=f"{publisher.require.signatures} of the keys of `{publisher.id}`: "
            + ", ".join(key.public.id for key in publisher.keys),
            found=("; ".join(notes) if attestations else "no attestation at all")[:1000],
            next_step="Have the publisher sign this digest, or correct the keys in the trust policy.",
        )


def _signers(releases: Releases, keys: Iterable[TrustedKey]) -> tuple[str, ...]:
    """Return the ids of the keys that signed any of the releases, each once, sorted."""
    public = [key.public for key in keys]
    return tuple(sorted({key.id for release in releases for key in release.signers(public)}))
