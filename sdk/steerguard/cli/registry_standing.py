"""Who vouches for one artifact of a registry, whether it is revoked, and where its tag stands: what `registry show` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steerguard.artifacts.manifest import manifest_digest
from steerguard.artifacts.paths import MANIFEST, MAX_MANIFEST_BYTES
from steerguard.errors import ArtifactError, TrustError
from steerguard.registry.index import IndexEntry
from steerguard.registry.revocations import RevocationList
from steerguard.registry.signed_index import HubEntry
from steerguard.registry.store import ArtifactStore
from steerguard.trust.envelopes import releases_of, unreadable, vettings_of

if TYPE_CHECKING:
    from steerguard.hub.client import HubClient
    from steerguard.registry.store import Judge


def standing(
    store: ArtifactStore, entry: IndexEntry, judge: Judge | None, revocations: RevocationList | None
) -> dict[str, str]:
    """Return what the attestations say, and what a trust policy makes of it, as rows for people and machines.

    Args:
        store: the registry.
        entry: one of its entries.
        judge: of the trust policy; without one nothing is verified, and the rows say so.
        revocations: the registry's own verified list, if there is one.

    Raises:
        SteerguardError: as the store's `attestations` does.
    """
    attestations = store.attestations(entry)
    rows = {**_claimed(entry, attestations), "revoked": _revoked(entry, revocations)}
    if judge is None:
        return rows | {"trusted": "not judged: no trust policy was given (--trust)"}
    try:
        evidence = judge.admit(entry, registry=store.name, attestations=attestations)
    except TrustError as error:
        return rows | {"trusted": f"refused: {error.code}: {error.summary}"}
    level = "no vetting counts" if evidence.vetting_level is None else f"vetting level {evidence.vetting_level}"
    signed = ", ".join(evidence.signed_by) or "nobody"
    publisher = "" if evidence.publisher is None else f" for publisher {evidence.publisher}"
    return rows | {"trusted": "; ".join((f"yes: signed by {signed}{publisher}", level, *evidence.warnings))}


def tag_standing(client: HubClient, entry: HubEntry) -> str:
    """Return where the tag of a published version stands now, compared with the commit that the index pins.

    Raises:
        RegistryUnavailableError, RegistryAccessError: the Hub does not answer or refuses.
    """
    name = f"v{entry.version}"
    tagged = client.tags(entry.repo).get(name)
    if tagged is None:
        return f"{name} does not exist; the index pins {entry.commit}"
    if tagged == entry.commit:
        return f"{name} stands at the indexed commit {entry.commit}"
    try:
        same = manifest_digest(client.read(entry.repo, tagged, MANIFEST, max_bytes=MAX_MANIFEST_BYTES)) == entry.digest
    except ArtifactError:
        same = False
    if same:
        return f"{name} stands at {tagged}: the same artifact; the index pins {entry.commit} with later attestations"
    return f"MOVED: {name} stands at {tagged}, which is another artifact; the index pins {entry.commit}"


def _claimed(entry: IndexEntry, attestations: Mapping[str, bytes]) -> dict[str, str]:
    releases = [
        f"{one.statement.predicate.publisher} ({', '.join(one.claimed)})" for one in releases_of(entry, attestations)
    ]
    vettings = [
        f"level {one.statement.predicate.level}, {one.statement.predicate.verdict}, until "
        f"{one.statement.predicate.expires_at} ({', '.join(one.claimed)})"
        for one in vettings_of(entry, attestations)
    ]
    rows: dict[str, Any] = {
        "signed, as said": "; ".join(releases) or "no release signature",
        "vetted, as said": "; ".join(vettings) or "no vetting statement",
    }
    broken = unreadable(entry, attestations)
    if broken:
        rows["unreadable"] = "; ".join(f"{path}: {why}" for path, why in broken.items())
    return rows


def _revoked(entry: IndexEntry, revocations: RevocationList | None) -> str:
    if revocations is None:
        return "no list of revocations was read"
    found = revocations.revoked_as(entry)
    if found is None:
        return f"no, by list {revocations.sequence} of {revocations.issued}"
    note = f": {found.note}" if found.note else ""
    return f"YES, {found.action}: {found.reason}, since {found.since}{note}"
