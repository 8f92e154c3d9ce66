"""Recipes of steering vectors: donors, estimators, search, and vectors fitted to refusal sentences."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from steerguard.build.recipe_part import BlockIndex, Blocks, FloatDtype, RecipePart, Strength, ascending, given_once

Estimator = Literal[
    "ssv", "ssv_minus_srv", "cross", "cross_centred", "response_mean", "answer_contrast", "by_phase", "by_step"
]
"""How vectors come from the residuals of donor and target; see `build/estimators.py`."""
Positions = Literal["all", "last_prompt_token_and_decode", "decode", "prefill"]

READS_ANSWERS: frozenset[Estimator] = frozenset({"response_mean", "answer_contrast", "by_phase", "by_step"})
"""Estimators that read both models while the answer is forced."""
SCHEDULES: dict[Estimator, Literal["by_phase", "by_step"]] = {"by_phase": "by_phase", "by_step": "by_step"}
"""Estimators that give one vector per phase or step; all others give one constant vector per block."""

Sentence = Annotated[str, Field(min_length=1, max_length=200)]
_Sentences = Annotated[tuple[Sentence, ...], Field(min_length=1, max_length=32, strict=False)]
_Kinds = Annotated[tuple[str, ...], Field(strict=False)]
_AnswerTokens = Annotated[int, Field(ge=1, le=256)]
MaxPrompts = Annotated[int, Field(ge=2, le=100_000)]


class FineTunedDonor(RecipePart):
    """The target, fine-tuned to refuse; discarded after its residuals were read."""

    kind: Literal["fine_tuned"] = "fine_tuned"
    """The default where `kind` is left out."""
    refusal: Sentence
    """The one sentence that the donor learns to answer harmful prompts with."""
    train_blocks: Blocks
    """Decoder blocks whose weights move; the others stay identical to the target."""
    steps: Annotated[int, Field(ge=1, le=10_000)]
    batch_size: Annotated[int, Field(ge=2, le=256, multiple_of=2)]
    """Examples per step, half harmful and half benign."""
    learning_rate: Annotated[float, Field(gt=0, le=0.01)]
    benign_answer_tokens: _AnswerTokens
    """Tokens kept of the target's own greedy answer to a benign prompt."""
    benign_kinds_left_out: _Kinds = ()
    """Kinds of benign prompts that neither the donor nor the vectors see, such as near misses of harmful ones."""
    harmful_kinds_left_out: _Kinds = ()
    """Kinds of harmful prompts that neither the donor nor the vectors see, such as long jailbreak texts."""
    max_prompts: MaxPrompts | None = None
    """At most this many prompts of each class, drawn by the recipe's seed; None takes all."""


class SystemPromptDonor(RecipePart):
    """The target itself under a safety system prompt, without training."""

    kind: Literal["system_prompt"]
    system: Annotated[str, Field(min_length=1, max_length=4000)]
    """Stands before the system message that a prompt may have."""
    examples: Annotated[
        tuple[Annotated[tuple[Sentence, Sentence], Field(strict=False)], ...], Field(max_length=16, strict=False)
    ] = ()
    """Pairs of a request and its refusal, shown as earlier turns."""
    refusal: Sentence | None = None
    """Forced while answers are read; needed by estimators that read answers."""
    benign_answer_tokens: _AnswerTokens = 14
    """Tokens kept of the target's own greedy answer to a benign prompt."""
    benign_kinds_left_out: _Kinds = ()
    """Kinds of benign prompts that the vectors are not made from."""
    harmful_kinds_left_out: _Kinds = ()
    """Kinds of harmful prompts that the vectors are not made from."""
    max_prompts: MaxPrompts | None = None
    """At most this many prompts of each class, drawn by the recipe's seed; None takes all."""


class ExistingDonor(RecipePart):
    """An aligned sibling of the target in a folder: same ancestor, depth and width."""

    kind: Literal["existing"]
    path: Annotated[str, Field(min_length=1, max_length=1000)]
    """Folder of a Hugging Face model, absolute or relative to the recipe."""
    refusal: Sentence | None = None
    """Forced while answers are read; needed by estimators that read answers."""
    benign_answer_tokens: _AnswerTokens = 14
    """Tokens kept of the target's own greedy answer to a benign prompt."""
    benign_kinds_left_out: _Kinds = ()
    """Kinds of benign prompts that the vectors are not made from."""
    harmful_kinds_left_out: _Kinds = ()
    """Kinds of harmful prompts that the vectors are not made from."""
    max_prompts: MaxPrompts | None = None
    """At most this many prompts of each class, drawn by the recipe's seed; None takes all."""


def _donor_kind(value: Any) -> Any:
    return value.get("kind", "fine_tuned") if isinstance(value, dict) else getattr(value, "kind", None)


AnyDonor = FineTunedDonor | SystemPromptDonor | ExistingDonor
DonorPart = Annotated[
    Annotated[FineTunedDonor, Tag("fine_tuned")]
    | Annotated[SystemPromptDonor, Tag("system_prompt")]
    | Annotated[ExistingDonor, Tag("existing")],
    Discriminator(_donor_kind),
]


class VectorSearch(RecipePart):
    """Settings to try on build prompts; a list that is left out is the recipe's own single value."""

    windows: (
        Annotated[
            tuple[Annotated[tuple[BlockIndex, BlockIndex], Field(strict=False)], ...],
            Field(min_length=1, max_length=64, strict=False),
        ]
        | None
    ) = None
    """Steered blocks as pairs of the first and the last."""
    positions: Annotated[tuple[Positions, ...], Field(min_length=1, strict=False)] | None = None
    """For constant vectors only: a schedule has its own positions."""
    strengths: Annotated[tuple[Strength, ...], Field(min_length=1, max_length=64, strict=False)] | None = None
    estimators: Annotated[tuple[Estimator, ...], Field(min_length=1, strict=False)] | None = None
    prompts_harmful: Annotated[int, Field(ge=1, le=10_000)]
    """Harmful build prompts that every setting answers, drawn by the recipe's seed."""
    prompts_benign: Annotated[int, Field(ge=1, le=10_000)]
    """Benign build prompts that every setting answers, drawn by the recipe's seed."""
    max_new_tokens: Annotated[int, Field(ge=1, le=512)]
    max_repetition: Annotated[float, Field(ge=0, le=1)]
    """Largest mean share of repeated word trigrams that a chosen setting may have."""
    max_perplexity: Annotated[float, Field(gt=1)]
    """Largest median perplexity of steered answers under the plain model that a chosen setting may have."""
    min_strict: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Smallest share of strict refusals that a chosen setting may have."""
    strict_tolerance: Annotated[float, Field(ge=0, le=1)] = 0.05
    """How far below the most strict refusals a setting may lie and still be compared by the other measures."""
    weights: FloatDtype = "bfloat16"
    """Weight type in which the model answers."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 32
    """Prompts per call while settings are tried."""

    @model_validator(mode="after")
    def _lists_make_sense(self) -> Self:
        for first, last in self.windows or ():
            if last < first:
                message = f"artifact.search.windows: a window ends before it begins: [{first}, {last}]"
                raise ValueError(message)
        for field in ("windows", "positions", "strengths", "estimators"):
            values = getattr(self, field) or ()
            if len(set(values)) != len(values):
                message = f"artifact.search.{field}: an entry stands twice"
                raise ValueError(message)
        return self


