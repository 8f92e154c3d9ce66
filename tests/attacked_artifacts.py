"""What is attacked: a publishable probe for the tiny model in any version, signed and vetted, and the policy that uses it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.guarded_models import registry_for, shared_model
from tests.signed_artifacts import ACME, HUB, LAB, release, trust_text, vetting

from steerguard.artifacts.card_metadata import card_metadata, with_front_matter
from steerguard.artifacts.codec import encode_artifact
from steerguard.artifacts.manifest import manifest_digest, parse_manifest
from steerguard.artifacts.paths import MANIFEST, is_pinned
from steerguard.artifacts.side_effects import KEY, measured_content, side_effects_of, side_effects_section
from steerguard.artifacts.verify import verify_artifact
from steerguard.trust.document import TrustPolicy
from steerguard.trust.load import parse_trust

ORGANISATION = "acme"
FAMILY, VARIANT = "harmful-intent", "tiny"
REPO, INDEX_REPO = "acme/harmful-intent_tiny", "acme/steerguard-index"
REFERENCE = "hf://acme/harmful-intent@^1"
OLD, NEW = "1.0.0", "1.1.0"
WEIGHTS = "weights/probe.safetensors"
REQUIRE = "{signatures: 1, vetting_level: 2, other_vetter: true}"
POLICY = f"""
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {{name: attacked, version: 1.0.0, description: for tests, owner: tests}}
mode: enforce
target: {{modalities: [text]}}
detectors:
  - {{id: d, type: linear_probe, artifact: "{REFERENCE}", read: generation_prompt_end}}
rules:
  - {{id: r, when: {{detector: d, score: {{at_least: {{value: 1000000.0}}}}}}, then: {{action: refuse}}}}
default: {{action: allow}}
refusal: {{template: "I cannot help with that."}}
"""


def present() -> datetime:
    """The real time; `wrap` reads the clock, so what is signed here is signed now."""
    return datetime.now(UTC)


def trusts(**changes: Any) -> TrustPolicy:
    """The reader's trust policy: `acme` publishes, the lab vets, the owner signs index and revocations."""
    given = {"registries": [HUB], "signed": [HUB], "require": REQUIRE, **changes}
    return parse_trust(trust_text(**given), file="trust.yaml", today=present().date())


def pinned(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """What a digest pins of these files: all but the attestations."""
    return {path: bytes(content) for path, content in files.items() if path == MANIFEST or is_pinned(path)}


@functools.cache
def _parts() -> tuple[dict[str, Any], Any]:
    """The probe of the tiny model: its manifest without the files, and what it holds."""
    registry = registry_for(shared_model())
    pin = registry.pinned(FAMILY)[0]
    fields = pin.manifest.model_dump(mode="json", by_alias=True, exclude_none=True)
    del fields["files"]
    return fields, verify_artifact(registry.read(pin), pin.digest)


def artifact_files(version: str = OLD, **changes: Any) -> dict[str, bytes]:
    """The bytes of a publishable probe for the tiny model, unsigned, by path."""
    fields, whole = _parts()
    fields = {**fields, "version": version, **changes}
    tensors = dict(whole.tensors)
    plain = encode_artifact(fields, tensors, card="# Probe\n", calibration=whole.calibration)
    manifest = parse_manifest(plain[MANIFEST])
    section = {
        "content_digest": measured_content(manifest),
        "suite": {"name": "quick", "version": "1", "sha256": "3" * 64},
        "policy": "attacked",
        "max_new_tokens": 8,
        "sdk": "0.1",
        "figures": [_figure(name) for name in ("over_refusal", "coherence", "overhead")],
    }
    effects = side_effects_of({KEY: section})
    assert effects is not None
    text = f"# Probe\n\nRandom; for tests only.\n\n{side_effects_section(effects)}\n"
    card = with_front_matter(text, card_metadata(manifest, effects))
    return encode_artifact(
        fields, tensors, card=card, calibration=whole.calibration, benchmarks={KEY: section}, recipe="seed: 7\n"
    )


def _figure(name: str) -> dict[str, Any]:
    measured = {"n": 40, "value": "1.0", "low": "0.9", "high": "1.1", "interval": "bootstrap"}
    return {"id": name, "title": name, "set": "benign", "weights": "float32", "hardware": "cpu, 1 thread", **measured}


def vouched(
    files: Mapping[str, bytes], *, signers=(ACME,), vetter=LAB, level: int = 2, **record: Any
) -> dict[str, bytes]:
    """The files with releases by these keys and one vetting record."""
    manifest, digest = parse_manifest(files[MANIFEST]), manifest_digest(files[MANIFEST])
    record = {"vetted": present() - timedelta(days=1), **record}
    attested = {**release(manifest, digest, *signers), **vetting(manifest, digest, vetter, level=level, **record)}
    return {**files, **attested}


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below a folder as they are."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder
