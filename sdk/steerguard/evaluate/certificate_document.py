"""A certificate: how often an independent judge called an answer of a guarded model harmful, as an attestation. Data only.

The file is canonical JSON (RFC 8785), as other attestations are. It is not signed in this version: a signature belongs
into an envelope around these bytes, so no field waits for one. It holds counts and digests, never a text.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from steerguard.artifacts.attestation import TIME_PATTERN, Digest, Tool
from steerguard.artifacts.manifest import API_VERSION, Count, Sha256, Text
from steerguard.artifacts.paths import MAX_FILE_BYTES
from steerguard.artifacts.strict_json import validated
from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError
from steerguard.evaluate.proportions import clopper_pearson_upper

Share = Annotated[str, Field(pattern=r"^(?:0\.[0-9]{1,6}|1\.0{1,6})$")]
"""Decimal text from 0 to 1."""
Tally = Annotated[int, Field(ge=0, le=2**31 - 1)]
_PLACES = 6


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, validate_by_name=True
    )


class CertifiedModel(_Part):
    """The model that was guarded."""

    name: Text
    """What the command was given, without the folders above it; for people."""
    architecture: Text
    decoder: Text
    num_blocks: Count
    hidden_size: Count
    weights: Text
    """Floating point type of the weights."""
    weights_digest: Digest
    """Over names, types and bytes of all parameters."""
    tokenizer_sha256: Sha256 | None
    chat_template_sha256: Sha256 | None


class CertifiedPolicy(_Part):
    """The policy, and the plan that it became on this model."""

    name: Text
    version: Text
    digest: Digest
    plan_digest: Digest
    mode: Literal["enforce"]
    """A certificate of a policy that does not act would say nothing about it."""


class CertifiedArtifact(_Part):
    """One artifact of the plan."""

    reference: Text
    """`family/variant@version`."""
    type: Text
    digest: Digest


class CertifiedSubject(_Part):
    """What the statement is about."""

    model: CertifiedModel
    policy: CertifiedPolicy
    artifacts: tuple[CertifiedArtifact, ...]


class JudgeFacts(_Part):
    """What called answers harmful, and what it is worth on its own rows."""

    identity: Text
    """Features and version, and the digest of what it was trained on."""
    threshold: Share
    """Probability from which an answer counts as a violation."""
    rows: Literal["judge", "all"]
    """`judge`: only the rows that no cost model may use; `all`: every row of its file."""
    labelled_sha256: Sha256
    """Of the file of labelled answers."""
    harmless_sha256: Sha256 | None
    """Of the file of harmless answers; null without one."""
    labelled_n: Count
    """Distinct labelled answers."""
    auroc: Share
    """On whole answers of its own rows, out of fold."""
    auroc_beginning: Share
    """On their beginnings, about 32 tokens."""
    balanced_accuracy: Share
    balanced_accuracy_beginning: Share
    harmless_flagged: Share | None
    """Share of the harmless answers at or above the threshold, out of fold; null without any."""


class CertifiedDecoding(_Part):
    """How the answers were made."""

    mode: Literal["greedy", "sampling"]
    temperature: Text | None
    """Decimal text; null when greedy."""
    max_new_tokens: Count
    """Answers are cut there, and judged as far as they go."""
    batch_size: Count
    threads: Count
    device: Text
    seed: Tally
    """Of sampling, batch by batch."""


class CertifiedSet(_Part):
    """One file of prompts."""

    name: Text
    n: Count
    """Distinct prompts that were answered."""
    repeated: Tally
    """Prompts that were left out because they ask what an earlier one asks."""
    sha256: Digest
    """Digest of the answered conversations and prefills in order."""
    file_sha256: Sha256
    """Of the bytes of the file that they came from."""
    prefilled: bool
    """Whether the beginning of each answer was forced; it is judged together with what follows."""
    violations: Tally
    refusals: Tally


class Independence(_Part):
    """What keeps the judge and the prompts apart from what the guidance was trained on."""

    checked: tuple[Text, ...] = Field(min_length=1)
    not_checked: tuple[Text, ...] = Field(min_length=1)
    """What nobody could check here."""


class ViolationRate(_Part):
    """What the certificate says: the rate of such violations on prompts drawn like these is at most the bound."""

    n: Count
    """Distinct prompts, each answered once."""
    violations: Tally
    """Answers, refusals included, that the judge called harmful."""
    refusals: Tally
    """Answers that the policy replaced by a refusal."""
    violations_among_refusals: Tally
    """Refusals that the judge called harmful all the same, for example because of a forced beginning."""
    rate: Share
    """violations / n, to six decimals."""
    confidence: Share
    upper_bound: Share
    """One-sided Clopper-Pearson bound of the rate, rounded up."""
    bound: Literal["clopper_pearson_upper"] = "clopper_pearson_upper"
    sets: tuple[CertifiedSet, ...] = Field(min_length=1)
    judge: JudgeFacts
    decoding: CertifiedDecoding
    answers_sha256: Digest
    """Over set, position, digest of the answer's token ids and judged probability, answer by answer."""
    independence: Independence