class SteeringVectorsRecipe(RecipePart):
    """Steering vectors for the method `inferaligner`: what a donor adds to the target, in closed form."""

    type: Literal["steering_vectors"]
    method: Literal["inferaligner"] = "inferaligner"
    donor: DonorPart
    estimator: Estimator | None = None
    """`ssv_minus_srv` where neither this nor `search.estimators` is given."""
    response_tokens: Annotated[int, Field(ge=1, le=256)] | None = None
    """Answer positions that estimators of answers read; None reads the whole refusal."""
    wordings: _Sentences | None = None
    """Refusals that are forced on the donor in turn for `answer_contrast`; None forces the donor's own refusal."""
    blocks: Blocks | None = None
    """Steered blocks, at `resid_post`."""
    strength: Strength | None = None
    """Multiple of theta that coefficient 1 stands for."""
    positions: Positions | None = None
    """`all` where neither this nor `search.positions` is given; constant vectors only."""
    search: VectorSearch | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        search = self.search
        given_once("artifact.blocks", self.blocks, "artifact.search.windows", search and search.windows)
        given_once("artifact.strength", self.strength, "artifact.search.strengths", search and search.strengths)
        if search is not None and search.estimators is not None:
            given_once("artifact.estimator", self.estimator, "artifact.search.estimators", search.estimators)
        if search is not None and search.positions is not None:
            given_once("artifact.positions", self.positions, "artifact.search.positions", search.positions)
        if READS_ANSWERS & set(self.tried_estimators) and self.donor.refusal is None:
            message = "artifact.donor.refusal: this estimator reads the donor while it refuses, so a refusal is needed"
            raise ValueError(message)
        if self.wordings is not None and "answer_contrast" not in self.tried_estimators:
            message = "artifact.wordings: only the estimator answer_contrast reads several wordings"
            raise ValueError(message)
        if self.positions is not None and all(estimator in SCHEDULES for estimator in self.tried_estimators):
            message = "artifact.positions: leave it out, a schedule has its own positions"
            raise ValueError(message)
        ascending(self.block_lists())
        return self

    @property
    def tried_estimators(self) -> tuple[Estimator, ...]:
        """The estimators of the search, or the one of the recipe."""
        if self.search is not None and self.search.estimators is not None:
            return self.search.estimators
        return (self.estimator or "ssv_minus_srv",)

    def block_lists(self) -> dict[str, tuple[int, ...]]:
        """Return every list of blocks by its field."""
        lists = donor_blocks(self.donor)
        if self.blocks is not None:
            lists["artifact.blocks"] = self.blocks
        for number, (first, last) in enumerate((self.search and self.search.windows) or ()):
            lists[f"artifact.search.windows.{number}"] = tuple(range(first, last + 1))
        return lists


class FittedRefusalRecipe(RecipePart):
    """Constant vectors fitted by gradient on refusal sentences; no weight of the model moves."""

    type: Literal["steering_vectors"]
    method: Literal["fitted_refusal"]
    sentences: _Sentences
    """Wordings of a refusal; each example of a step draws one."""
    blocks: Blocks
    """Steered blocks, at `resid_post`."""
    steps: Annotated[int, Field(ge=1, le=5000)]
    batch_size: Annotated[int, Field(ge=1, le=256)]
    """Harmful prompts per step."""
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    """Adam step size in units of the residual stream; it falls to a tenth."""
    start: Literal["zero", "donor"] = "zero"
    """`donor` starts from the difference SSV - SRV of a donor."""
    start_strength: Annotated[float, Field(ge=0, le=8)] = 0.5
    """Multiple of the donor's difference that the steps start from."""
    donor: DonorPart | None = None
    """Needed for `start: donor`."""
    keep_weight: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Weight of the cross entropy of the target's own answers to benign prompts while it is steered; 0 leaves it out."""
    keep_answer_tokens: _AnswerTokens = 16
    """Tokens of the target's own answer that the kept examples hold."""
    keep_kinds_left_out: _Kinds = ()
    """Kinds of benign prompts that are not kept."""
    harmful_kinds_left_out: _Kinds = ()
    """Kinds of harmful prompts that the vectors are not fitted on, such as long jailbreak texts."""
    max_prompts: MaxPrompts | None = None
    """At most this many harmful and this many kept benign prompts, drawn by the recipe's seed; None takes all."""
    strength: Strength = "1.0"
    """Multiple of theta that coefficient 1 stands for."""
    positions: Positions = "all"
    """Also the positions at which the vectors are added while they are fitted."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.start == "donor") != (self.donor is not None):
            wanted = "start: donor needs a donor" if self.donor is None else "a donor is for start: donor only"
            message = f"artifact.donor: {wanted}"
            raise ValueError(message)
        if len(set(self.sentences)) != len(self.sentences):
            message = "artifact.sentences: a sentence stands twice"
            raise ValueError(message)
        ascending(self.block_lists())
        return self

    def block_lists(self) -> dict[str, tuple[int, ...]]:
        """Return every list of blocks by its field."""
        return {**donor_blocks(self.donor), "artifact.blocks": self.blocks}


def donor_blocks(donor: AnyDonor | None) -> dict[str, tuple[int, ...]]:
    """Return the list of blocks of a donor by its field, if it has one."""
    return {"artifact.donor.train_blocks": donor.train_blocks} if isinstance(donor, FineTunedDonor) else {}
