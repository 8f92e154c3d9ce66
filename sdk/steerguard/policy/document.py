"""The policy document: what is wanted, as one frozen model.

Example::

    from steerguard.policy.load import load_policy

    policy = load_policy("harmlessness")
    policy.metadata.name, policy.digest
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from steerguard.canonical import digest
from steerguard.methods.catalog import METHODS
from steerguard.methods.section import ArtifactReferenceText, Identifier, Section
from steerguard.methods.spec import GuidanceSpec
from steerguard.policy.consistency import inconsistencies
from steerguard.policy.failure import Failure, UnrecognisedPrompt
from steerguard.policy.limits import AuditContent, Budget, Disclosure, Refusal, Streaming
from steerguard.policy.numbers import without_floats
from steerguard.policy.rule_documents import Outcome, Rule

API_VERSION = "steerguard/v1alpha1"
KIND = "GuidancePolicy"

Modality = Literal["text", "image", "audio", "video"]

if TYPE_CHECKING:
    GuidanceEntry = GuidanceSpec
else:
    # The union is built from the catalog, so that a new method is one line there.
    GuidanceEntry = Annotated[reduce(or_, (method.spec for method in METHODS)), Field(discriminator="method")]


class Metadata(Section):
    """Who and what the policy is; none of it changes what the guard does."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=64)]
    """Name in errors, decisions and the audit log; the file of a shipped policy carries the same name."""
    version: Annotated[
        str,
        StringConstraints(
            pattern=r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z][0-9A-Za-z.-]*)?$", max_length=64
        ),
    ]
    """Semantic version, three numbers, as text: `"1.0.0"`."""
    description: Annotated[str, Field(max_length=500)] = ""
    """One sentence on what the policy is for."""
    owner: Annotated[str, Field(max_length=100)] = ""
    """Who answers for the policy."""


class Target(Section):
    """Which models the policy is meant for."""

    modalities: Annotated[tuple[Modality, ...], Field(min_length=1)] = ("text",)
    """Inputs that the guard covers; a model that takes others is refused at plan time."""


class DetectorCalibration(Section):
    """Benign scores of one's own prompts, written by `steerguard calibrate`, in place of the artifact's own."""

    file: Annotated[str, Field(min_length=1, max_length=1000)]
    """Path of the attestation: absolute, or relative to the folder of the policy file; for a policy that was made in
    code, relative to the working directory."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """Digest of the file's bytes, 64 hexadecimal digits in quotes; a file with other bytes is refused."""


class ProbeDetector(Section):
    """A read-out of hidden states: one score per row, read once per request."""

    id: Identifier
    """Name by which rules refer to this detector; unique within the document."""
    type: Literal["linear_probe", "cosine"]
    """What the score is: `linear_probe` (linear in the hidden states) or `cosine` (the condition of CAST: the cosine of
    a hidden state with its projection on a condition direction)."""
    artifact: ArtifactReferenceText
    """Probe: an artifact family of type `probe`, of the same method as the detector's type, and a version range."""
    read: Annotated[
        Literal["generation_prompt_end"],
        Field(json_schema_extra={"x-cost": "one dot product per probed block and row, in the same prefill"}),
    ] = "generation_prompt_end"
    """Where the score is read: `generation_prompt_end`, the end of the last assistant header."""
    calibration: DetectorCalibration | None = None
    """Where thresholds given as `fpr` come from; left out: the calibration inside the artifact."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a document was read. Policies with the same document are equal: the files that it names are pinned."""

    folder: Path | None = field(compare=False)


class Policy(Section):
    """A guidance policy: detectors read the prompt, rules turn scores into an action, guidance carries it out."""

    api_version: Annotated[Literal["steerguard/v1alpha1"], Field(alias="apiVersion")]
    """Version of this document format: `steerguard/v1alpha1`."""
    kind: Literal["GuidancePolicy"]
    """Kind of document: `GuidancePolicy`."""
    metadata: Metadata
    """Name, version, description and owner."""
    mode: Annotated[
        Literal["enforce", "monitor"],
        Field(json_schema_extra={"x-cost": "`monitor` runs the detectors only"}),
    ] = "enforce"
    """`enforce` acts; `monitor` detects and records what it would have done, and changes nothing."""
    target: Target = Target()
    """Models that the policy may guard."""
    detectors: tuple[ProbeDetector, ...] = ()
    """What is read from the model; named, so that one type may appear twice."""
    guidance: tuple[GuidanceEntry, ...] = ()
    """Ways of guiding, each one method with its settings; the first is the innermost."""
    rules: tuple[Rule, ...] = ()
    """All rules are evaluated, the most restrictive outcome wins, order never matters."""
    default: Outcome = Outcome(action="allow")
    """Outcome when no rule matches, and the least that happens when one does: rules only tighten it."""
    budget: Budget = Budget()
    """Hard limits per request."""
    streaming: Streaming = Streaming()
    """When the text of a streamed answer is released."""
    refusal: Refusal = Refusal()
    """What a refused row holds."""
    unrecognised_prompt: UnrecognisedPrompt = "refuse"
    """What happens to a prompt without an assistant header: `refuse`, `gate_every_turn`, or a loosening."""
    failure: Failure = Failure()
    """What happens when a part of the guard fails."""
    disclosure: Disclosure = "code"
    """What a caller learns of a refusal: `none`, `code` or `category`; never the text that matched."""
    audit: AuditContent = AuditContent()
    """What the audit log keeps of prompts and answers."""
    _place: _Place = PrivateAttr(default_factory=lambda: _Place(None))

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        findings = inconsistencies(self)
        if findings:
            kind, template = "inconsistent", "{text}"
            text = "; ".join(f"{finding.message} ({finding.path})" for finding in findings)
            raise PydanticCustomError(kind, template, {"text": text, "findings": findings})
        return self

    def located_in(self, folder: Path) -> Policy:
        """Return the policy with paths in it read relative to a folder; the document and its digest stay the same."""
        if all(detector.calibration is None for detector in self.detectors):
            return self
        located = self.model_copy()
        located._place = _Place(folder)  # noqa: SLF001 - a copy of this class
        return located

    def path_of(self, file: str) -> Path:
        """Return where a file that the document names lies; relative to the working directory without a folder."""
        folder = self._place.folder
        return Path(file) if folder is None else folder / file

    def document(self) -> dict[str, Any]:
        """Return the effective document, defaults included, as JSON data; it loads to an equal policy."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @property
    def digest(self) -> str:
        """`sha256:<hex>` over the canonical effective document, with floats as decimal strings."""
        return digest(without_floats(self.document()))
