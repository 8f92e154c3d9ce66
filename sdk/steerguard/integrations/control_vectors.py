"""Control vectors of other tools as artifacts, and artifacts of steering vectors as control vectors.

An imported artifact is marked as unvetted everywhere a reader may look: settings, manifest, figures and card. Nobody has
measured what it does, so it has no side-effect figures and cannot be published until somebody measures them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from steerguard.artifacts.card_metadata import card_metadata, with_front_matter
from steerguard.artifacts.codec import encode_artifact
from steerguard.artifacts.fingerprint import PROMPTS
from steerguard.artifacts.manifest import API_VERSION, ArtifactManifest
from steerguard.artifacts.verify import VerifiedArtifact
from steerguard.build.weight_types import in_weight_type
from steerguard.errors import ArtifactFormatError, IncompatibleModelError
from steerguard.guidance.vector_schedules import VECTORS_FILE
from steerguard.integrations.gguf_vectors import ControlVector, write_control_vector
from steerguard.methods.vector_steering import read_schedule
from steerguard.models.capture import measure_fingerprint
from steerguard.models.facts import ModelFacts
from steerguard.models.inspect import inspect_model

METHOD: Final = "fitted_refusal"
"""The method that adds one vector per block and reads nothing else of the artifact."""

UNVETTED: Final = "unvetted"
"""Setting of every imported artifact."""

_FINGERPRINT_LIMIT = "0.001"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedName:
    """What an imported artifact is called, and where it comes from; all of it is said by whoever imports."""

    family: str
    variant: str
    version: str
    license: str
    """SPDX expression of the file."""
    base_repo: str
    """Name of the model, for people."""
    source: str
    """Name of the file."""
    created: str
    """Time of the import, UTC, as `steerguard.artifacts.times.time_text` writes it."""


def import_control_vector(
    vector: ControlVector,
    model: Any,
    tokenizer: Any,
    name: ImportedName,
    *,
    weights: Sequence[str] = ("bfloat16", "float32"),
    strength: str = "1.0",
) -> dict[str, bytes]:
    """Return the files of an artifact that adds the control vector's directions, `manifest.json` last.

    Args:
        vector: what `read_control_vector` returned.
        model: the loaded model that the vector was made for; not changed.
        tokenizer: its tokenizer, with a chat template.
        name: what the artifact is called.
        weights: types of weights that the fingerprint is recorded for.
        strength: what coefficient 1.0 multiplies the directions by, as decimal text.

    Raises:
        IncompatibleModelError: the model has another width, too few blocks, or no tokenizer.
        ArtifactFormatError: a direction is not finite, all are zero, or a name is malformed.
    """
    facts = inspect_model(model, tokenizer)
    _check_fits(vector, facts)
    theta = torch.zeros(facts.num_blocks, facts.hidden_size)
    for block, direction in vector.directions.items():
        theta[block] = direction
    blocks = [block for block in vector.directions if bool(theta[block].any())]
    if not blocks:
        raise ArtifactFormatError("Every direction of the control vector is zero.", where=name.source)
    read = _fingerprint_blocks(facts.num_blocks)
    tensors: dict[str, dict[str, Tensor]] = {VECTORS_FILE: {"theta": theta}}
    for kind in weights:
        measured = measure_fingerprint(in_weight_type(model, kind), tokenizer, read, PROMPTS)
        tensors[_fingerprint_file(kind)] = {"directions": measured}
    fields = _manifest_fields(vector, facts, name, blocks=blocks, strength=strength, weights=weights, read=read)
    origin = {"file": name.source, "sha256": vector.sha256}
    # The card's front matter follows from the manifest, and the manifest pins the card: the first pass yields the manifest.
    draft = encode_artifact(fields, tensors, card=_card(vector, name, blocks, strength))
    metadata = card_metadata(ArtifactManifest.model_validate_json(draft["manifest.json"]), None)
    card = with_front_matter(_card(vector, name, blocks, strength), metadata)
    return encode_artifact(fields, tensors, card=card, benchmarks={"imported": {UNVETTED: True, **origin}})


def export_control_vector(artifact: VerifiedArtifact, file: Path) -> tuple[str, ...]:
    """Write the vectors of an artifact as a GGUF control vector whose scale 1.0 is the artifact's calibrated strength.

    Returns:
        What the file cannot say, one sentence each.

    Raises:
        ArtifactFormatError: no artifact of constant steering vectors, or it steers block 0.
        ArtifactError: the file exists or cannot be written.
        ContentError: the `gguf` package is not installed.
    """
    manifest = artifact.manifest
    tensors = artifact.tensors.get(VECTORS_FILE, {})
    if (
        manifest.type != "steering_vectors"
        or "theta" not in tensors
        or read_schedule(manifest.params).kind != "constant"
    ):
        raise ArtifactFormatError(
            f"Artifact {manifest.reference} cannot be written as a control vector.",
            expected="steering vectors that are the same at every step: one vector for each block",
            found=f"{manifest.type}, schedule {manifest.params.get('schedule', 'constant')}",
        )
    strength = float(manifest.params["strength"])
    theta = tensors["theta"].float()
    write_control_vector(
        file,
        {block: theta[block] * strength for block in manifest.params["blocks"]},
        model_hint=manifest.base.architecture.partition("For")[0].lower(),
        metadata={
            "general.name": manifest.reference,
            "general.license": manifest.license,
            "steerguard.digest": artifact.digest,
            "steerguard.base": manifest.base.repo,
        },
    )
    return tuple(_left_out(manifest))


def _left_out(manifest: ArtifactManifest) -> list[str]:
    notes = [
        "llama.cpp adds a control vector in every request: no detector decides when.",
        "The file is not signed, and nothing in it is checked against the model.",
    ]
    if manifest.params.get("positions", "all") != "all":
        notes.append(
            f"The artifact was calibrated at positions {manifest.params['positions']}; llama.cpp adds at every position."
        )
    if "gate.linear" in manifest.requires.features:
        notes.append("The gate of each block is left out: the vector is added whatever the hidden state says.")
    if "operator.ablate" in manifest.requires.features:
        notes.append("The ablation of the direction is left out: only the addition is written.")
    return notes


def _check_fits(vector: ControlVector, facts: ModelFacts) -> None:
    highest = max(vector.directions)
    if vector.width != facts.hidden_size or highest >= facts.num_blocks:
        raise IncompatibleModelError(
            "The control vector was made for another model.",
            expected=f"width {facts.hidden_size}, blocks 1 to {facts.num_blocks - 1}",
            found=f"width {vector.width}, blocks up to {highest}",
            next_step="Name the model that the control vector was made for.",
        )
    if facts.tokenizer_sha256 is None:
        raise IncompatibleModelError("An artifact is bound to a tokenizer.", expected="a tokenizer", found="none")


def _fingerprint_blocks(num_blocks: int) -> list[int]:
    """Return three blocks past the first third, evenly spread; fewer where the model has fewer."""
    late = [block for block in range(num_blocks) if 3 * block >= num_blocks]
    return late if len(late) < 4 else [late[len(late) * quarter // 4] for quarter in (1, 2, 3)]


def _fingerprint_file(weights: str) -> str:
    return f"weights/fingerprint.{weights}.safetensors"


def _manifest_fields(
    vector: ControlVector,
    facts: ModelFacts,
    name: ImportedName,
    *,
    blocks: list[int],
    strength: str,
    weights: Sequence[str],
    read: list[int],
) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "ArtifactManifest",
        "family": name.family,
        "variant": name.variant,
        "version": name.version,
        "type": "steering_vectors",
        "method": METHOD,
        "method_version": 1,
        "requires": {
            "sdk": ">=0.1",
            "features": ["gate.verdict", "hook.resid_post", "operator.add", "schedule.constant"],
        },
        "base": {
            "repo": name.base_repo,
            "source": name.base_repo,
            "architecture": facts.architecture,
            "decoder": facts.decoder,
            "num_blocks": facts.num_blocks,
            "hidden_size": facts.hidden_size,
            "vocab_size": facts.vocab_size,
            "tokenizer_sha256": facts.tokenizer_sha256,
            "chat_template_sha256": facts.chat_template_sha256,
        },
        "fingerprints": [
            {
                "weights": kind,
                "blocks": read,
                "prompts": len(PROMPTS),
                "file": _fingerprint_file(kind),
                "max_one_minus_cos": _FINGERPRINT_LIMIT,
            }
            for kind in weights
        ],
        "hook_point": "resid_post",
        "sign": "unknown: as the writer of the control vector chose it",
        "coefficient_unit": f"1.0 = {strength} times the directions of the file",
        "params": {"blocks": blocks, "positions": "all", "strength": strength, UNVETTED: True},
        "provenance": {
            "format": "GGUF control vector",
            "file": name.source,
            "sha256": vector.sha256,
            "metadata": dict(vector.metadata),
            "vetted": False,
        },
        "license": name.license,
        "created": name.created,
    }


def _card(vector: ControlVector, name: ImportedName, blocks: list[int], strength: str) -> str:
    said = "\n".join(f"- `{_plain(key)}`: {_plain(text)}" for key, text in vector.metadata.items())
    return f"""# {name.family} for {name.variant}: imported, unvetted

A control vector of another tool. Nobody has measured what it does, or what it does besides: treat it as unvetted until a
vetting statement says otherwise.

## Where it comes from

- file: `{_plain(name.source)}`
- sha256: `{vector.sha256}`
- model, as stated at import: {_plain(name.base_repo)}

What the file says about itself, which nothing confirms:

{said}

## What it does

Coefficient 1.0 adds {strength} times the file's direction at the output of blocks {", ".join(map(str, blocks))}, at every
position, where the policy's detector asks for it. The sign is the one of the file.

## Limits

- No benchmark, no side effects and no calibration.
- The fingerprint binds it to the model that it was imported for; whether it was made for that model is not known.
"""


def _plain(text: str) -> str:
    """Return a text of unknown origin on one line, without what Markdown would read as code or links."""
    return "".join(one if one.isprintable() and one not in "`[]<>|\\" else " " for one in text)[:200]
