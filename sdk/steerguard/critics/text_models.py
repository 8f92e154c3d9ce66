"""Descriptions of cost models that read texts, as they stand in `params` of an artifact, and from there to the model.

An artifact of type `cost_model` states its kind as its `method`, the Hugging Face model that it is made of under
`params.model`, and everything else that decides a cost beside it. The model's own files stay where they are: each is
pinned by its sha256, and only pinned files are read.

No torch here until a model is bound, so that manifests can be read without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from steerguard.artifacts.calibration import to_float32
from steerguard.artifacts.manifest import ArtifactManifest, Count, DecimalText, Sha256, Text
from steerguard.artifacts.paths import MAX_MANIFEST_BYTES
from steerguard.artifacts.strict_json import validated
from steerguard.canonical import canonical_bytes
from steerguard.critics.answer_windows import TooLong
from steerguard.critics.text_template import parse_template
from steerguard.errors import ArtifactFormatError

if TYPE_CHECKING:
    import torch

    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.critics.cost import CostModel

_WHERE: Final = "manifest.json: params"


def _finite(text: str) -> str:
    if not math.isfinite(to_float32(float(text))):
        msg = "the number does not fit float32"
        raise ValueError(msg)
    return text


def _share(text: str) -> str:
    if not 0 <= float(text) <= 1:
        msg = "a probability lies between 0 and 1"
        raise ValueError(msg)
    return text


def _parsed(text: str) -> str:
    parse_template(text)
    return text


FileName = Annotated[
    str,
    Field(
        pattern=r"^(?:config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json"
        r"|special_tokens_map\.json|added_tokens\.json|vocab\.txt|vocab\.json|merges\.txt|tokenizer\.model|spiece\.model"
        r"|sentencepiece\.bpe\.model|chat_template\.jinja|chat_template\.json|model\.safetensors\.index\.json"
        r"|[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.safetensors)$"
    ),
]
"""What a folder of a model may be read for: configuration, tokenizer, safetensors. No code, no pickle, no adapters."""

Template = Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_parsed)]
"""A text with the places `{prompt}` and `{answer}`."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class PinnedModel(_Section):
    """A Hugging Face model on disk, down to the bytes."""

    repository: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")] | None = None
    """`organisation/name`; needs `revision`."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """The commit; branches and tags move."""
    folder: Text | None = None
    """A folder on this machine, instead of a repository."""
    files: dict[FileName, Sha256] = Field(min_length=2, max_length=400)
    """sha256 of every file that is read, weights included; files that do not stand here are not read."""
    weights: Literal["float32", "bfloat16", "float16"] = "float32"
    """Floating point type to load in."""

    @model_validator(mode="after")
    def _one_place(self) -> PinnedModel:
        if (self.repository is None) == (self.folder is None) or (self.repository is None) != (self.revision is None):
            msg = "a model lies in a repository at a revision, or in a folder"
            raise ValueError(msg)
        if "config.json" not in self.files or not any(name.endswith(".safetensors") for name in self.files):
            msg = "a model has config.json and at least one .safetensors file"
            raise ValueError(msg)
        return self

    @property
    def where(self) -> str:
        """The place, for messages."""
        return self.folder if self.folder is not None else f"{self.repository}@{self.revision}"


class TextSettings(_Section):
    """What every cost model over texts states."""

    unit: Text
    """What the cost is counted in, for example `log-odds`."""
    threshold: Annotated[DecimalText, AfterValidator(_finite)]
    """An answer is within the budget strictly below this, unless a policy says otherwise; in `unit`."""
    max_tokens: Annotated[int, Field(ge=32, le=1_000_000)]
    """Tokens that the model may read at once, template included."""
    too_long: TooLong = "raise"
    """What happens with a text that needs more: an error, or windows of which the worst counts."""
    batch_rows: Count = 16
    """Texts per forward pass."""

    @property
    def budget(self) -> float:
        """The threshold as a float32 number."""
        return to_float32(float(self.threshold))


class SequenceClassifierSettings(TextSettings):
    """A classifier or score model: one forward pass over a rendered text."""

    template: Template
    """The text that is read."""
    adds_special_tokens: bool = True
    """Whether the tokenizer adds its own control tokens around the text."""
    output: Literal["score", "label", "log_odds"]
    """`score`: the only output. `label`: the logit of one label. `log_odds`: of some labels against all others."""
    labels: tuple[Text, ...] = ()
    """Names of labels as the model's configuration spells them; the harmful ones under `log_odds`."""
    higher: Literal["harmful", "harmless"]
    """What a higher output means; of a harmless one the cost is the negative."""
    score_head: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]{0,99}$")] | None = None
    """Name of a linear head in the weight files (`<name>.weight`, `<name>.bias`), read at the last token of the text,
    for score models that transformers has no class for; null for a sequence classification model."""

    @model_validator(mode="after")
    def _labels_fit(self) -> SequenceClassifierSettings:
        count = len(set(self.labels))
        fits = {"score": count == 0, "label": count == 1, "log_odds": count >= 1}[self.output]
        if not fits or count != len(self.labels):
            msg = "`score` names no label, `label` one, `log_odds` one or more, each once"
            raise ValueError(msg)
        if self.score_head is not None and self.output != "score":
            msg = "a score head has one output, so `output` is `score`"
            raise ValueError(msg)
        return self


