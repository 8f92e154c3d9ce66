"""The vetting record: what somebody measured of an artifact, with which suite, on which model, and the verdict.

It is an in-toto statement about the manifest and every weights file. It is signed by the vetter and lies outside the
digest, as `attestations/vetting.<key id>.<time>.json`. Levels: 0 parsed; 1 static checks and fingerprint; 2 an
evaluation suite; 3 a suite that was run independently, which only a key other than the publisher's can vouch for.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from steerguard.artifacts.attestation import Digest
from steerguard.artifacts.manifest import ArtifactManifest, Count, DecimalText, Identifier, Sha256, Text
from steerguard.artifacts.paths import ATTESTATIONS, is_weights
from steerguard.artifacts.strict_json import validated
from steerguard.artifacts.times import UtcTime, compact_time, parse_time
from steerguard.errors import ArtifactFormatError
from steerguard.signing.keys import KEY_TEXT_PATTERN
from steerguard.signing.statement import STATEMENT_TYPE, Statement, statement_bytes, subject

VETTING: Final = "urn:steerguard:vetting:v1"
MAX_VETTING_BYTES: Final = 512 * 1024
MAX_LEVEL: Final = 3
_PREFIX: Final = f"{ATTESTATIONS}/vetting."

CheckId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.-]*$", max_length=64)]
VettingLevel = Annotated[int, Field(ge=0, le=MAX_LEVEL)]

_CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class VettingSuiteId(BaseModel):
    """Which suite was run."""

    model_config = _CONFIG

    name: Text
    """Name of the suite."""
    version: Text
    """Version of the suite."""
    sha256: Sha256
    """Digest of the suite's document."""


class VettedModel(BaseModel):
    """The model that the artifact was run on."""

    model_config = _CONFIG

    repo: Text
    """Name of the model, for people."""
    weights: Identifier
    """Floating point type of the weights, for example `bfloat16`."""
    weights_digest: Digest | None
    """Digest of the weights; null where it was not taken."""
    tokenizer_sha256: Sha256
    """Digest of the tokenizer."""
    fingerprint_distance: DecimalText | None
    """Largest 1 - cos between the artifact's recorded directions and this model's; null where it was not taken."""


class VettingEnvironment(BaseModel):
    """What the suite ran on."""

    model_config = _CONFIG

    sdk: Text
    """Version of steerguard."""
    python: Text
    """Version of Python."""
    torch: Text
    """Version of torch."""
    transformers: Text
    """Version of transformers."""
    platform: Text
    """Operating system and processor."""
    threads: Count
    """Threads that torch used."""
    model: VettedModel | None
    """The model; may be null at level 0, where none is loaded."""


class StaticCheck(BaseModel):
    """One check that needs no generated text."""

    model_config = _CONFIG

    id: CheckId
    """Name of the check."""
    passed: bool
    """Whether the artifact passed it."""
    found: Text
    """What was found, for people."""


class VettingResult(BaseModel):
    """One measured figure."""

    model_config = _CONFIG

    id: CheckId
    """Name of the figure."""
    title: Text
    """What the figure is, for people."""
    set: Text
    """Name of the set of prompts, or of what else was measured."""
    n: Count
    """How many rows, or repetitions, the figure is over."""
    value: DecimalText
    """The figure."""
    low: DecimalText | None
    """Lower end of the interval; null, like `high`, where none was computed."""
    high: DecimalText | None
    """Upper end of the interval."""
    bar: Text | None
    """What the figure had to be, for example `<= 0.05`; null where it is only reported."""
    passed: bool | None
    """Whether the figure reached its bar; null where there is none."""
    unit: Text
    """Unit of value, ends and bar, for example `share`."""


class VettingRecord(BaseModel):
    """What the vetter says."""

    model_config = _CONFIG

    level: VettingLevel
    """What was done: 0 parsed, 1 static checks, 2 a suite, 3 a suite by somebody else than the publisher."""
    suite: VettingSuiteId | None
    """The suite that was run; may be null below level 2."""
    environment: VettingEnvironment
    """What the checks and the suite ran on."""
    static_checks: tuple[StaticCheck, ...] = Field(max_length=64)
    """Checks that need no generated text."""
    results: tuple[VettingResult, ...] = Field(max_length=1000)
    """What the suite measured."""
    verdict: Literal["pass", "fail"]
    """`pass` when every static check and every result with a bar passed."""
    conditions: tuple[Text, ...] = Field(max_length=64)
    """What the verdict holds for, for people."""
    vetted_by: Annotated[str, Field(pattern=KEY_TEXT_PATTERN)]
    """Public key of the vetter, `ed25519:<base64>`; the key that signed is what counts."""
    vetted_at: UtcTime
    """Time of the vetting, UTC."""
    expires_at: UtcTime
    """From this time on the record counts for nothing."""

    def expired(self, now: datetime) -> bool:
        """Return whether the record no longer counts."""
        return now >= parse_time(self.expires_at)