class Certificate(_Part):
    """The document."""

    api_version: Literal["steerguard/v1alpha1"] = Field(default=API_VERSION, alias="apiVersion")
    """Version of this format."""
    kind: Literal["Attestation"] = "Attestation"
    """Kind of the document."""
    predicate_type: Literal["violation_rate"] = Field(default="violation_rate", alias="predicateType")
    """What is stated of the subject."""
    subject: CertifiedSubject
    predicate: ViolationRate
    tool: Tool = Tool()
    created: Annotated[str, Field(pattern=TIME_PATTERN)]
    """Time of the statement, UTC."""


def rate_text(count: int, n: int) -> str:
    """Return a rate to six decimals."""
    return f"{count / n:.{_PLACES}f}"


def upper_bound_text(count: int, n: int, confidence: str) -> str:
    """Return the Clopper-Pearson upper bound, rounded up to six decimals so that rounding never makes it smaller.

    Args:
        count: violations.
        n: prompts, at least 1.
        confidence: decimal text between 0 and 1.

    Raises:
        EvaluationError: the numbers are no count, or no confidence.
    """
    bound = clopper_pearson_upper(count, n, float(confidence))
    units: int = 10**_PLACES
    # Logarithms differ in the last bits between machines; what is a whole unit on one must not be one more on another.
    return f"{min(units, math.ceil(bound * units - 1e-6)) / units:.{_PLACES}f}"


def parse_certificate(content: bytes, *, where: str) -> Certificate:
    """Parse the bytes of a certificate and check its schema and its arithmetic.

    What cannot be checked from the file alone is whether the answers were what it says.

    Args:
        content: the bytes of the file.
        where: file name for messages.

    Raises:
        ArtifactFormatError: not canonical, breaks the schema, of another kind, or its numbers contradict themselves.
    """
    certificate = validated(Certificate, content, where=where, max_bytes=MAX_FILE_BYTES)
    stated = certificate.predicate
    names = [one.name for one in stated.sets]
    for field, expected, found in (
        ("n", sum(one.n for one in stated.sets), stated.n),
        ("violations", sum(one.violations for one in stated.sets), stated.violations),
        ("refusals", sum(one.refusals for one in stated.sets), stated.refusals),
        ("sets", sorted(set(names)), sorted(names)),
    ):
        _require(expected == found, field, expected, found, where)
    for n, *counts in ((one.n, one.violations, one.refusals) for one in stated.sets):
        _require(max(counts) <= n, "sets", "no more violations or refusals than prompts", max(counts), where)
    both = stated.violations_among_refusals
    most = min(stated.violations, stated.refusals)
    least = max(0, stated.violations + stated.refusals - stated.n)
    _require(least <= both <= most, "violations_among_refusals", f"{least} to {most}", both, where)
    _require(0.5 <= float(stated.confidence) < 1.0, "confidence", "at least 0.5 and below 1", stated.confidence, where)
    rate = rate_text(stated.violations, stated.n)
    _require(rate == stated.rate, "rate", rate, stated.rate, where)
    bound = upper_bound_text(stated.violations, stated.n, stated.confidence)
    _require(bound == stated.upper_bound, "upper_bound", bound, stated.upper_bound, where)
    return certificate


def certificate_bytes(certificate: Certificate) -> bytes:
    """Return the canonical bytes of a certificate."""
    return canonical_bytes(certificate.model_dump(mode="json", by_alias=True))


def _require(holds: bool, field: str, expected: object, found: object, where: str) -> None:
    if not holds:
        raise ArtifactFormatError(
            "The numbers of a certificate contradict each other.",
            where=f"{where}: predicate.{field}",
            expected=expected,
            found=found,
            next_step="Do not use it; measure again with steerguard certify.",
        )
