"""Whether an artifact may be published: its side effects are measured, shown on the card, and in the card's front matter.

Bytes in, an error or nothing out. Integrity and signatures are judged elsewhere; this is about what a reader of the
card is owed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steerguard.artifacts.card_metadata import card_metadata, check_front_matter
from steerguard.artifacts.manifest import ArtifactManifest, parse_manifest
from steerguard.artifacts.paths import BENCHMARKS, CARD, MANIFEST, MAX_FILE_BYTES
from steerguard.artifacts.side_effects import (
    KEY,
    REQUIRED,
    SideEffects,
    measured_content,
    side_effects_of,
    side_effects_section,
)
from steerguard.artifacts.strict_json import parse_canonical
from steerguard.errors import ArtifactError, PublishRefusedError

_NEXT_STEP = "Measure them: steerguard vet ARTIFACT --measure-side-effects --new-version X.Y.Z --to FOLDER."


def require_publishable(files: Mapping[str, bytes]) -> None:
    """Refuse an artifact without measured side effects, or whose card does not show them.

    Args:
        files: content by relative POSIX path, `manifest.json` included.

    Raises:
        PublishRefusedError: names each missing figure, or what the card lacks.
    """
    try:
        manifest = parse_manifest(_present(files, MANIFEST))
        effects = _effects(manifest, files)
        card = _present(files, CARD).decode("utf-8")
        check_front_matter(card, card_metadata(manifest, effects))
    except UnicodeDecodeError as error:
        raise PublishRefusedError("The card is not UTF-8 text.", where=CARD, found=error.reason) from error
    except ArtifactError as error:
        raise PublishRefusedError(
            error.summary,
            where=error.where,
            expected=error.expected,
            found=error.found,
            next_step=error.next_step or _NEXT_STEP,
        ) from error
    if side_effects_section(effects) not in card.replace("\r\n", "\n"):
        raise PublishRefusedError(
            f"The card of {manifest.reference} does not show the measured side effects.",
            where=CARD,
            expected=f"the section `Side effects`, as it is made from {BENCHMARKS}",
            found="another text, or none",
            next_step=_NEXT_STEP,
        )


def _effects(manifest: ArtifactManifest, files: Mapping[str, bytes]) -> SideEffects:
    benchmarks: dict[str, Any] = {}
    if BENCHMARKS in files:
        benchmarks = parse_canonical(files[BENCHMARKS], where=BENCHMARKS, max_bytes=MAX_FILE_BYTES)
    effects = side_effects_of(benchmarks)
    missing = REQUIRED if effects is None else effects.missing
    if effects is None or missing:
        raise PublishRefusedError(
            f"Artifact {manifest.reference} says nothing about side effects that must be measured.",
            where=f"{BENCHMARKS}: {KEY}",
            expected=", ".join(REQUIRED),
            found=f"missing: {', '.join(missing)}",
            next_step=_NEXT_STEP,
        )
    found = measured_content(manifest)
    if effects.content_digest != found:
        raise PublishRefusedError(
            f"The side effects of {manifest.reference} were measured on other tensors or settings.",
            where=f"{BENCHMARKS}: {KEY}.content_digest",
            expected=found,
            found=effects.content_digest,
            next_step=_NEXT_STEP,
        )
    return effects


def _present(files: Mapping[str, bytes], path: str) -> bytes:
    if path not in files:
        raise PublishRefusedError("A file of the artifact is missing.", where=path, expected=path, found="absent")
    return files[path]