class VettingStatement(Statement[VettingRecord]):
    """The statement; its first subject is the manifest, the others are the weights files."""

    predicate_type: Literal["urn:steerguard:vetting:v1"] = Field(alias="predicateType")
    """What kind of statement it is."""

    @property
    def digest(self) -> str:
        """Digest of the artifact, `sha256:<hex>`."""
        return f"sha256:{self.subject[0].digest.sha256}"


def vetting_statement(manifest: ArtifactManifest, digest: str, record: VettingRecord) -> bytes:
    """Return the bytes of a vetting statement, ready to be signed as `STATEMENT`.

    Args:
        manifest: gives the subjects: the artifact and its weights files.
        digest: digest of the manifest's bytes.
        record: what was measured.

    Raises:
        ArtifactFormatError: the record contradicts itself, or a value is not what the format allows.
    """
    weights = [subject(entry.path, entry.sha256) for entry in manifest.files if is_weights(entry.path)]
    content = statement_bytes(
        VettingStatement.model_construct(
            type=STATEMENT_TYPE,
            subject=(subject(manifest.reference, digest), *weights),
            predicate_type=VETTING,
            predicate=record,
        )
    )
    parse_vetting(content, where="vetting statement")
    return content


def parse_vetting(content: bytes, *, where: str) -> VettingStatement:
    """Parse the payload of a vetting envelope; the signature is judged elsewhere.

    Raises:
        ArtifactFormatError: not canonical, breaks the schema, of another kind, or contradicts itself.
    """
    statement = validated(VettingStatement, content, where=where, max_bytes=MAX_VETTING_BYTES)
    foreign = [entry.name for entry in statement.subject[1:] if not is_weights(entry.name)]
    if foreign:
        raise ArtifactFormatError(
            "A vetting record is about one artifact and its weights.",
            where=f"{where}: subject",
            expected="the artifact, then weights files",
            found=", ".join(foreign)[:500],
        )
    check_record(statement.predicate, where=f"{where}: predicate")
    return statement


def check_record(record: VettingRecord, *, where: str) -> None:
    """Refuse a record whose parts contradict each other, or that lacks what its level promises.

    Raises:
        ArtifactFormatError: the first contradiction.
    """
    for index, result in enumerate(record.results):
        _check_result(result, where=f"{where}.results[{index}]")
    failed = [check.id for check in record.static_checks if not check.passed]
    failed += [result.id for result in record.results if result.passed is False]
    if (record.verdict == "pass") != (not failed):
        raise _contradiction(
            f"{where}.verdict",
            "pass exactly when nothing failed",
            f"{record.verdict}; failed: {', '.join(failed) or 'none'}"[:500],
        )
    if record.level >= 1 and (not record.static_checks or record.environment.model is None):
        raise _contradiction(f"{where}.level", "static checks and a model from level 1 on", record.level)
    if record.level >= 2 and (record.suite is None or all(result.bar is None for result in record.results)):
        raise _contradiction(f"{where}.level", "a suite and results with bars from level 2 on", record.level)
    if parse_time(record.expires_at) <= parse_time(record.vetted_at):
        raise _contradiction(f"{where}.expires_at", f"after {record.vetted_at}", record.expires_at)


def vetting_path(key_id: str, vetted_at: str) -> str:
    """Return the path of the envelope that this key signs, inside the artifact."""
    return f"{_PREFIX}{key_id}.{compact_time(vetted_at)}.json"


def is_vetting(path: str) -> bool:
    """Return whether a file of an artifact is a vetting envelope by its name."""
    return path.startswith(_PREFIX)


def _check_result(result: VettingResult, *, where: str) -> None:
    if (result.bar is None) != (result.passed is None):
        raise _contradiction(f"{where}.passed", "null exactly when there is no bar", str(result.passed))
    if (result.low is None) != (result.high is None):
        raise _contradiction(f"{where}.low", "both ends of the interval, or neither", f"{result.low}, {result.high}")
    if result.low is not None and result.high is not None and Decimal(result.low) > Decimal(result.high):
        raise _contradiction(f"{where}.low", f"at most {result.high}", result.low)


def _contradiction(where: str, expected: str, found: object) -> ArtifactFormatError:
    return ArtifactFormatError(
        "The vetting record contradicts itself.",
        where=where,
        expected=expected,
        found=found,
        next_step="Vet the artifact again with `steerguard vet`.",
    )
