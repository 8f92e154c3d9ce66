"""Recipes of probes: linear ones of prompts or of answers, and conditions that compare by cosine."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from steerguard.artifacts.probe_params import Part, Similarity
from steerguard.build.recipe_answers import AnswerSettings
from steerguard.build.recipe_part import Blocks, BlocksOrNone, FloatDtype, RecipePart, ascending, given_once

ProbeEstimator = Literal["mean_difference", "logistic_regression", "lda"]
_Penalty = Annotated[float, Field(gt=0, le=1e4)]
_KindPattern = Annotated[str, Field(pattern=r"^[a-z0-9_.*-]+$", max_length=64)]


class ProbeSearch(RecipePart):
    """Settings to compare by cross-validation on build data; a list that is left out is the recipe's single value."""

    blocks: Annotated[tuple[Blocks, ...], Field(min_length=1, max_length=256, strict=False)] | None = None
    mean_blocks: Annotated[tuple[BlocksOrNone, ...], Field(min_length=1, max_length=256, strict=False)] | None = None
    """Every list is tried with every list of `blocks`; `[]` tries no prompt mean."""
    estimators: Annotated[tuple[ProbeEstimator, ...], Field(min_length=1, strict=False)] | None = None
    inverse_penalties: Annotated[tuple[_Penalty, ...], Field(min_length=1, max_length=64, strict=False)] | None = None
    """Logistic regression only; the other estimators are tried once."""
    joint: Annotated[tuple[bool, ...], Field(min_length=1, strict=False)] | None = None
    """Logistic regression only; the other estimators are tried once, part by part."""

    @model_validator(mode="after")
    def _no_entry_twice(self) -> Self:
        for field in ("blocks", "mean_blocks", "estimators", "inverse_penalties", "joint"):
            values = getattr(self, field) or ()
            if len(set(values)) != len(values):
                message = f"artifact.search.{field}: an entry stands twice"
                raise ValueError(message)
        return self


class CalibratedRecipe(RecipePart):
    """What the recipes of all probes say of their calibration."""

    calibration_weights: FloatDtype = "bfloat16"
    """Weight type of the model that the calibration scores are read from."""
    calibration_kinds_left_out: Annotated[tuple[_KindPattern, ...], Field(strict=False)] = ()
    """Kinds of benign prompts that do not enter the calibration and are reported apart: each entry is one kind, or a
    group of kinds such as `*_twin`."""


