"""From untrusted bytes to a trusted manifest: everything that can be checked without making a tensor.

The order is fixed, and each step relies only on what the steps before it have established:

1. the manifest's bytes have the pinned digest;
2. the manifest parses, and its bytes are their own canonical form;
3. every listed file is there, no other file is, and each has the listed size and digest;
4. every safetensors header agrees with the manifest;
5. the calibration parses.

Signatures, vetting and revocation are judged before all of it, by digest: `steerguard.registry.sources` asks a judge first.
Files under `attestations/` lie outside the digest and are neither read nor trusted here.
Nothing here reads a file: bytes come in, so that the judgement can be tested without a file system.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath

from steerguard.artifacts.calibration import Calibration, parse_calibration
from steerguard.artifacts.contents import content_of, sha256_of, size_of
from steerguard.artifacts.header import check_header
from steerguard.artifacts.manifest import ArtifactManifest, manifest_digest, parse_manifest
from steerguard.artifacts.paths import (
    CALIBRATION,
    MANIFEST,
    MAX_FILES,
    check_distinct,
    check_path,
    is_pinned,
    size_limit,
)
from steerguard.errors import ArtifactError, ArtifactFormatError, ArtifactIntegrityError


@contextmanager
def located(where: str) -> Iterator[None]:
    """Say in every artifact error which artifact it is about: put `where` and a slash before the file that it names.

    A `Path` names its artifact already and is left alone.

    Args:
        where: `family/variant@version`, or the artifact's folder; empty changes nothing.
    """
    try:
        yield
    except ArtifactError as error:
        if not where or isinstance(error.where, PurePath):
            raise
        raise type(error)(
            error.summary,
            expected=error.expected,
            found=error.found,
            where=where if error.where is None else f"{where}/{error.where}",
            next_step=error.next_step,
        ) from error.__cause__


def check_integrity(
    files: Mapping[str, bytes], pinned_digest: str, *, where: str = ""
) -> tuple[ArtifactManifest, Calibration | None]:
    """Check the bytes of one artifact against the digest that it is pinned to.

    Args:
        files: content by relative POSIX path, `manifest.json` included. `ReadFiles` were hashed while they were read.
        pinned_digest: `sha256:<hex>` from an index, a lock or a plan.
        where: the artifact's name or folder for messages: they say `<where>/<file>`.

    Returns:
        The manifest, and the calibration where the artifact has one.

    Raises:
        ArtifactIntegrityError: bytes differ from what pins them, or files are missing.
        ArtifactFormatError: a name, document, header or value is not what the format allows.
    """
    with located(where):
        manifest = pinned_manifest(files.get(MANIFEST), pinned_digest)
        _check_files(manifest, files)
        for entry in manifest.files:
            if entry.tensors:
                check_header(content_of(files, entry.path), entry.tensors, where=entry.path)
        calibration = parse_calibration(files[CALIBRATION]) if CALIBRATION in files else None
    return manifest, calibration


def pinned_manifest(content: bytes | None, pinned_digest: str, *, where: str = "") -> ArtifactManifest:
    """Return the manifest that the digest pins: steps 1 and 2. `where` is as for `check_integrity`.

    Raises:
        ArtifactIntegrityError: the manifest is missing, or its bytes have another digest.
        ArtifactFormatError: the digest or the manifest is malformed.
    """
    with located(where):
        return _pinned_manifest(content, pinned_digest)


def _pinned_manifest(content: bytes | None, pinned_digest: str) -> ArtifactManifest:
    if re.fullmatch(r"sha256:[0-9a-f]{64}", pinned_digest) is None:
        raise ArtifactFormatError(
            "The pinned digest is malformed.",
            expected="sha256:<64 hexadecimal digits>",
            found=repr(pinned_digest[:100]),
        )
    if content is None:
        raise ArtifactIntegrityError("The artifact has no manifest.", where=MANIFEST, expected=pinned_digest)
    found = manifest_digest(content)
    if found != pinned_digest:
        raise ArtifactIntegrityError(
            "The manifest is not the one that was pinned.",
            where=MANIFEST,
            expected=pinned_digest,
            found=found,
            next_step="Fetch the artifact again; if the change is intended, publish it as a new version.",
        )
    return parse_manifest(content)


def _check_files(manifest: ArtifactManifest, files: Mapping[str, bytes]) -> None:
    """Step 3: names, completeness, sizes, digests."""
    if len(files) > 2 * MAX_FILES:
        raise ArtifactFormatError("The artifact has too many files.", expected=2 * MAX_FILES, found=len(files))
    for path in sorted(files):
        check_path(path)
    check_distinct(sorted(files))
    listed = manifest.file_entries
    extra = sorted(path for path in files if is_pinned(path) and path not in listed)
    if extra:
        raise ArtifactIntegrityError(
            f"Artifact {manifest.reference} holds files that its manifest does not list.",
            where=f"{MANIFEST}: files",
            found=", ".join(extra),
        )
    missing = sorted(set(listed) - set(files))
    if missing:
        raise ArtifactIntegrityError(
            f"Files of artifact {manifest.reference} are missing.",
            where=f"{MANIFEST}: files",
            expected=", ".join(missing),
            found="absent",
        )
    for path in sorted(set(files) - set(listed) - {MANIFEST}):
        if size_of(files, path) > size_limit(path):
            raise ArtifactFormatError(
                "A file is too large.", where=path, expected=size_limit(path), found=size_of(files, path)
            )
    _check_contents(manifest, files)


def _check_contents(manifest: ArtifactManifest, files: Mapping[str, bytes]) -> None:
    listed = manifest.file_entries
    for path, entry in listed.items():
        if size_of(files, path) != entry.size:
            raise ArtifactIntegrityError(
                "A file has another size.",
                where=path,
                expected=f"{entry.size} bytes",
                found=f"{size_of(files, path)} bytes",
            )
    for path, entry in listed.items():
        found = sha256_of(files, path)
        if found != entry.sha256:
            raise ArtifactIntegrityError("A file has another digest.", where=path, expected=entry.sha256, found=found)
