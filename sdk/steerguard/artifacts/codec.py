"""Writing an artifact folder from its parts: digests, sizes and tensor lists are filled in, and the result is verified."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from steerguard.artifacts.calibration import Calibration, calibration_bytes
from steerguard.artifacts.manifest import manifest_digest
from steerguard.artifacts.paths import BENCHMARKS, CALIBRATION, CARD, MANIFEST, RECIPE, check_path
from steerguard.artifacts.verify import verify_artifact
from steerguard.canonical import canonical_bytes, sha256_hex
from steerguard.errors import ArtifactError, ArtifactFormatError

_DTYPES: Mapping[str, str] = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}


def encode_artifact(
    manifest_fields: Mapping[str, Any],
    tensors_by_file: Mapping[str, Mapping[str, Tensor]],
    *,
    card: str,
    calibration: Calibration | None = None,
    benchmarks: Mapping[str, Any] | None = None,
    recipe: str | None = None,
) -> dict[str, bytes]:
    """Return the verified bytes of an artifact by path, `manifest.json` last; pure.

    Args:
        manifest_fields: the manifest without `files`, under the document's own key names.
        tensors_by_file: tensors by path (`weights/<name>.safetensors`) and name; float32, float16 or bfloat16.
        card: text of `README.md`.
        calibration: becomes `calibration.json`.
        benchmarks: JSON data of `benchmarks.json`.
        recipe: text of `recipe.yaml`.

    Raises:
        ArtifactFormatError: any part is not what the format allows.
    """
    if "files" in manifest_fields:
        raise ArtifactFormatError("The list of files is filled in here.", where="manifest_fields", found="files")
    files: dict[str, bytes] = {CARD: card.encode("utf-8")}
    listed: dict[str, dict[str, Any]] = {}
    for path, tensors in tensors_by_file.items():
        check_path(path)
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        listed[path] = {name: _entry(tensor, f"{path}: {name}") for name, tensor in plain.items()}
        files[path] = save(plain)
    if calibration is not None:
        files[CALIBRATION] = calibration_bytes(calibration)
    if benchmarks is not None:
        files[BENCHMARKS] = _canonical(benchmarks, BENCHMARKS)
    if recipe is not None:
        files[RECIPE] = recipe.encode("utf-8")
    entries = [
        {
            "path": path,
            "sha256": sha256_hex(content),
            "size": len(content),
            **({"tensors": listed[path]} if path in listed else {}),
        }
        for path, content in sorted(files.items())
    ]
    files[MANIFEST] = _canonical({**manifest_fields, "files": entries}, MANIFEST)
    verify_artifact(files, manifest_digest(files[MANIFEST]))
    return files


def write_artifact(
    folder: Path,
    manifest_fields: Mapping[str, Any],
    tensors_by_file: Mapping[str, Mapping[str, Tensor]],
    calibration: Calibration | None,
    benchmarks: Mapping[str, Any] | None,
    card: str,
    recipe: str | None,
) -> str:
    """Write an artifact into a new folder and return its digest `sha256:<hex>`.

    The arguments are those of `encode_artifact`; nothing is written unless the whole artifact verifies.

    Raises:
        ArtifactFormatError: any part is not what the format allows.
        ArtifactError: the folder exists already, or cannot be written; nothing is left behind.
    """
    files = encode_artifact(
        manifest_fields, tensors_by_file, card=card, calibration=calibration, benchmarks=benchmarks, recipe=recipe
    )
    write_new_folder(folder, files)
    return manifest_digest(files[MANIFEST])


def write_new_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of an artifact into a folder that does not exist yet: all of them or nothing.

    Raises:
        ArtifactError: the folder exists already, or cannot be written; nothing is left behind.
    """
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ArtifactError(
            "The folder for the artifact cannot be made.", where=folder, expected="a new folder", found=error.strerror
        ) from error
    try:
        for path, content in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ArtifactError("The artifact cannot be written.", where=folder, found=error.strerror) from error


def _entry(tensor: Tensor, where: str) -> dict[str, Any]:
    dtype = _DTYPES.get(str(tensor.dtype))
    if dtype is None:
        raise ArtifactFormatError(
            "A tensor has a type that artifacts do not hold.",
            where=where,
            expected=", ".join(_DTYPES),
            found=tensor.dtype,
        )
    return {"dtype": dtype, "shape": list(tensor.shape)}


def _canonical(data: Mapping[str, Any], where: str) -> bytes:
    try:
        return canonical_bytes(dict(data))
    except (ValueError, TypeError) as error:
        raise ArtifactFormatError("The data is not JSON.", where=where, found=str(error)[:200]) from error
