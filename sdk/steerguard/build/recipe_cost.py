"""Recipe of a cost model: labelled answers, the model's own answers, and a head on the states that they pass through."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from steerguard.build.recipe_part import Blocks, FloatDtype, RecipePart, ascending, given_once
from steerguard.build.recipe_probe import CalibratedRecipe

_Penalty = Annotated[float, Field(gt=0, le=1e4)]
_Path = Annotated[str, Field(min_length=1, max_length=200)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Begin = Annotated[str, Field(min_length=1, max_length=80)]
_Tokens = Annotated[int, Field(ge=1, le=4096)]


class PinnedFile(RecipePart):
    """A file of the folder that `steerguard build --data` names; its bytes are pinned."""

    path: _Path
    """Relative to the data folder, with `/`."""
    sha256: _Sha256
    """Of the whole file, hexadecimal."""


class LabelledResponses(RecipePart):
    """Answers that somebody labelled: a CSV file with the columns question, response and label (1 = harmful)."""

    responses: PinnedFile
    questions: PinnedFile | None = None
    """CSV file with the columns index and text, where the column question of `responses` holds indices; left out, that
    column holds the questions themselves."""
    rows: Literal["cost_model", "all"] = "cost_model"
    """`cost_model` leaves out the rows that only an independent judge may be trained on; `all` is for files that no
    judge is trained on."""
    tokens: Annotated[int, Field(ge=2, le=4096)] = 128
    """Tokens of each answer that are read at most."""
    max_per_question: Annotated[int, Field(ge=1)] | None = None
    """Answers to each question at most, drawn by the recipe's seed: answers to one question are alike. Left out, all."""


class OwnAnswers(RecipePart):
    """The model's own answers to contrast prompts: negatives to benign ones and, if asked for, positives to harmful ones."""

    tokens: Annotated[int, Field(ge=2, le=4096)] = 64
    """Generated tokens of each answer at most."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    """0 answers greedily."""
    max_benign_prompts: Annotated[int, Field(ge=1)] | None = None
    """Benign prompts of the split `build` that are answered at most, drawn by the recipe's seed; left out, all."""
    max_harmful_prompts: Annotated[int, Field(ge=0)] | None = 0
    """The same of harmful prompts; an answer that states a refusal is left out. 0: none; left out, none."""
    max_calibration_prompts: Annotated[int, Field(ge=1)] | None = None
    """Benign prompts of the split `calibration` that are answered at most; no answer to one is begun by force."""
    begin: Annotated[tuple[_Begin, ...], Field(max_length=64, strict=False)] = ()
    """Forced beginnings, one drawn for each answer that has one; the same for harmful and benign prompts."""
    begin_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the answers that are begun by force; a beginning is never read itself."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.begin) != (self.begin_share > 0):
            message = "artifact.answers.begin: give beginnings exactly when begin_share is above 0"
            raise ValueError(message)
        if len(set(self.begin)) != len(self.begin):
            message = "artifact.answers.begin: an entry stands twice"
            raise ValueError(message)
        return self


class CostSearch(RecipePart):
    """Settings to compare by cross-validation on training data; a list that is left out is the recipe's single value."""

    blocks: Annotated[tuple[Blocks, ...], Field(min_length=1, max_length=64, strict=False)] | None = None
    inverse_penalties: Annotated[tuple[_Penalty, ...], Field(min_length=1, max_length=32, strict=False)] | None = None

    @model_validator(mode="after")
    def _no_entry_twice(self) -> Self:
        for field in ("blocks", "inverse_penalties"):
            values = getattr(self, field) or ()
            if len(set(values)) != len(values):
                message = f"artifact.search.{field}: an entry stands twice"
                raise ValueError(message)
        return self


class CostModelRecipe(CalibratedRecipe):
    """A cost model that reads the generator's own residual stream, averaged over the tokens of its answer so far."""

    type: Literal["cost_model"]
    method: Literal["response_states"] = "response_states"
    blocks: Blocks | None = None
    """Blocks that are read, at `resid_post`."""
    hidden: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Width of the hidden layer of a two-layer head; left out, the head is linear."""
    inverse_penalty: _Penalty | None = None
    """Inverse of the L2 penalty (`C`) on standardised features."""
    search: CostSearch | None = None
    folds: Annotated[int, Field(ge=2, le=50)] = 5
    """Folds of the cross-validation; all answers to one question lie in one fold."""
    prefixes: Annotated[tuple[_Tokens, ...], Field(min_length=1, max_length=32, strict=False)] = (8, 16, 32, 64, 96)
    """Each answer is learned after so many tokens, as far as it is longer, and at its end."""
    end_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of an answer's weight that its end has; its shorter prefixes share the rest."""
    recall: Annotated[str, Field(pattern=r"^0\.\d*[1-9]\d*$", max_length=10)] = "0.9"
    """Share of the harmful labelled answers that the threshold keeps, out of fold; decimal string."""
    labelled: Annotated[tuple[LabelledResponses, ...], Field(min_length=1, max_length=16, strict=False)]
    answers: OwnAnswers
    weights: FloatDtype = "bfloat16"
    """Weight type that the model answers and is read in."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        search = self.search or CostSearch()
        given_once("artifact.blocks", self.blocks, "artifact.search.blocks", search.blocks)
        given_once(
            "artifact.inverse_penalty",
            self.inverse_penalty,
            "artifact.search.inverse_penalties",
            search.inverse_penalties,
        )
        ascending(self.block_lists())
        ascending({"artifact.prefixes": self.prefixes})
        return self

    def block_lists(self) -> dict[str, tuple[int, ...]]:
        """Return every list of blocks by the field that names it."""
        if self.blocks is not None:
            return {"artifact.blocks": self.blocks}
        lists = self.search.blocks if self.search is not None else None
        return {f"artifact.search.blocks.{number}": blocks for number, blocks in enumerate(lists or ())}

    def read_blocks(self) -> tuple[int, ...]:
        """Return every block that one of the lists names, ascending."""
        return tuple(sorted({block for blocks in self.block_lists().values() for block in blocks}))
