"""Verification of an artifact: bytes in, a verified artifact or an error out, never half of one.

`integrity` does all that needs no tensor, in the order written there; here the tensors are made and must be finite.
Whether the artifact fits a model is the next question, and `fit` and `fingerprint` answer it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from steerguard.artifacts.calibration import Calibration
from steerguard.artifacts.contents import Content, content_of
from steerguard.artifacts.header import check_header
from steerguard.artifacts.integrity import check_integrity, located
from steerguard.artifacts.manifest import ArtifactManifest, FileEntry
from steerguard.artifacts.paths import CARD
from steerguard.errors import ArtifactFormatError

_DTYPES: Mapping[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SUMMED_VALUES = 1 << 20
"""Values that are added up at once: where one sum is not finite, no more than these are looked at one by one."""


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
        files: content by relative POSIX path, `manifest.json` included. The large files among `ReadFiles` are not copied:
            the tensors share their memory, which stays as long as any of them does.
        pinned_digest: `sha256:<hex>` of the manifest, from an index, a lock or a plan.
        where: the artifact's name or folder for messages: they say `<where>/<file>`. A pin's `reference` fits.

    Raises:
        ArtifactIntegrityError: bytes differ from what pins them, or files are missing or extra.
        ArtifactFormatError: a name, document, header, tensor or value is not what the format allows.
    """
    manifest, calibration = check_integrity(files, pinned_digest, where=where)
    with located(where):
        tensors = {
            entry.path: _finite_tensors(content_of(files, entry.path), entry)
            for entry in manifest.files
            if entry.tensors
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


def _finite_tensors(content: Content, entry: FileEntry) -> Mapping[str, Tensor]:
    """Return the tensors of one file; a large file is not copied, so its tensors share its memory."""
    tensors = _loaded(content, entry.path) if isinstance(content, bytes) else _viewed(content, entry)
    for name, tensor in sorted(tensors.items()):
        _require_finite(tensor, where=f"{entry.path}: {name}")
    return MappingProxyType(tensors)


def _loaded(content: bytes, path: str) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise ArtifactFormatError("The file is not safetensors.", where=path, found=str(error)[:200]) from error
    return tensors


def _viewed(content: memoryview, entry: FileEntry) -> dict[str, Tensor]:
    expected = entry.tensors or {}
    tensors: dict[str, Tensor] = {}
    # The view is read-only towards everyone else; torch wants the memory behind it.
    memory = torch.frombuffer(content.obj, dtype=torch.uint8, count=len(content))
    for name, (start, end) in check_header(content, expected, where=entry.path).items():
        dtype = _DTYPES[expected[name].dtype]
        data = memory[start:end]
        if (memory.data_ptr() + start) % dtype.itemsize:
            data = data.clone()
        tensors[name] = data.view(dtype).reshape(expected[name].shape)
    return tensors


def _require_finite(tensor: Tensor, *, where: str) -> None:
    """Refuse NaN and infinity: each makes a sum not finite, so values are looked at only where a sum is not finite.

    A sum of finite values may overflow; then none of them is found.
    """
    parts = torch.split(tensor.flatten(), _SUMMED_VALUES)
    doubtful = [part for part in parts if not math.isfinite(float(part.sum()))]
    bad = sum(int((~torch.isfinite(part)).sum()) for part in doubtful)
    if bad:
        raise ArtifactFormatError(
            "A tensor holds NaN or infinity.",
            where=where,
            expected="finite values",
            found=f"{bad} values that are not finite",
        )
