"""Small artifacts for tests, built with the real codec, and ways to tamper with their bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from steerguard.artifacts.calibration import Calibration, calibration_from_scores
from steerguard.artifacts.codec import encode_artifact
from steerguard.artifacts.manifest import manifest_digest
from steerguard.artifacts.paths import MANIFEST
from steerguard.canonical import canonical_bytes, sha256_hex
from steerguard.models.facts import ModelFacts

NUM_BLOCKS, WIDTH, PROMPT_COUNT = 6, 8, 4
FINGERPRINT_BLOCKS = (2, 3, 5)
VECTORS, FINGERPRINT = "weights/vectors.safetensors", "weights/fingerprint.safetensors"
TOKENIZER, TEMPLATE = "1" * 64, "2" * 64


def sample_facts(**changes: Any) -> ModelFacts:
    """Facts of the model that the sample artifacts are bound to."""
    fields: dict[str, Any] = {
        "architecture": "LlamaForCausalLM",
        "decoder": "LlamaModel",
        "num_blocks": NUM_BLOCKS,
        "hidden_size": WIDTH,
        "vocab_size": 320,
        "modalities": ("text",),
        "dtype": "float32",
        "tokenizer_sha256": TOKENIZER,
        "chat_template_sha256": TEMPLATE,
        "name": "tiny",
    }
    return ModelFacts(**(fields | changes))


def sample_fields(**changes: Any) -> dict[str, Any]:
    """A manifest without its list of files."""
    fields: dict[str, Any] = {
        "apiVersion": "steerguard/v1alpha1",
        "kind": "ArtifactManifest",
        "family": "inferaligner",
        "variant": "tiny",
        "version": "1.0.0",
        "type": "steering_vectors",
        "method": "inferaligner",
        "method_version": 1,
        "requires": {"sdk": ">=0.1", "features": ["schedule.constant", "operator.add", "hook.resid_post"]},
        "base": {
            "repo": "example/tiny",
            "source": "random weights",
            "architecture": "LlamaForCausalLM",
            "decoder": "LlamaModel",
            "num_blocks": NUM_BLOCKS,
            "hidden_size": WIDTH,
            "vocab_size": 320,
            "tokenizer_sha256": TOKENIZER,
            "chat_template_sha256": TEMPLATE,
        },
        "fingerprints": [
            {
                "weights": "float32",
                "blocks": list(FINGERPRINT_BLOCKS),
                "prompts": PROMPT_COUNT,
                "file": FINGERPRINT,
                "max_one_minus_cos": "0.001",
            }
        ],
        "hook_point": "resid_post",
        "params": {"blocks": [3, 4], "strength": "0.5", "positions": "all"},
        "license": "apache-2.0",
        "created": "2026-11-22T00:00:00Z",
    }
    return fields | changes


def sample_tensors() -> dict[str, dict[str, torch.Tensor]]:
    """Random vectors and unit fingerprint directions, the same on every call."""
    generator = torch.Generator().manual_seed(7)
    directions = torch.randn(PROMPT_COUNT, len(FINGERPRINT_BLOCKS), WIDTH, generator=generator)
    return {
        VECTORS: {
            "theta": torch.randn(NUM_BLOCKS, WIDTH, generator=generator),
            "gate_bias": torch.randn(NUM_BLOCKS, generator=generator),
        },
        FINGERPRINT: {"directions": torch.nn.functional.normalize(directions, dim=-1)},
    }


def sample_calibration() -> Calibration:
    """Nineteen benign scores: 0.05 is the smallest rate that they bound."""
    return calibration_from_scores([value / 4 for value in range(-9, 10)], score="mean margin", source="test")


def sample_files(**changes: Any) -> dict[str, bytes]:
    """The verified bytes of one artifact by path."""
    return encode_artifact(
        sample_fields(**changes),
        sample_tensors(),
        card="# Tiny vectors\n\nRandom; for tests only.\n",
        calibration=sample_calibration(),
        benchmarks={"ms_per_token": "0.1"},
        recipe="seed: 7\n",
    )


def digest_of(files: dict[str, bytes]) -> str:
    """The digest that the manifest's bytes have now."""
    return manifest_digest(files[MANIFEST])


def edited_manifest(files: dict[str, bytes], edit: Any) -> dict[str, bytes]:
    """Apply `edit` to the parsed manifest and write it back canonically."""
    data = json.loads(files[MANIFEST])
    edit(data)
    return files | {MANIFEST: canonical_bytes(data)}


def resealed(files: dict[str, bytes]) -> dict[str, bytes]:
    """Make sizes and digests in the manifest true again, so that only the deeper checks can object."""

    def edit(data: dict[str, Any]) -> None:
        for entry in data["files"]:
            if entry["path"] in files:
                entry["size"] = len(files[entry["path"]])
                entry["sha256"] = sha256_hex(files[entry["path"]])

    return edited_manifest(files, edit)


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """Write the bytes below a folder as they are."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder
