"""The manifest: what an artifact is, which model it is bound to, and the digest of every file in it.

`sha256` over the bytes of `manifest.json` is the digest of the artifact.
Keys that this version does not know are kept, so that writing a manifest again does not change its digest; what must be
understood stands in `requires.features`, and an unknown entry there refuses.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import BaseModel, ConfigDict, Field

from steerguard.artifacts.paths import (
    CARD,
    MANIFEST,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    MAX_WEIGHTS_BYTES,
    check_distinct,
    check_path,
    is_pinned,
    is_weights,
    size_limit,
)
from steerguard.artifacts.reference import NAME_MAX_LENGTH, NAME_PATTERN
from steerguard.artifacts.strict_json import validated
from steerguard.artifacts.versions import VERSION_PATTERN
from steerguard.canonical import canonical_bytes, sha256_hex
from steerguard.errors import ArtifactFormatError
from steerguard.version import __version__

API_VERSION: Final = "steerguard/v1alpha1"

ArtifactType = Literal[
    "steering_vectors", "probe", "null_space_map", "polytope", "critic", "cost_model", "multifurcation_critic"
]
TensorType = Literal["F32", "F16", "BF16"]

KNOWN_FEATURES: frozenset[str] = frozenset(
    {
        "schedule.constant",
        "schedule.by_phase",
        "schedule.by_step",
        "gate.linear",
        "gate.verdict",
        "operator.add",
        "operator.ablate",
        "operator.clamp",
        "operator.affine",
        "probe.linear",
        "probe.answer",
        "probe.cosine",
        "probe.prompt_mean",
        "hook.resid_pre",
        "hook.resid_post",
        "calibration.split_conformal",
        "cost.response_states",
        "cost.sequence_classifier",
        "cost.guardian_logits",
        "cost.embedding_head",
        "critic.safety_value",
    }
)
"""What this version of the SDK can do for an artifact that requires it."""

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=NAME_MAX_LENGTH)]
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Text = Annotated[str, Field(min_length=1, max_length=2000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
DecimalText = Annotated[str, Field(pattern=r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,3})?$", max_length=40)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
BlockIndex = Annotated[int, Field(ge=0, le=100_000)]

_CONFIG = ConfigDict(extra="allow", strict=True, frozen=True, use_attribute_docstrings=True)


class Requirements(BaseModel):
    """What the reader of the artifact must be able to do."""

    model_config = _CONFIG

    sdk: Text
    """Version specifier (PEP 440) of the SDK, for example `>=0.1`."""
    features: tuple[Text, ...] = Field(min_length=1)
    """Features that must be known; an unknown one refuses the artifact."""


class BaseModelBinding(BaseModel):
    """The model that the artifact was made for."""

    model_config = _CONFIG

    repo: Text
    """Name of the model, for people; never compared."""
    source: Text
    """Where the weights came from, for people; never compared."""
    architecture: Text
    """Class of the model, for people: a multimodal model may share its decoder with a text model."""
    decoder: Text
    """Class of the text decoder, for example `LlamaModel`."""
    num_blocks: Count
    """Number of decoder blocks."""
    hidden_size: Count
    """Width of the residual stream."""
    vocab_size: Count
    """Rows of the embedding, for people: padding the embedding does not change the residual stream."""
    tokenizer_sha256: Sha256
    """Digest of the tokenizer."""
    chat_template_sha256: Sha256 | None
    """Digest of the chat template; null when the model has none."""


class FingerprintEntry(BaseModel):
    """Recorded residual directions of one kind of weights: the functional identity of the base model."""

    model_config = _CONFIG

    weights: Identifier
    """Floating point type of the weights, for example `bfloat16`."""
    blocks: tuple[BlockIndex, ...] = Field(min_length=1)
    """Decoder blocks whose output was read, ascending."""
    prompts: Annotated[int, Field(ge=4, le=1000)]
    """How many of the fixed prompts were read."""
    file: Text
    """Path of the file that holds `directions` (F32, prompts by blocks by width)."""
    max_one_minus_cos: DecimalText
    """Largest accepted 1 - cos between recorded and measured directions."""


class TensorEntry(BaseModel):
    """What one tensor must be."""

    model_config = _CONFIG

    dtype: TensorType
    """Type name as safetensors spells it."""
    shape: tuple[Count, ...] = Field(min_length=1, max_length=8)
    """Sizes of all axes."""


class FileEntry(BaseModel):
    """One file of the artifact."""

    model_config = _CONFIG

    path: Text
    """Relative POSIX path."""
    sha256: Sha256
    """Digest of the bytes."""
    size: Annotated[int, Field(ge=0, le=MAX_WEIGHTS_BYTES)]
    """Number of bytes."""
    tensors: dict[Text, TensorEntry] | None = None
    """Every tensor in the file, for `weights/` only."""


class AlignedSibling(BaseModel):
    """The donor of cross-model vectors."""

    model_config = _CONFIG

    recipe: Text
    """Path of the recipe that trains the donor."""
    discarded: bool
    """True when the donor's weights were not kept."""


class ParentArtifact(BaseModel):
    """The version that this one was derived from."""

    model_config = _CONFIG

    version: Annotated[str, Field(pattern=VERSION_PATTERN)]
    """Version of the parent; family and variant are the same."""
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    """Digest of the parent's manifest."""
    changed: Text
    """What differs, for people: `calibration`."""


class ArtifactManifest(BaseModel):
    """The manifest of one artifact."""

    model_config = ConfigDict(
        extra="allow", strict=True, frozen=True, use_attribute_docstrings=True, validate_by_name=True
    )

    api_version: Literal["steerguard/v1alpha1"] = Field(alias="apiVersion")
    """Version of this format."""
    kind: Literal["ArtifactManifest"]
    """Kind of the document."""
    family: Name
    """What policies refer to; variants of one family do the same job for different models."""
    variant: Name
    """The model and, where it matters, its quantisation."""
    version: Annotated[str, Field(pattern=VERSION_PATTERN)]
    """MAJOR.MINOR.PATCH; the same version never changes its bytes."""
    type: ArtifactType
    """What the tensors are."""
    method: Identifier
    """Guidance or detection method that reads the tensors."""
    method_version: Count
    """Version of the meaning of tensors and params for that method."""
    requires: Requirements
    """What the reader must be able to do."""
    base: BaseModelBinding
    """The model that the artifact was made for."""
    fingerprints: tuple[FingerprintEntry, ...] = Field(min_length=1)
    """One entry for each kind of weights that the artifact was checked on."""
    aligned_sibling: AlignedSibling | None = None
    """The donor, for cross-model vectors."""
    parent: ParentArtifact | None = None
    """The version that this one was derived from, when it was not built from a recipe of its own."""
    hook_point: Literal["resid_post"]
    """Where the residual stream is read or changed: the output of a decoder block."""
    sign: Text | None = None
    """What a positive coefficient does, for people."""
    coefficient_unit: Text | None = None
    """What a coefficient of 1.0 means, for people."""
    params: dict[Identifier, Any] = Field(default_factory=dict)
    """Settings of the method: JSON without floats (decimal strings)."""
    files: tuple[FileEntry, ...] = Field(min_length=1)
    """Every file but the manifest and `attestations/`, sorted by path."""
    license: Text
    """SPDX expression."""
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    """Time of the build, UTC."""

    @property
    def reference(self) -> str:
        """The exact name `family/variant@version`."""
        return f"{self.family}/{self.variant}@{self.version}"

    @property
    def file_entries(self) -> dict[str, FileEntry]:
        """The entries of `files` by path."""
        return {entry.path: entry for entry in self.files}

    def limit(self, entry: FingerprintEntry) -> Decimal:
        """Return the largest accepted 1 - cos of one fingerprint entry."""
        return Decimal(entry.max_one_minus_cos)


def parse_manifest(content: bytes) -> ArtifactManifest:
    """Parse the bytes of a manifest and check that its parts agree and that its requirements are known.

    Raises:
        ArtifactFormatError: not canonical JSON, breaks the schema, contradicts itself, or requires what is not known.
    """
    manifest = validated(ArtifactManifest, content, where=MANIFEST, max_bytes=MAX_MANIFEST_BYTES)
    _check_requirements(manifest)
    _check_files(manifest)
    for index, entry in enumerate(manifest.fingerprints):
        _check_fingerprint(manifest, entry, where=f"{MANIFEST}: fingerprints[{index}]")
    return manifest


def manifest_bytes(manifest: ArtifactManifest) -> bytes:
    """Return the canonical bytes, unknown keys included: the inverse of `parse_manifest`."""
    return canonical_bytes(manifest.model_dump(mode="json", by_alias=True, exclude_unset=True))


def manifest_digest(content: bytes) -> str:
    """Return the digest of the artifact, `sha256:<hex>` over the bytes of its manifest."""
    return f"sha256:{sha256_hex(content)}"


def manifest_schema() -> dict[str, Any]:
    """Return the JSON Schema of manifests, as committed beside the embedded registry."""
    schema = ArtifactManifest.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _check_requirements(manifest: ArtifactManifest) -> None:
    unknown = sorted(set(manifest.requires.features) - KNOWN_FEATURES)
    if unknown:
        raise ArtifactFormatError(
            f"Artifact {manifest.reference} requires features that this version does not have.",
            where=f"{MANIFEST}: requires.features",
            expected=", ".join(sorted(KNOWN_FEATURES)),
            found=", ".join(unknown)[:500],
            next_step="Upgrade steerguard, or use an older version of the artifact.",
        )
    try:
        admitted = SpecifierSet(manifest.requires.sdk).contains(__version__, prereleases=True)
    except InvalidSpecifier as error:
        raise ArtifactFormatError(
            "The version specifier is malformed.",
            where=f"{MANIFEST}: requires.sdk",
            expected="a PEP 440 specifier such as >=0.1",
            found=repr(manifest.requires.sdk[:80]),
        ) from error
    if not admitted:
        raise ArtifactFormatError(
            f"Artifact {manifest.reference} is not made for this version of steerguard.",
            where=f"{MANIFEST}: requires.sdk",
            expected=manifest.requires.sdk,
            found=__version__,
            next_step="Install a version of steerguard in that range, or use another version of the artifact.",
        )


def _check_files(manifest: ArtifactManifest) -> None:
    paths = [entry.path for entry in manifest.files]
    for entry in manifest.files:
        check_path(entry.path)
        if not is_pinned(entry.path):
            raise ArtifactFormatError(
                "The manifest lists a file that lies outside its digest.", where=f"{MANIFEST}: files", found=entry.path
            )
        if entry.size > size_limit(entry.path):
            raise ArtifactFormatError(
                "A file is too large.",
                where=f"{MANIFEST}: files: {entry.path}: size",
                expected=f"at most {size_limit(entry.path)} bytes",
                found=entry.size,
            )
        if is_weights(entry.path) != bool(entry.tensors):
            raise ArtifactFormatError(
                "Tensors are listed for every file in weights/ and for no other.",
                where=f"{MANIFEST}: files: {entry.path}",
                found="no tensors" if is_weights(entry.path) else "tensors",
            )
    check_distinct(paths)
    if paths != sorted(paths) or len(paths) > MAX_FILES:
        raise ArtifactFormatError(
            "The list of files is not in order.",
            where=f"{MANIFEST}: files",
            expected=f"at most {MAX_FILES} entries sorted by path",
            found=", ".join(paths[:MAX_FILES]),
        )
    if CARD not in paths:
        raise ArtifactFormatError("An artifact needs a card.", where=f"{MANIFEST}: files", expected=CARD)


def _check_fingerprint(manifest: ArtifactManifest, entry: FingerprintEntry, *, where: str) -> None:
    blocks, num_blocks = entry.blocks, manifest.base.num_blocks
    late = sum(1 for block in blocks if 3 * block >= num_blocks)
    available = sum(1 for block in range(num_blocks) if 3 * block >= num_blocks)
    if list(blocks) != sorted(set(blocks)) or blocks[-1] >= num_blocks or late < min(3, available):
        raise ArtifactFormatError(
            "The blocks of a fingerprint do not tell models apart.",
            where=f"{where}.blocks",
            expected=f"ascending, below {num_blocks}, at least {min(3, available)} past the first third",
            found=list(blocks),
        )
    if not 0 < manifest.limit(entry) < 1:
        raise ArtifactFormatError(
            "The limit of a fingerprint is out of range.",
            where=f"{where}.max_one_minus_cos",
            expected="above 0 and below 1",
            found=entry.max_one_minus_cos,
        )
    listed = manifest.file_entries.get(entry.file)
    tensor = (listed.tensors or {}).get("directions") if listed is not None else None
    shape = (entry.prompts, len(blocks), manifest.base.hidden_size)
    if tensor is None or tensor.dtype != "F32" or tensor.shape != shape:
        raise ArtifactFormatError(
            "The tensor of a fingerprint is absent or of another shape.",
            where=f"{where}.file",
            expected=f"directions F32 {list(shape)} in {entry.file}",
            found="absent" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}",
        )
