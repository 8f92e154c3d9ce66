"""Valid documents of a registry, small and the same on every call, as data to edit and as bytes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from steerguard.artifacts.manifest import ArtifactManifest, parse_manifest
from steerguard.artifacts.vetting import (
    StaticCheck,
    VettedModel,
    VettingEnvironment,
    VettingRecord,
    VettingResult,
    VettingSuiteId,
)
from steerguard.canonical import canonical_bytes
from steerguard.registry.lockfile import (
    LockedArtifact,
    LockedFile,
    LockedPolicy,
    LockedRegistry,
    LockedVetting,
    Lockfile,
    lockfile_of,
)
from steerguard.registry.revocations import RevocationList, RevokedArtifact, RevokedKey, revocation_list
from steerguard.registry.signed_index import HubEntry, SignedIndex, signed_index_of
from steerguard.signing.keys import SigningKey

ISSUED = datetime(2026, 11, 22, tzinfo=UTC)
EXPIRES = ISSUED + timedelta(days=7)
NOW_TEXT, LATER_TEXT = "2026-11-22T00:00:00Z", "2027-11-22T00:00:00Z"
REGISTRY = "hf://acme"
PUBLISHER, VETTER = SigningKey(b"p" * 32), SigningKey(b"v" * 32)
HEX, OTHER_HEX = "a" * 64, "b" * 64
DIGEST, OTHER_DIGEST = f"sha256:{HEX}", f"sha256:{OTHER_HEX}"
COMMIT = "0123456789" * 4


def manifest_data() -> dict[str, Any]:
    """The manifest of an artifact with one weights file, as JSON data."""
    return {
        "apiVersion": "steerguard/v1alpha1",
        "kind": "ArtifactManifest",
        "family": "refusal",
        "variant": "tiny",
        "version": "1.2.0",
        "type": "steering_vectors",
        "method": "refusal_direction",
        "method_version": 1,
        "requires": {"sdk": ">=0.1", "features": ["operator.ablate", "hook.resid_post"]},
        "base": {
            "repo": "example/tiny",
            "source": "random weights",
            "architecture": "LlamaForCausalLM",
            "decoder": "LlamaModel",
            "num_blocks": 6,
            "hidden_size": 8,
            "vocab_size": 320,
            "tokenizer_sha256": HEX,
            "chat_template_sha256": None,
        },
        "fingerprints": [
            {
                "weights": "float32",
                "blocks": [2, 3, 5],
                "prompts": 4,
                "file": "weights/tensors.safetensors",
                "max_one_minus_cos": "0.001",
            }
        ],
        "hook_point": "resid_post",
        "params": {"blocks": [3, 4], "strength": "0.5"},
        "files": [
            {"path": "README.md", "sha256": HEX, "size": 10},
            {
                "path": "weights/tensors.safetensors",
                "sha256": OTHER_HEX,
                "size": 600,
                "tensors": {"directions": {"dtype": "F32", "shape": [4, 3, 8]}},
            },
        ],
        "license": "apache-2.0",
        "created": NOW_TEXT,
    }


def manifest() -> ArtifactManifest:
    """The manifest, parsed."""
    return parse_manifest(canonical_bytes(manifest_data()))


def hub_entry(version: str = "1.2.0", **changes: Any) -> HubEntry:
    """One entry of a signed index."""
    fields: dict[str, Any] = {
        "family": "refusal",
        "variant": "tiny",
        "version": version,
        "digest": DIGEST,
        "repo": "acme/refusal-tiny",
        "commit": COMMIT,
        "type": "steering_vectors",
        "base_model": "example/tiny",
    }
    return HubEntry(**(fields | changes))


def signed_index(*entries: HubEntry, sequence: int = 4) -> SignedIndex:
    """An index of these entries, of two versions when none is given."""
    listed = entries or (hub_entry("1.10.0"), hub_entry("1.9.0", digest=OTHER_DIGEST))
    return signed_index_of(REGISTRY, listed, sequence=sequence, issued=ISSUED, expires=EXPIRES)


def revoked(**changes: Any) -> RevokedArtifact:
    """A revocation by digest, or of what is given."""
    fields: dict[str, Any] = {"reason": "unsafe", "action": "refuse", "note": "", "since": NOW_TEXT}
    named = {} if {"family", "digest"} & set(changes) else {"digest": DIGEST}
    return RevokedArtifact(**(fields | named | changes))


def revocations(*artifacts: RevokedArtifact, sequence: int = 2, registry: str = REGISTRY) -> RevocationList:
    """A list of these artifacts, of two ways to name them when none is given, and of one key."""
    listed = artifacts or (revoked(), revoked(family="refusal", variant="tiny", range=">=1,<1.5", action="warn"))
    key = RevokedKey(key_id=VETTER.public.id, reason="leaked_key", since=NOW_TEXT)
    return revocation_list(registry, sequence=sequence, issued=ISSUED, expires=EXPIRES, artifacts=listed, keys=(key,))


def vetting_record(**changes: Any) -> VettingRecord:
    """A record of level 2 that passed."""
    result = {"set": "held_out", "n": 40, "low": "0.01", "high": "0.09", "unit": "share"}
    fields: dict[str, Any] = {
        "level": 2,
        "suite": VettingSuiteId(name="quick", version="1", sha256=HEX),
        "environment": VettingEnvironment(
            sdk="0.1.0",
            python="3.11.9",
            torch="2.9",
            transformers="5.0",
            platform="linux",
            threads=1,
            model=VettedModel(
                repo="example/tiny",
                weights="float32",
                weights_digest=DIGEST,
                tokenizer_sha256=HEX,
                fingerprint_distance="1e-7",
            ),
        ),
        "static_checks": (StaticCheck(id="integrity", passed=True, found="12 files"),),
        "results": (
            VettingResult(
                id="over_refusal", title="Benign touched", value="0.05", bar="<= 0.10", passed=True, **result
            ),
            VettingResult(id="overhead", title="Seconds", value="0.02", bar=None, passed=None, **result),
        ),
        "verdict": "pass",
        "conditions": ("greedy decoding",),
        "vetted_by": VETTER.public.text,
        "vetted_at": NOW_TEXT,
        "expires_at": LATER_TEXT,
    }
    return VettingRecord(**(fields | changes))


def locked_artifact(**changes: Any) -> LockedArtifact:
    """One artifact from the Hub."""
    fields: dict[str, Any] = {
        "reference": "hf://acme/refusal@^1",
        "registry": REGISTRY,
        "family": "refusal",
        "variant": "tiny",
        "version": "1.2.0",
        "digest": DIGEST,
        "repo": "acme/refusal-tiny",
        "commit": COMMIT,
        "files": (
            LockedFile(path="README.md", sha256=HEX, size=10),
            LockedFile(path="manifest.json", sha256=HEX, size=900),
            LockedFile(path="weights/tensors.safetensors", sha256=OTHER_HEX, size=600),
        ),
        "signed_by": (PUBLISHER.public.id,),
        "vetting": LockedVetting(level=2, sha256=OTHER_HEX),
    }
    return LockedArtifact(**(fields | changes))


def lockfile(*artifacts: LockedArtifact) -> Lockfile:
    """A lock of these artifacts, of one from the Hub and one that ships with the package when none is given."""
    embedded = {"reference": "refusal@^1", "registry": "embedded", "repo": None, "commit": None, "vetting": None}
    listed = artifacts or (locked_artifact(), locked_artifact(**embedded, signed_by=()))
    return lockfile_of(
        [LockedPolicy(name="mine", digest=DIGEST, references=("hf://acme/refusal@^1", "refusal@^1"))],
        [
            LockedRegistry(registry=REGISTRY, index_sequence=4, index_sha256=HEX, revocations_sequence=2),
            LockedRegistry(registry="embedded", index_sequence=None, index_sha256=None, revocations_sequence=None),
        ],
        listed,
    )
