"""A new version of an artifact that differs from its parent in the calibration alone; pure, bytes in and bytes out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from steerguard.artifacts.calibration import Calibration, calibration_bytes
from steerguard.artifacts.integrity import check_integrity
from steerguard.artifacts.manifest import manifest_digest
from steerguard.artifacts.paths import BENCHMARKS, CALIBRATION, CARD, MANIFEST, is_pinned
from steerguard.artifacts.versions import parse_version
from steerguard.canonical import canonical_bytes, sha256_hex
from steerguard.errors import ArtifactFormatError

_FRONT_MATTER = "---\n"


def recalibrated(
    files: Mapping[str, bytes], digest: str, calibration: Calibration, *, version: str, created: str, note: str
) -> dict[str, bytes]:
    """Return the verified bytes of the new version by path; tensors and recipe are the parent's bytes.

    The parent's attestations are about the parent and stay behind. Its benchmarks are kept below `parent`, because
    rates at a threshold were measured with the parent's calibration.

    Args:
        files: every file of the parent.
        digest: the parent's digest.
        calibration: what replaces the parent's.
        version: of the new artifact; higher than the parent's.
        created: time, UTC, as manifests spell it.
        note: sentences for the card, Markdown.

    Raises:
        ArtifactFormatError: the parent has no calibration to replace, or the version is not higher.
        ArtifactIntegrityError: the parent is damaged.
    """
    manifest, parent_calibration = check_integrity(files, digest)
    if parent_calibration is None:
        raise ArtifactFormatError(
            "Only an artifact with a calibration can be calibrated again.",
            where=manifest.reference,
            expected=CALIBRATION,
            found=f"type {manifest.type} without one",
        )
    if not parse_version(version) > parse_version(manifest.version):
        raise ArtifactFormatError(
            "The version of a new calibration must be higher than that of the artifact.",
            where=manifest.reference,
            expected=f"above {manifest.version}",
            found=version,
            next_step="Artifacts never change: choose a higher version, for example the next minor number.",
        )
    parent = {"version": manifest.version, "digest": digest, "changed": "calibration"}
    content = {path: data for path, data in files.items() if is_pinned(path)}
    content[CALIBRATION] = calibration_bytes(calibration)
    content[CARD] = _card(files[CARD].decode("utf-8"), parent, version, note).encode("utf-8")
    if BENCHMARKS in content:
        old = {"digest": digest, "benchmarks": json.loads(content[BENCHMARKS])}
        content[BENCHMARKS] = canonical_bytes({"parent": old})
    fields: dict[str, Any] = {
        **json.loads(files[MANIFEST]),
        "version": version,
        "created": created,
        "parent": parent,
        "files": [
            {
                **entry.model_dump(mode="json", exclude_unset=True),
                "sha256": sha256_hex(content[entry.path]),
                "size": len(content[entry.path]),
            }
            for entry in manifest.files
        ],
    }
    content[MANIFEST] = canonical_bytes(fields)
    check_integrity(content, manifest_digest(content[MANIFEST]))
    return content


def _card(card: str, parent: Mapping[str, str], version: str, note: str) -> str:
    """Return the parent's card with a section on what is new before everything but the front matter."""
    head, body = "", card
    if card.startswith(_FRONT_MATTER) and (end := card.find(f"\n{_FRONT_MATTER}", len(_FRONT_MATTER))) >= 0:
        cut = end + 1 + len(_FRONT_MATTER)
        head, body = f"{card[:cut]}\n", card[cut:].lstrip("\n")
    return (
        f"{head}> **Version {version}: a new calibration of version {parent['version']}** (`{parent['digest']}`).\n"
        "> Tensors, settings and recipe are the same bytes.\n"
        f"> {note}\n"
        "> The text and every figure below were written for the parent: rates at a threshold do not hold here.\n\n"
        f"{body}"
    )
