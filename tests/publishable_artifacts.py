"""Small artifacts that may be published, in folders: measured, described and really signed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tests.artifact_samples import sample_calibration, sample_fields, sample_files, sample_tensors

from steerguard.artifacts.card_metadata import card_metadata, with_front_matter
from steerguard.artifacts.codec import encode_artifact
from steerguard.artifacts.manifest import manifest_digest, parse_manifest
from steerguard.artifacts.paths import MANIFEST
from steerguard.artifacts.release import release_path, release_statement
from steerguard.artifacts.side_effects import KEY, measured_content, side_effects_of, side_effects_section
from steerguard.artifacts.times import time_text
from steerguard.signing.dsse import sign
from steerguard.signing.keys import SigningKey
from steerguard.signing.statement import STATEMENT

PUBLISHER = SigningKey(bytes([11]) * 32)
OTHER = SigningKey(bytes([12]) * 32)
ORGANISATION = "acme"
REPO = "acme/inferaligner_tiny"


def publishable_files(**changes) -> dict[str, bytes]:
    """Return the unsigned bytes of a sample artifact with measured side effects, by path."""
    fields, tensors = sample_fields(**changes), sample_tensors()
    manifest = parse_manifest(sample_files(**changes)[MANIFEST])
    section = {
        "content_digest": measured_content(manifest),
        "suite": {"name": "quick", "version": "1", "sha256": "3" * 64},
        "policy": "harmlessness",
        "max_new_tokens": 8,
        "sdk": "0.1",
        "figures": [_figure("over_refusal"), _figure("coherence"), _figure("overhead")],
    }
    effects = side_effects_of({KEY: section})
    assert effects is not None
    card = with_front_matter(
        f"# Tiny vectors\n\nRandom; for tests only.\n\n{side_effects_section(effects)}\n",
        card_metadata(manifest, effects),
    )
    return encode_artifact(
        fields, tensors, card=card, calibration=sample_calibration(), benchmarks={KEY: section}, recipe="seed: 7\n"
    )


def publishable_folder(folder: Path, *signers: SigningKey, **changes) -> Path:
    """Write a sample artifact, signed by these keys, and return its folder."""
    files = publishable_files(**changes)
    manifest, digest = parse_manifest(files[MANIFEST]), manifest_digest(files[MANIFEST])
    statement = release_statement(manifest, digest, "acme", time_text(datetime(2026, 11, 22, tzinfo=UTC)))
    for key in signers or (PUBLISHER,):
        files[release_path(key.public.id)] = sign(statement, STATEMENT, [key])
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def _figure(name: str) -> dict:
    return {
        "id": name, "title": name.replace("_", " "), "set": "benign, held out", "n": 40, "value": "1.0",
        "low": "0.9", "high": "1.1", "interval": "bootstrap", "weights": "float32", "hardware": "cpu, 1 thread",
    }  # fmt: skip