class GuardianSettings(TextSettings):
    """A guardian language model that is read by the logits of two words."""

    harmful_word: Text
    """What the guardian says of a harmful conversation; one token."""
    harmless_word: Text
    """What it says of a harmless one; one token."""
    verdict_prefix: Annotated[str, Field(max_length=200)] = ""
    """What the guardian writes between its chat template and the word, for example two line ends."""
    least_mass: Annotated[DecimalText, AfterValidator(_share)] | None = None
    """Least probability of the two words together; below it the guardian did not answer in its format, and nothing was
    judged. Null: not checked."""


class EmbeddingHeadSettings(TextSettings):
    """A sentence embedding with a linear head of one's own; positive is harmful."""

    template: Template
    """The text that is embedded."""
    adds_special_tokens: bool = True
    """Whether the tokenizer adds its own control tokens around the text."""
    normalise: bool
    """Whether the mean is scaled to length 1 before the head."""


SETTINGS: Mapping[str, type[TextSettings]] = {
    "sequence_classifier": SequenceClassifierSettings,
    "guardian_logits": GuardianSettings,
    "embedding_head": EmbeddingHeadSettings,
}
"""Settings by the `method` of the artifact; each requires the feature `cost.<method>`."""

HEAD_FILE: Final = "weights/head.safetensors"
"""Where an artifact of method `embedding_head` keeps its head: `weight` F32 `[width]` and `bias` F32 `[1]`."""

Locate = Callable[[PinnedModel], Path]
"""From the description of a model to the folder that its files lie in."""


def text_cost_params(manifest: ArtifactManifest) -> tuple[PinnedModel, TextSettings]:
    """Return what the `params` of a cost model over texts state.

    Raises:
        ArtifactFormatError: the artifact is of another type or method, does not require the feature of its method, or
            its `params` break the description.
    """
    settings = SETTINGS.get(manifest.method)
    if manifest.type != "cost_model" or settings is None:
        raise ArtifactFormatError(
            "This artifact is not a cost model that reads texts.",
            expected=f"type cost_model, method {', '.join(SETTINGS)}",
            found=f"type {manifest.type}, method {manifest.method}",
            where=manifest.reference,
            next_step="Name another artifact.",
        )
    if f"cost.{manifest.method}" not in manifest.requires.features:
        raise ArtifactFormatError(
            "A cost model over texts requires the feature of its method.",
            expected=f"cost.{manifest.method}",
            found=", ".join(manifest.requires.features),
            where=f"{manifest.reference}/manifest.json: requires.features",
            next_step="Add the feature, so that a version that lacks it refuses the artifact.",
        )
    params: dict[str, Any] = dict(manifest.params)
    model = validated(
        PinnedModel, _json(params.pop("model", {})), where=f"{_WHERE}.model", max_bytes=MAX_MANIFEST_BYTES
    )
    return model, validated(settings, _json(params), where=_WHERE, max_bytes=MAX_MANIFEST_BYTES)


def bind_text_cost(artifact: VerifiedArtifact, *, locate: Locate, device: torch.device | str = "cpu") -> CostModel:
    """Load the model of a verified artifact and return the cost model.

    Args:
        artifact: of type `cost_model` and one of the methods in `SETTINGS`.
        locate: says where the model's files lie; `steerguard.critics.pinned_files.found_locally` knows folders and the
            local cache of the Hub. Whatever it returns is checked against the pinned digests.
        device: where the model goes.

    Raises:
        ArtifactFormatError: the description is wrong, or does not fit the model.
        ArtifactNotFoundError: the model, or a file of it, is not there.
        ArtifactIntegrityError: a file differs from its pin.
    """
    from steerguard.critics.load_text_model import load_text_cost  # noqa: PLC0415  torch, which readers need not

    pinned, settings = text_cost_params(artifact.manifest)
    return load_text_cost(
        settings,
        pinned,
        name=artifact.manifest.reference,
        locate=locate,
        device=device,
        head=artifact.tensors.get(HEAD_FILE, {}),
    )


def _json(params: Any) -> bytes:
    try:
        return canonical_bytes(params)
    except (ValueError, TypeError) as error:
        raise ArtifactFormatError(
            "The parameters are not JSON.", where=_WHERE, found=type(error).__name__, expected="JSON without floats"
        ) from error
