"""A new version of an artifact that says what it costs benign users: figures, card section, front matter."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from steerguard.artifacts.card_metadata import card_metadata, with_front_matter
from steerguard.artifacts.integrity import check_integrity
from steerguard.artifacts.manifest import manifest_digest, parse_manifest
from steerguard.artifacts.paths import BENCHMARKS, CARD, MANIFEST, is_pinned
from steerguard.artifacts.publishable import require_publishable
from steerguard.artifacts.side_effects import (
    KEY,
    REQUIRED,
    FigureId,
    SideEffectFigure,
    SideEffects,
    SuiteName,
    measured_content,
    side_effects_section,
)
from steerguard.artifacts.versions import parse_version
from steerguard.canonical import canonical_bytes, sha256_hex
from steerguard.errors import ArtifactFormatError, EvaluationError
from steerguard.vetting.figures import TITLES, MeasuredFigure
from steerguard.vetting.load_suite import LoadedSuite
from steerguard.vetting.overlay import VettedArtifact
from steerguard.vetting.record import decimal, hardware
from steerguard.vetting.run import Vetted

CHANGED = "side effects"
_SECTION = re.compile(r"^## Side effects\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_VERSION_LINE = re.compile(r"^- Version \d+\.\d+\.\d+,", re.MULTILINE)


def side_effects_found(vetted: Vetted, artifact: VettedArtifact, suite: LoadedSuite) -> SideEffects:
    """Return the side effects as the artifact is to state them.

    They are those of the set of benign prompts on which the suite also compares seconds.

    Raises:
        EvaluationError: a required figure could not be measured, or a static check failed.
    """
    name = suite.suite.overhead.set
    found = {figure.name: figure for figure in vetted.figures if figure.set == name}
    missing = [metric for metric in REQUIRED if metric not in found]
    model = vetted.environment.model
    if missing or vetted.policy is None or model is None:
        failed = [f"{check.id}: {check.found}" for check in vetted.static.checks if not check.passed]
        raise EvaluationError(
            "The side effects of the artifact could not be measured.",
            where=artifact.manifest.reference,
            expected=", ".join(REQUIRED),
            found=f"missing: {', '.join(missing)}" if not failed else "; ".join(failed),
        )
    meta = suite.suite.metadata
    return SideEffects(
        content_digest=measured_content(artifact.manifest),
        suite=SuiteName(name=meta.name, version=meta.version, sha256=suite.sha256),
        policy=vetted.policy.metadata.name,
        max_new_tokens=suite.suite.settings.max_new_tokens,
        sdk=vetted.environment.sdk,
        figures=tuple(
            _figure(found[metric], metric, suite.suite.set(name).title, model.weights, hardware(vetted.environment))
            for metric in REQUIRED
        ),
    )


def with_side_effects(
    artifact: VettedArtifact, effects: SideEffects, *, version: str, created: str
) -> dict[str, bytes]:
    """Return the verified bytes of the new version by path; everything but card and benchmarks is the parent's bytes.

    The parent's attestations are about the parent and stay behind.

    Args:
        artifact: the parent.
        effects: what was measured of it.
        version: of the new artifact: a higher PATCH version of the parent's MAJOR and MINOR.
        created: time, UTC, as manifests spell it.

    Raises:
        ArtifactFormatError: the version is not such a one, or the parent's card or benchmarks cannot be extended.
        ArtifactIntegrityError: the parent is damaged.
    """
    manifest, _ = check_integrity(artifact.files, artifact.digest)
    check_patch_version(version, manifest.version)
    content = {path: artifact.files[path] for path in artifact.files if is_pinned(path)}
    benchmarks = json.loads(content[BENCHMARKS]) if BENCHMARKS in content else {}
    stated = effects.model_dump(mode="json")
    content[BENCHMARKS] = canonical_bytes({**benchmarks, KEY: stated})
    fields: dict[str, Any] = {
        **json.loads(artifact.files[MANIFEST]),
        "version": version,
        "created": created,
        "parent": {"version": manifest.version, "digest": artifact.digest, "changed": CHANGED},
    }
    before = {entry.path: entry.model_dump(mode="json", exclude_unset=True) for entry in manifest.files}
    # Twice: the card's front matter is made from the manifest, and the manifest pins the card.
    content[MANIFEST] = _manifest(fields, before, content)
    described = card_metadata(parse_manifest(content[MANIFEST]), effects)
    content[CARD] = with_front_matter(_card(artifact, effects, version), described).encode("utf-8")
    content[MANIFEST] = _manifest(fields, before, content)
    check_integrity(content, manifest_digest(content[MANIFEST]))
    require_publishable(content)
    return content


def check_patch_version(version: str, parent: str) -> None:
    """Refuse a version that is not a higher PATCH of the parent's MAJOR and MINOR: only texts change.

    Raises:
        ArtifactFormatError: names what would be right.
    """
    new, old = parse_version(version), parse_version(parent)
    if new[:2] != old[:2] or new <= old:
        raise ArtifactFormatError(
            "Measured side effects change texts only, so they make a new PATCH version.",
            where="--new-version",
            expected=f"{old[0]}.{old[1]}.{old[2] + 1}, or higher in the last number",
            found=version,
        )


def _figure(figure: MeasuredFigure, metric: FigureId, title: str, weights: str, measured_on: str) -> SideEffectFigure:
    return SideEffectFigure(
        id=metric,
        title=TITLES[metric],
        set=title,
        n=figure.n,
        value=decimal(figure.value),
        low=decimal(figure.low),
        high=decimal(figure.high),
        interval=figure.interval,
        weights=weights,
        hardware=measured_on,
    )


def _manifest(
    fields: Mapping[str, Any], before: Mapping[str, Mapping[str, Any]], content: Mapping[str, bytes]
) -> bytes:
    listed = [
        {
            **before.get(path, {}),
            "path": path,
            "sha256": sha256_hex(content[path]),
            "size": len(content[path]),
        }
        for path in sorted(content)
        if is_pinned(path)
    ]
    return canonical_bytes({**fields, "files": listed})


def _card(artifact: VettedArtifact, effects: SideEffects, version: str) -> str:
    """Return the parent's card with the new version and the section on side effects, which replaces an older one."""
    try:
        card = artifact.files[CARD].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactFormatError("The card is not UTF-8 text.", where=CARD, found=error.reason) from error
    card = _VERSION_LINE.sub(f"- Version {version},", card.replace("\r\n", "\n"), count=1)
    section = side_effects_section(effects) + "\n\n"
    without = _SECTION.sub("", card)
    limits = without.find("\n## Limits\n")
    if limits < 0:
        return f"{without.rstrip()}\n\n{section.rstrip()}\n"
    return f"{without[: limits + 1]}{section}{without[limits + 1 :]}"
