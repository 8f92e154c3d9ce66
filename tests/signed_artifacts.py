"""Keys, signatures, vetting records, lists of revocations and trust policies for tests; everything is really signed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.artifact_samples import sample_files

from steerguard.artifacts.manifest import ArtifactManifest, manifest_digest, parse_manifest
from steerguard.artifacts.paths import MANIFEST
from steerguard.artifacts.release import release_path, release_statement
from steerguard.artifacts.times import time_text
from steerguard.artifacts.vetting import (
    StaticCheck,
    VettedModel,
    VettingEnvironment,
    VettingRecord,
    VettingResult,
    VettingSuiteId,
    vetting_path,
    vetting_statement,
)
from steerguard.registry.index import IndexEntry
from steerguard.registry.local import LocalDirectory
from steerguard.registry.revocations import (
    REVOCATIONS,
    REVOCATIONS_TYPE,
    RevocationList,
    RevokedArtifact,
    RevokedKey,
    revocation_list,
    revocations_bytes,
)
from steerguard.signing.dsse import sign
from steerguard.signing.keys import SigningKey
from steerguard.signing.statement import STATEMENT
from steerguard.trust.document import TrustPolicy
from steerguard.trust.load import parse_trust

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ACME, ACME_NEXT, LAB, OWNER, STRANGER = (SigningKey(bytes([number]) * 32) for number in range(1, 6))
REGISTRY = "file:///srv/registry"
HUB = "hf://acme"


def sample_entry(**changes: Any) -> tuple[IndexEntry, ArtifactManifest]:
    """Return the entry and the manifest of a sample artifact."""
    content = sample_files(**changes)[MANIFEST]
    manifest = parse_manifest(content)
    return entry_of(manifest, manifest_digest(content)), manifest


def entry_of(manifest: ArtifactManifest, digest: str) -> IndexEntry:
    """Return the entry of a manifest."""
    return IndexEntry(family=manifest.family, variant=manifest.variant, version=manifest.version, digest=digest)


def release(manifest: ArtifactManifest, digest: str, *signers: SigningKey, publisher: str = "acme") -> dict[str, bytes]:
    """Return one signed release file per key, by path."""
    statement = release_statement(manifest, digest, publisher, time_text(NOW))
    return {release_path(key.public.id): sign(statement, STATEMENT, [key]) for key in signers}


def vetting(
    manifest: ArtifactManifest,
    digest: str,
    signer: SigningKey,
    *,
    level: int = 2,
    verdict: str = "pass",
    vetted: datetime = NOW - timedelta(days=1),
    valid_for: timedelta = timedelta(days=90),
) -> dict[str, bytes]:
    """Return one signed vetting file, by path."""
    record = vetting_record(signer, level=level, verdict=verdict, vetted=vetted, valid_for=valid_for)
    envelope = sign(vetting_statement(manifest, digest, record), STATEMENT, [signer])
    return {vetting_path(signer.public.id, record.vetted_at): envelope}


def vetting_record(
    signer: SigningKey, *, level: int, verdict: str, vetted: datetime, valid_for: timedelta
) -> VettingRecord:
    """Return a record of this level and verdict."""
    passed = verdict == "pass"
    model = VettedModel(
        repo="example/tiny",
        weights="float32",
        weights_digest=None,
        tokenizer_sha256="1" * 64,
        fingerprint_distance="0.0001",
    )
    return VettingRecord(
        level=level,
        suite=VettingSuiteId(name="quick", version="1", sha256="2" * 64) if level >= 2 else None,
        environment=VettingEnvironment(
            sdk="0.1", python="3.11", torch="2", transformers="5", platform="linux", threads=1, model=model
        ),
        static_checks=(StaticCheck(id="integrity", passed=True, found="every digest"),),
        results=(
            VettingResult(
                id="over_refusal", title="Benign prompts refused", set="benign", n=100, value="0.01",
                low="0.00", high="0.05", bar="<= 0.05", passed=passed, unit="share",
            ),
        ),
        verdict=verdict,
        conditions=(),
        vetted_by=signer.public.text,
        vetted_at=time_text(vetted),
        expires_at=time_text(vetted + valid_for),
    )  # fmt: skip


def revocations(
    registry: str,
    *artifacts: RevokedArtifact,
    keys: Iterable[RevokedKey] = (),
    sequence: int = 1,
    issued: datetime = NOW - timedelta(days=1),
    valid_for: timedelta = timedelta(days=30),
) -> RevocationList:
    """Return a list of revocations."""
    return revocation_list(
        registry, sequence=sequence, issued=issued, expires=issued + valid_for, artifacts=artifacts, keys=keys
    )


def revoked(action: str = "refuse", reason: str = "unsafe", **named: Any) -> RevokedArtifact:
    """Return one entry of a list: by `digest`, or by `family`, `variant` and `range`."""
    return RevokedArtifact(reason=reason, action=action, note="measured again", since=time_text(NOW), **named)


def revoked_key(key: SigningKey) -> RevokedKey:
    """Return one revoked key of a list."""
    return RevokedKey(key_id=key.public.id, reason="leaked_key", since=time_text(NOW))


def signed_list(document: RevocationList, *signers: SigningKey) -> bytes:
    """Return the envelope of a list."""
    return sign(revocations_bytes(document), REVOCATIONS_TYPE, signers)


def put_list(root: Path, document: RevocationList, *signers: SigningKey) -> None:
    """Write a signed list to the root of a local registry."""
    (root / REVOCATIONS).write_bytes(signed_list(document, *signers))


def attest_all(registry: LocalDirectory, *signers: SigningKey) -> None:
    """Sign every artifact of a local registry."""
    for entry in registry.entries():
        for path, content in release(registry.pin(entry).manifest, entry.digest, *signers).items():
            registry.attest(entry, path, content)


def trust_text(
    *,
    registries: Sequence[str] = (REGISTRY,),
    keys: Sequence[SigningKey] = (ACME,),
    require: str = "{signatures: 1}",
    vetter: str | None = None,
    signed: Sequence[str] = (),
    extra: str = "",
) -> str:
    """Return the text of a trust policy with the publisher `acme`.

    Args:
        registries: where it may publish.
        keys: its keys.
        require: what its artifacts must have, as YAML.
        vetter: entries of `vetters:` as YAML; by default the lab, up to level 3.
        signed: registries whose index and revocations the owner's key signs.
        extra: more fields at the top level.
    """
    lines = ["apiVersion: steerguard/v1alpha1", "kind: TrustPolicy", "publishers:", "  - id: acme"]
    lines.append("    registries: [" + ", ".join(f'"{name}"' for name in registries) + "]")
    lines.append("    keys: [" + ", ".join(f'{{key: "{key.public.text}"}}' for key in keys) + "]")
    lines.append(f"    require: {require}")
    lines.append("vetters:")
    lines.append(f"  - {vetter or lab()}")
    if signed:
        lines.append("registries:")
        lines += [f'  - {{registry: "{name}", keys: [{{key: "{OWNER.public.text}"}}]}}' for name in signed]
    return "\n".join([*lines, extra]) + "\n"


def lab(key: SigningKey = LAB, *, max_level: int = 3) -> str:
    """Return the entry of a vetter as YAML."""
    return f'{{id: lab, keys: [{{key: "{key.public.text}"}}], max_level: {max_level}}}'


def trust(**parts: Any) -> TrustPolicy:
    """Return the trust policy of `trust_text`."""
    return parse_trust(trust_text(**parts), file="trust.yaml", today=NOW.date())
