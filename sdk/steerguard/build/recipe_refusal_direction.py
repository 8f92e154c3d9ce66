"""Recipes of refusal directions: what is contrasted, which block's difference of means, and at what strength it is added."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from steerguard.build.recipe_part import Blocks, RecipePart, Strength, ascending
from steerguard.build.recipe_vectors import DonorPart, MaxPrompts, Positions, Sentence, donor_blocks

_Kinds = Annotated[tuple[str, ...], Field(strict=False)]


class RefusalDirectionRecipe(RecipePart):
    """Differences of means for the method `refusal_direction`; nothing is trained."""

    type: Literal["steering_vectors"]
    method: Literal["refusal_direction"]
    contrast: Literal["prompts", "answers"] = "prompts"
    """`prompts`: harmful minus benign prompts at the end of the generation prompt, as the paper; `answers`: the model made
    to refuse minus the model giving its own answer, both after harmful prompts and over answer positions."""
    wordings: Annotated[tuple[Sentence, ...], Field(min_length=1, max_length=32, strict=False)] | None = None
    """Refusals that are forced in turn; for `contrast: answers`, which needs them."""
    response_tokens: Annotated[int, Field(ge=1, le=256)] | None = None
    """Tokens of the model's own answers that `contrast: answers` reads; None is the length of the longest refusal."""
    blocks: Blocks
    """Blocks at whose output mode `add` adds the block's own difference; of the first of them, mode `ablate` removes the
    component at every block."""
    strength: Strength = "1.0"
    """Multiple of the difference that coefficient 1 of mode `add` stands for; the paper adds it once."""
    positions: Positions = "all"
    """Where mode `add` acts unless the policy says otherwise."""
    donor: DonorPart | None = None
    """Read in place of the model: a sibling that refuses, where the model itself was not trained to; for
    `contrast: prompts`."""
    harmful_kinds_left_out: _Kinds = ()
    """Kinds of harmful prompts that the means are not taken over; with a donor, the donor says it."""
    benign_kinds_left_out: _Kinds = ()
    """Kinds of benign prompts that the means are not taken over; with a donor, the donor says it."""
    max_prompts: MaxPrompts | None = None
    """At most this many prompts of each class, drawn by the recipe's seed; None takes all; with a donor, the donor says
    it."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.donor is not None and (
            self.harmful_kinds_left_out or self.benign_kinds_left_out or self.max_prompts is not None
        ):
            message = "artifact.donor: it names the prompts itself, so leave the kinds and max_prompts out beside it"
            raise ValueError(message)
        if (self.contrast == "answers") != (self.wordings is not None):
            wanted = (
                "contrast: answers needs refusals" if self.wordings is None else "they are for contrast: answers only"
            )
            message = f"artifact.wordings: {wanted}"
            raise ValueError(message)
        if self.contrast == "prompts" and self.response_tokens is not None:
            message = "artifact.response_tokens: contrast: prompts reads no answers, so leave it out"
            raise ValueError(message)
        if self.contrast == "answers":
            self._only_harmful_prompts()
        ascending(self.block_lists())
        return self

    def _only_harmful_prompts(self) -> None:
        if self.donor is not None:
            message = "artifact.donor: contrast: answers reads the model itself, so leave it out"
            raise ValueError(message)
        if self.benign_kinds_left_out:
            message = "artifact.benign_kinds_left_out: contrast: answers reads no benign prompts, so leave it out"
            raise ValueError(message)
        if self.wordings is not None and len(set(self.wordings)) != len(self.wordings):
            message = "artifact.wordings: a sentence stands twice"
            raise ValueError(message)

    def block_lists(self) -> dict[str, tuple[int, ...]]:
        """Return every list of blocks by its field."""
        return {**donor_blocks(self.donor), "artifact.blocks": self.blocks}
