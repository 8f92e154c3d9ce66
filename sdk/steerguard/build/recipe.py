"""Recipe documents: what an artifact is made from and how. Data only; no torch here.

A recipe names the artifact, the contrast prompts (relative to the recipe's own file), and the settings of each
step. The recipe lies in the artifact that it made, so that anybody with the same model can make it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from steerguard.errors import PolicySyntaxError, RecipeError
from steerguard.policy.yaml_subset import read_document

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$", max_length=64)]
BlockIndex = Annotated[int, Field(ge=0, le=1023)]
FloatDtype = Literal["bfloat16", "float16", "float32"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class RecipeMetadata(_Part):
    """Which artifact the recipe makes."""

    family: Name
    """What policies refer to, for example `inferaligner`."""
    variant: Name
    """Which model the artifact is for, for example `smollm2-135m-instruct`."""
    version: Annotated[str, Field(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$")]
    """Semantic version of the artifact."""
    title: Annotated[str, Field(min_length=1, max_length=120)] | None = None
    """Stands after family and variant in the heading of the card."""
    description: Annotated[str, Field(min_length=1, max_length=400)]
    license: str = "apache-2.0"
    created: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$")]
    """Time stamp of the artifact; written here and not read from a clock, so that a rebuild gives the same bytes."""


class BaseModelSource(_Part):
    """Where the model that the artifact is for comes from; shown to people."""

    repo: Annotated[str, Field(min_length=1)]
    """Repository of the original model."""
    source: Annotated[str, Field(min_length=1)]
    """Which weights exactly, with quantisation."""


class PromptFiles(_Part):
    """Contrast prompts: JSON lines with `id`, `split`, `kind` and `messages`."""

    harmful: Annotated[str, Field(min_length=1)]
    """Path relative to the recipe."""
    benign: Annotated[str, Field(min_length=1)]
    """Path relative to the recipe."""


class FingerprintSettings(_Part):
    """At which blocks and for which weight types the model is recognised again."""

    blocks: Annotated[tuple[BlockIndex, ...], Field(min_length=3, strict=False)]
    """Past the first third of the model."""
    weights: Annotated[tuple[FloatDtype, ...], Field(min_length=1, strict=False)] = ("bfloat16", "float32")
    max_one_minus_cos: Annotated[str, Field(pattern=r"^0\.\d+$")] = "0.001"
    """Accepted distance, decimal string."""


class DonorSettings(_Part):
    """Fine-tuning of the aligned sibling, which is discarded after its residuals were read."""

    refusal: Annotated[str, Field(min_length=1, max_length=200)]
    """The one sentence that the donor learns to answer harmful prompts with."""
    train_blocks: Annotated[tuple[BlockIndex, ...], Field(min_length=1, strict=False)]
    """Decoder blocks whose weights move; the others stay identical to the target."""
    steps: Annotated[int, Field(ge=1, le=10_000)]
    batch_size: Annotated[int, Field(ge=2, le=256, multiple_of=2)]
    """Examples per step, half harmful and half benign."""
    learning_rate: Annotated[float, Field(gt=0, le=0.01)]
    benign_answer_tokens: Annotated[int, Field(ge=1, le=256)]
    """Tokens kept of the target's own greedy answer to a benign prompt."""
    benign_kinds_left_out: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Kinds of benign prompts that neither the donor nor the vectors see, such as near misses of harmful ones."""


class RefinementSettings(_Part):
    """Gradient steps on the vectors alone, after the donor was read."""

    steps: Annotated[int, Field(ge=1, le=1000)]
    batch_size: Annotated[int, Field(ge=1, le=256)]
    """Harmful prompts per step."""
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    """Adam step size in units of the residual stream."""
    start_strength: Annotated[float, Field(ge=0, le=8)] = 0.5
    """Multiple of the donor's vectors that the steps start from."""


class SteeringVectorsRecipe(_Part):
    """Steering vectors for the method `inferaligner`: what a donor adds to the target's difference, plain or refined."""

    type: Literal["steering_vectors"]
    donor: DonorSettings
    refinement: RefinementSettings | None = None
    """None keeps the plain mean differences, which is the paper's way."""
    blocks: Annotated[tuple[BlockIndex, ...], Field(min_length=1, strict=False)]
    """Steered blocks, at `resid_post`."""
    strength: Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")]
    """Multiple of theta that coefficient 1 stands for, decimal string."""
    positions: Literal["all", "last_prompt_token_and_decode", "decode", "prefill"] = "all"


