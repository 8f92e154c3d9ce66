"""Recipe part of a probe of answers: which answers it is fitted to and calibrated on, and where they are read."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from steerguard.build.recipe_part import RecipePart

_Begin = Annotated[str, Field(min_length=1, max_length=80)]


class AnswerSettings(RecipePart):
    """The model's own answers, and the tokens at which they are read."""

    tokens: Annotated[int, Field(ge=2, le=4096)]
    """Generated tokens of each answer at most; a rate holds for answers that are read no longer than that."""
    every: Annotated[int, Field(ge=1, le=4096)] = 8
    """Generated tokens between two reads."""
    first: Annotated[int, Field(ge=1, le=4096)] = 1
    """Generated tokens before the first read; an answer that was begun by force is also read where it was begun."""
    in_a_row: Annotated[int, Field(ge=1, le=16)] = 1
    """Reads, one after the other, whose lowest score counts for an answer in the calibration."""
    max_harmful_prompts: Annotated[int, Field(ge=1)] | None = None
    """Harmful prompts that are answered for fitting at most, drawn by the recipe's seed; left out, all."""
    max_benign_prompts: Annotated[int, Field(ge=1)] | None = None
    """The same of benign prompts."""
    begin: Annotated[tuple[_Begin, ...], Field(max_length=64, strict=False)] = ()
    """Forced beginnings, one drawn for each answer that has one; the same for harmful and benign prompts."""
    begin_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the answers that are begun by force."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.begin) != (self.begin_share > 0):
            message = "artifact.answers.begin: give beginnings exactly when begin_share is above 0"
            raise ValueError(message)
        if len(set(self.begin)) != len(self.begin):
            message = "artifact.answers.begin: an entry stands twice"
            raise ValueError(message)
        if self.first >= self.tokens:
            message = "artifact.answers.first: the first read lies behind the last token that is read, tokens - 1"
            raise ValueError(message)
        return self