class ProbeRecipe(CalibratedRecipe):
    """A linear probe on the end of the generation prompt and on prompt means, averaged over its parts."""

    type: Literal["probe"]
    method: Literal["linear_probe"] = "linear_probe"
    read: Literal["generation_prompt_end"] = "generation_prompt_end"
    """`answer` makes a probe of answers, which has fields of its own."""
    blocks: Blocks | None = None
    """Blocks that are read at the end of the generation prompt, at `resid_post`; no block of a probe may lie above the
    first steered block of a one-pass policy."""
    mean_blocks: BlocksOrNone | None = None
    """Blocks whose prompt mean is read; none where not given."""
    estimator: ProbeEstimator | None = None
    inverse_penalty: _Penalty | None = None
    """Inverse of the L2 penalty (`C`) on standardised features; logistic regression only; 1.0 where not given."""
    joint: bool | None = None
    """True: one logistic regression on all parts together; false, and where not given: one classifier for each part."""
    search: ProbeSearch | None = None
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    """Folds of the cross-validation that the card reports."""
    weights: FloatDtype = "float32"
    """Weight type of the model that the fitted states are read from; the states themselves are float32."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        search = self.search
        given_once("artifact.blocks", self.blocks, "artifact.search.blocks", search and search.blocks)
        given_once("artifact.estimator", self.estimator, "artifact.search.estimators", search and search.estimators)
        for field, lists in (
            ("mean_blocks", search and search.mean_blocks),
            ("inverse_penalty", search and search.inverse_penalties),
            ("joint", search and search.joint),
        ):
            if lists is not None and getattr(self, field) is not None:
                name = "inverse_penalties" if field == "inverse_penalty" else field
                message = f"artifact.{field}: leave it out, since artifact.search.{name} chooses it"
                raise ValueError(message)
        if self.joint and self.estimator not in {None, "logistic_regression"}:
            message = f"artifact.joint: only logistic_regression fits parts together, not {self.estimator}"
            raise ValueError(message)
        ascending(self.block_lists())
        return self

    def block_lists(self) -> dict[str, tuple[int, ...]]:
        """Return every list of blocks that is not empty, by its field."""
        lists = {"artifact.blocks": self.blocks, "artifact.mean_blocks": self.mean_blocks}
        for field in ("blocks", "mean_blocks"):
            for number, blocks in enumerate((self.search and getattr(self.search, field)) or ()):
                lists[f"artifact.search.{field}.{number}"] = blocks
        return {field: blocks for field, blocks in lists.items() if blocks}


class AnswerProbeRecipe(CalibratedRecipe):
    """A linear probe on the newest token of the model's own answers, one logistic regression over all reads of them."""

    type: Literal["probe"]
    method: Literal["linear_probe"] = "linear_probe"
    read: Literal["answer"]
    blocks: Blocks
    """Blocks that are read at the newest token, at `resid_post`."""
    mean_blocks: BlocksOrNone = ()
    """Blocks whose prompt mean is read once, and is part of every score of the answer."""
    estimator: Literal["logistic_regression"] = "logistic_regression"
    inverse_penalty: _Penalty = 1.0
    """Inverse of the L2 penalty (`C`) on standardised features."""
    answers: AnswerSettings
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    """Folds of the cross-validation that the card reports, split by prompt."""
    weights: FloatDtype = "float32"
    """Weight type of the model that writes the answers for fitting, and whose states are read."""

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        ascending(self.block_lists())
        return self

    @property
    def parts(self) -> tuple[Part, ...]:
        """Block and what is read there, by block, the newest token before the prompt mean."""
        newest: list[Part] = [(block, "end") for block in self.blocks]
        return tuple(sorted([*newest, *((block, "prompt_mean") for block in self.mean_blocks)]))

    def block_lists(self) -> dict[str, tuple[int, ...]]:
        """Return every list of blocks that is not empty, by its field."""
        lists = {"artifact.blocks": self.blocks, "artifact.mean_blocks": self.mean_blocks}
        return {field: blocks for field, blocks in lists.items() if blocks}


class ConditionRecipe(CalibratedRecipe):
    """The condition of CAST: directions between harmful and benign prompts, compared by cosine."""

    type: Literal["probe"]
    method: Literal["cosine"]
    blocks: BlocksOrNone = ()
    """Blocks that are read at the end of the generation prompt, at `resid_post`."""
    mean_blocks: BlocksOrNone = ()
    """Blocks whose prompt mean is read, as the paper does."""
    estimator: Literal["mean_difference", "pca_pairs", "logistic_regression"] = "pca_pairs"
    """`pca_pairs`: first principal component of pairs centred on their midpoints, as the paper does;
    `logistic_regression`: the weights of one, for mixed prompts, which one component does not separate."""
    inverse_penalty: _Penalty | None = None
    """Inverse of the L2 penalty (`C`) on standardised features; logistic regression only; 1.0 where not given."""
    similarity: Similarity = "tanh_projection"
    """`tanh_projection`: the paper's; `direction`: the cosine with the direction itself."""
    weights: FloatDtype = "float32"
    """Weight type of the model that the fitted states are read from; the states themselves are float32."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.blocks and not self.mean_blocks:
            message = "artifact.blocks: give blocks, mean_blocks, or both"
            raise ValueError(message)
        if self.inverse_penalty is not None and self.estimator != "logistic_regression":
            message = f"artifact.inverse_penalty: only logistic_regression has a penalty, not {self.estimator}"
            raise ValueError(message)
        ascending(self.block_lists())
        return self

    @property
    def parts(self) -> tuple[Part, ...]:
        """Block and what is read there, by block, the end before the prompt mean."""
        ends: list[Part] = [(block, "end") for block in self.blocks]
        return tuple(sorted([*ends, *((block, "prompt_mean") for block in self.mean_blocks)]))

    def block_lists(self) -> dict[str, tuple[int, ...]]:
        """Return every list of blocks that is not empty, by its field."""
        lists = {"artifact.blocks": self.blocks, "artifact.mean_blocks": self.mean_blocks}
        return {field: blocks for field, blocks in lists.items() if blocks}
