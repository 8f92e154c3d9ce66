"""Verification of an artifact: bytes in, a verified artifact or an error out, never half of one.

`integrity` does all that needs no tensor, in the order written there; here the tensors are made and must be finite.
Whether the artifact fits a model is the next question, and `fit` and `fingerprint` answer it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from steerguard.artifacts.calibration import Calibration
from steerguard.artifacts.integrity import check_integrity, located
from steerguard.artifacts.manifest import ArtifactManifest
from steerguard.artifacts.paths import CARD
from steerguard.errors import ArtifactFormatError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VerifiedArtifact:
    """An artifact whose every byte is pinned and whose every tensor is as the manifest says."""

    manifest: ArtifactManifest
    digest: str
    """`sha256:<hex>` over the manifest's bytes."""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """Tensors on the CPU by file path, then by name."""
    calibration: Calibration | None
    card: str
    """Text of the card, Markdown."""


def verify_artifact(files: Mapping[str, bytes], pinned_digest: str, *, where: str = "") -> VerifiedArtifact:
    """Verify one artifact; pure.

    Args:
        files: content by relative POSIX path, `manifest.json` included.
        pinned_digest: `sha256:<hex>` of the manifest, from an index, a lock or a plan.
        where: the artifact's name or folder for messages: they say `<where>/<file>`. A pin's `reference` fits.

    Raises:
        ArtifactIntegrityError: bytes differ from what pins them, or files are missing or extra.
        ArtifactFormatError: a name, document, header, tensor or value is not what the format allows.
    """
    manifest, calibration = check_integrity(files, pinned_digest, where=where)
    with located(where):
        tensors = {
            entry.path: _finite_tensors(files[entry.path], entry.path) for entry in manifest.files if entry.tensors
        }
        card = _text(files[CARD])
    return VerifiedArtifact(
        manifest=manifest,
        digest=pinned_digest,
        tensors=MappingProxyType(tensors),
        calibration=calibration,
        card=card,
    )


def _text(card: bytes) -> str:
    try:
        return card.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactFormatError("The card is not UTF-8 text.", where=CARD, found=str(error.reason)) from error


def _finite_tensors(content: bytes, path: str) -> Mapping[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise ArtifactFormatError("The file is not safetensors.", where=path, found=str(error)[:200]) from error
    for name, tensor in sorted(tensors.items()):
        if not bool(torch.isfinite(tensor).all()):
            raise ArtifactFormatError(
                "A tensor holds NaN or infinity.",
                where=f"{path}: {name}",
                expected="finite values",
                found=f"{int((~torch.isfinite(tensor)).sum())} values that are not finite",
            )
    return MappingProxyType(tensors)
