"""Recipe documents: what an artifact is made from and how. Data only; no torch here.

A recipe names the artifact, the contrast prompts (relative to the recipe's own file), and the settings of each
step. The recipe lies in the artifact that it made, so that anybody with the same model can make it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from steerguard.artifacts.probe_params import READS_ANSWERS
from steerguard.build.recipe_cost import CostModelRecipe
from steerguard.build.recipe_critic import CriticRecipe
from steerguard.build.recipe_part import BlockIndex, FloatDtype, Name, RecipePart, ascending
from steerguard.build.recipe_probe import AnswerProbeRecipe, ConditionRecipe, ProbeRecipe
from steerguard.build.recipe_refusal_direction import RefusalDirectionRecipe
from steerguard.build.recipe_vectors import FittedRefusalRecipe, SteeringVectorsRecipe
from steerguard.errors import PolicySyntaxError, RecipeError
from steerguard.policy.yaml_subset import read_document


class RecipeMetadata(RecipePart):
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


class BaseModelSource(RecipePart):
    """Where the model that the artifact is for comes from; shown to people."""

    repo: Annotated[str, Field(min_length=1)]
    """Repository of the original model."""
    source: Annotated[str, Field(min_length=1)]
    """Which weights exactly, with quantisation."""
    num_blocks: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Depth of the model that the block numbers are for; lets them be scaled to another depth."""


class PromptFiles(RecipePart):
    """Contrast prompts: JSON lines with `id`, `split`, `kind` and `messages`."""

    harmful: Annotated[str, Field(min_length=1)]
    """Path relative to the recipe."""
    benign: Annotated[str, Field(min_length=1)]
    """Path relative to the recipe."""


class FingerprintSettings(RecipePart):
    """At which blocks and for which weight types the model is recognised again."""

    blocks: Annotated[tuple[BlockIndex, ...], Field(min_length=3, strict=False)]
    """Past the first third of the model."""
    weights: Annotated[tuple[FloatDtype, ...], Field(min_length=1, strict=False)] = ("bfloat16", "float32")
    max_one_minus_cos: Annotated[str, Field(pattern=r"^0\.\d+$")] = "0.001"
    """Accepted distance, decimal string."""


_FIRST_METHODS = {
    "steering_vectors": "inferaligner",
    "probe": "linear_probe",
    "cost_model": "response_states",
    "critic": "safety_value",
}


def _artifact_kind(value: Any) -> Any:
    """Return the tag of the artifact part: its method, left out the first that there was for the type.

    A probe of answers has a tag of its own, since its fields differ although its method does not.
    """
    get = value.get if isinstance(value, dict) else lambda name, default=None: getattr(value, name, default)
    kind = get("type")
    first = _FIRST_METHODS.get(kind) if isinstance(kind, str) else None
    method = kind if first is None else get("method", first)
    return "answer_probe" if method == "linear_probe" and get("read") == READS_ANSWERS else method


ArtifactRecipe = (
    SteeringVectorsRecipe
    | FittedRefusalRecipe
    | RefusalDirectionRecipe
    | ProbeRecipe
    | AnswerProbeRecipe
    | ConditionRecipe
    | CostModelRecipe
    | CriticRecipe
)
_Artifact = Annotated[
    Annotated[SteeringVectorsRecipe, Tag("inferaligner")]
    | Annotated[FittedRefusalRecipe, Tag("fitted_refusal")]
    | Annotated[RefusalDirectionRecipe, Tag("refusal_direction")]
    | Annotated[ProbeRecipe, Tag("linear_probe")]
    | Annotated[AnswerProbeRecipe, Tag("answer_probe")]
    | Annotated[ConditionRecipe, Tag("cosine")]
    | Annotated[CostModelRecipe, Tag("response_states")]
    | Annotated[CriticRecipe, Tag("safety_value")],
    Discriminator(_artifact_kind),
]
# The tags of unions stand in pydantic's locations between the field and its parts.
_TAGS = {
    "inferaligner",
    "fitted_refusal",
    "refusal_direction",
    "linear_probe",
    "answer_probe",
    "cosine",
    "response_states",
    "safety_value",
    "fine_tuned",
    "system_prompt",
    "existing",
}


class RecipeDocument(RecipePart):
    """One recipe: one artifact."""

    api_version: Annotated[Literal["steerguard/v1alpha1"], Field(alias="apiVersion")]
    kind: Literal["BuildRecipe"]
    metadata: RecipeMetadata
    base: BaseModelSource
    prompts: PromptFiles
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    batch_size: Annotated[int, Field(ge=1, le=256)] = 16
    """Prompts per forward when residuals are read."""
    artifact: _Artifact
    fingerprint: FingerprintSettings

    @model_validator(mode="after")
    def _blocks_ascend(self) -> Self:
        ascending({"fingerprint.blocks": self.fingerprint.blocks})
        return self

    def highest_block(self) -> tuple[str, int]:
        """Return the field that names the highest block, and that block."""
        lists = {**self.artifact.block_lists(), "fingerprint.blocks": self.fingerprint.blocks}
        return max(((field, max(blocks)) for field, blocks in lists.items()), key=lambda entry: entry[1])


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
            next_step=_advice(described),
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
    return ".".join(str(part) for part in location if part not in _TAGS) or "document"


def _advice(described: str) -> str:
    if "artifact.refinement" in described:
        return "vectors fitted by gradient are a method of their own: write method: fitted_refusal with sentences"
    return "correct the fields named above"
