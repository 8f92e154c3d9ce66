"""What changed between two artifacts, in plain words: usually two versions of one variant.

Nothing here judges which of them is better, or whether either may be used; both are verified before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from steerguard.artifacts.calibration import Calibration
from steerguard.artifacts.compare_benchmarks import benchmark_changes
from steerguard.artifacts.compare_tensors import tensor_changes
from steerguard.artifacts.difference import Difference, about
from steerguard.artifacts.manifest import ArtifactManifest
from steerguard.artifacts.paths import BENCHMARKS, MAX_FILE_BYTES
from steerguard.artifacts.release import is_release
from steerguard.artifacts.strict_json import parse_canonical
from steerguard.artifacts.verify import VerifiedArtifact, verify_artifact
from steerguard.errors import CalibrationError
from steerguard.signing.dsse import parse_envelope

SHOWN_RATES = ("0.01", "0.02", "0.05", "0.1")
"""False-positive rates at which thresholds are compared."""

_PLAIN_FIELDS = ("type", "method", "method_version", "hook_point", "sign", "coefficient_unit", "license", "created")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparedArtifact:
    """One side of a comparison."""

    artifact: VerifiedArtifact
    benchmarks: Mapping[str, Any]
    """Data of `benchmarks.json`; empty where there is none."""
    signed_by: tuple[str, ...]
    """Ids of the keys that are said to have signed releases, sorted; no signature is verified here."""


def compared(files: Mapping[str, bytes], digest: str, *, where: str) -> ComparedArtifact:
    """Verify one artifact and return it as a side of a comparison.

    Args:
        files: content by relative POSIX path, attestations included.
        digest: `sha256:<hex>` of the manifest.
        where: name or folder, for messages.

    Raises:
        ArtifactIntegrityError: bytes differ from what pins them, or files are missing or extra.
        ArtifactFormatError: a name, document, header, tensor or value is not what the format allows.
        SignatureError: a release is no envelope.
    """
    artifact = verify_artifact(files, digest, where=where)
    benchmarks: dict[str, Any] = {}
    if BENCHMARKS in files:
        benchmarks = parse_canonical(files[BENCHMARKS], where=f"{where}/{BENCHMARKS}", max_bytes=MAX_FILE_BYTES)
    envelopes = [parse_envelope(files[path], where=f"{where}/{path}") for path in sorted(files) if is_release(path)]
    keys = {signature.keyid for envelope in envelopes for signature in envelope.signatures}
    return ComparedArtifact(artifact=artifact, benchmarks=benchmarks, signed_by=tuple(sorted(keys)))


def differences(a: ComparedArtifact, b: ComparedArtifact) -> tuple[Difference, ...]:
    """Return what changed from `a` to `b`, in the order in which a reader asks; empty when nothing did."""
    first, second = a.artifact, b.artifact
    return (
        *_identity(first.manifest, second.manifest),
        *_base(first.manifest, second.manifest),
        *_requirements(first.manifest, second.manifest),
        *_mappings("params", first.manifest.params, second.manifest.params),
        *tensor_changes(first, second),
        *_calibrations(first.calibration, second.calibration),
        *benchmark_changes(a.benchmarks, b.benchmarks),
        *_files(first.manifest, second.manifest),
        *_signers(a.signed_by, b.signed_by),
    )


def diff(a: ComparedArtifact, b: ComparedArtifact) -> tuple[str, ...]:
    """Return what changed from `a` to `b`, one sentence or line each; one that says so when nothing did."""
    found = differences(a, b)
    if found:
        return tuple(difference.line for difference in found)
    if a.artifact.digest == b.artifact.digest:
        return ("The artifacts are the same: their manifests have the same digest.",)
    return ("Nothing differs but what the manifests say beside all that is compared here.",)


@about("artifact")
def _identity(a: ArtifactManifest, b: ArtifactManifest) -> Iterator[str]:
    for field in ("family", "variant", "version", *_PLAIN_FIELDS):
        yield from _changed(field.replace("_", " "), getattr(a, field), getattr(b, field))
    if b.parent is not None and b.parent != a.parent:
        yield f"{b.reference} was derived from version {b.parent.version}: changed {b.parent.changed}."
    yield from _mapping_changes("other field", a.model_extra or {}, b.model_extra or {})


@about("base model")
def _base(a: ArtifactManifest, b: ArtifactManifest) -> Iterator[str]:
    for field in type(a.base).model_fields:
        yield from _changed(field.replace("_", " "), getattr(a.base, field), getattr(b.base, field))
    kinds_a, kinds_b = ({entry.weights: entry for entry in one.fingerprints} for one in (a, b))
    yield from _sets("fingerprint of weights", kinds_a, kinds_b)
    for kind in sorted(set(kinds_a) & set(kinds_b)):
        old, new = kinds_a[kind], kinds_b[kind]
        yield from _changed(f"fingerprint blocks ({kind})", list(old.blocks), list(new.blocks))
        yield from _changed(f"fingerprint limit ({kind})", old.max_one_minus_cos, new.max_one_minus_cos)


@about("requires")
def _requirements(a: ArtifactManifest, b: ArtifactManifest) -> Iterator[str]:
    yield from _changed("sdk", a.requires.sdk, b.requires.sdk)
    yield from _sets("feature", a.requires.features, b.requires.features)


def _mappings(subject: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    for text in _mapping_changes("setting", a, b):
        yield Difference(about=subject, text=text)


@about("calibration")
def _calibrations(a: Calibration | None, b: Calibration | None) -> Iterator[str]:
    if a is None or b is None:
        if a is not b:
            yield "calibration added." if a is None else "calibration removed."
        return
    if a == b:
        return
    yield from _changed("benign scores", a.n, b.n)
    yield from _changed("score", a.score, b.score)
    yield from _changed("source", a.source, b.source)
    for rate in SHOWN_RATES:
        yield from _changed(f"threshold at fpr {rate}", _threshold(a, rate), _threshold(b, rate))


def _threshold(calibration: Calibration, rate: str) -> str:
    try:
        return f"{calibration.threshold(rate):.6g}"
    except CalibrationError:
        return f"none ({calibration.n} benign scores bound {calibration.smallest_fpr} at least)"


@about("files")
def _files(a: ArtifactManifest, b: ArtifactManifest) -> Iterator[str]:
    old, new = a.file_entries, b.file_entries
    yield from _sets("file", old, new)
    for path in sorted(set(old) & set(new)):
        if old[path].sha256 != new[path].sha256:
            yield f"{path} changed: {old[path].size} → {new[path].size} bytes."


@about("signers")
def _signers(a: tuple[str, ...], b: tuple[str, ...]) -> Iterator[str]:
    yield from _sets("release signature said to be by", a, b)


def _changed(name: str, a: Any, b: Any) -> Iterator[str]:
    if a != b:
        yield f"{name}: {_shown(a)} → {_shown(b)}."


def _sets(name: str, a: Iterable[str], b: Iterable[str]) -> Iterator[str]:
    old, new = set(a), set(b)
    yield from (f"{name} added: {one}." for one in sorted(new - old))
    yield from (f"{name} removed: {one}." for one in sorted(old - new))


def _mapping_changes(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted({*a, *b}):
        if key not in a:
            yield f"{name} {key} added: {_shown(b[key])}."
        elif key not in b:
            yield f"{name} {key} removed; it was {_shown(a[key])}."
        else:
            yield from _changed(key, a[key], b[key])


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= 200 else f"{text[:200]}…"