class ProbeRecipe(_Part):
    """A linear probe on the end of the generation prompt, averaged over blocks."""

    type: Literal["probe"]
    blocks: Annotated[tuple[BlockIndex, ...], Field(min_length=1, strict=False)]
    """Blocks that are read, at `resid_post`; none may lie above the first steered block of a one-pass policy."""
    estimator: Literal["mean_difference", "logistic_regression", "lda"]
    inverse_penalty: Annotated[float, Field(gt=0, le=1e4)] = 1.0
    """Inverse of the L2 penalty (`C`) on standardised features; logistic regression only."""
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    """Folds of the cross-validation that the card reports."""
    calibration_weights: FloatDtype = "bfloat16"
    """Weight type of the model that the calibration scores are read from."""


class RecipeDocument(_Part):
    """One recipe: one artifact."""

    api_version: Annotated[Literal["steerguard/v1alpha1"], Field(alias="apiVersion")]
    kind: Literal["BuildRecipe"]
    metadata: RecipeMetadata
    base: BaseModelSource
    prompts: PromptFiles
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    batch_size: Annotated[int, Field(ge=1, le=256)] = 16
    """Prompts per forward when residuals are read."""
    artifact: Annotated[SteeringVectorsRecipe | ProbeRecipe, Field(discriminator="type")]
    fingerprint: FingerprintSettings

    @model_validator(mode="after")
    def _blocks_ascend(self) -> Self:
        listed = {"artifact.blocks": self.artifact.blocks, "fingerprint.blocks": self.fingerprint.blocks}
        if isinstance(self.artifact, SteeringVectorsRecipe):
            listed["artifact.donor.train_blocks"] = self.artifact.donor.train_blocks
        for field, blocks in listed.items():
            if list(blocks) != sorted(set(blocks)):
                message = f"{field}: blocks must ascend and differ"
                raise ValueError(message)
        return self

    def highest_block(self) -> tuple[str, int]:
        """Return the field that names the highest block, and that block."""
        named = [("artifact.blocks", max(self.artifact.blocks)), ("fingerprint.blocks", max(self.fingerprint.blocks))]
        if isinstance(self.artifact, SteeringVectorsRecipe):
            named.append(("artifact.donor.train_blocks", max(self.artifact.donor.train_blocks)))
        return max(named, key=lambda entry: entry[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe document with the folder that its paths are relative to and its own text."""

    document: RecipeDocument
    folder: Path
    text: str


def parse_recipe(text: str, *, file: str, folder: Path) -> Recipe:
    """Return the recipe in a YAML text.

    Args:
        text: the document.
        file: name for messages.
        folder: what the prompt paths are relative to.

    Raises:
        RecipeError: not the strict YAML subset, or a field is missing, unknown, of the wrong type or out of range.
    """
    try:
        data: Any = read_document(text, file=file).data
    except PolicySyntaxError as error:
        raise RecipeError(error.summary, where=error.where, next_step=error.next_step) from error
    try:
        document = RecipeDocument.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        described = "; ".join(f"{_field(problem['loc'])}: {problem['msg']}" for problem in problems)
        raise RecipeError(
            f"The recipe has {len(problems)} wrong field{'s' if len(problems) > 1 else ''}.",
            where=file,
            found=described,
            next_step="correct the fields named above",
        ) from error
    return Recipe(document=document, folder=folder, text=text)


def load_recipe(path: Path) -> Recipe:
    """Return the recipe in a file.

    Raises:
        RecipeError: the file cannot be read or is not a recipe.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError("The recipe cannot be read.", where=path, expected="a UTF-8 YAML file") from error
    return parse_recipe(text, file=str(path), folder=path.parent)


def _field(location: tuple[int | str, ...]) -> str:
    # The discriminator's value stands in pydantic's location between the field and its parts.
    parts = [str(part) for part in location if part not in {"steering_vectors", "probe"}]
    return ".".join(parts) or "document"
