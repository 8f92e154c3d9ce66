"""Recipes of refusal directions: which block's difference of means, and at what strength it is added."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from steerguard.build.recipe_part import Blocks, RecipePart, Strength, ascending
from steerguard.build.recipe_vectors import DonorPart, MaxPrompts, Positions, donor_blocks

_Kinds = Annotated[tuple[str, ...], Field(strict=False)]


class RefusalDirectionRecipe(RecipePart):
    """Differences of means for the method `refusal_direction`; nothing is trained."""

    type: Literal["steering_vectors"]
    method: Literal["refusal_direction"]
    blocks: Blocks
    """Blocks at whose output mode `add` adds the block's own difference; of the first of them, mode `ablate` removes the
    component at every block."""
    strength: Strength = "1.0"
    """Multiple of the difference that coefficient 1 of mode `add` stands for; the paper adds it once."""
    positions: Positions = "all"
    """Where mode `add` acts unless the policy says otherwise."""
    donor: DonorPart | None = None
    """Read in place of the model: a sibling that refuses, where the model itself was not trained to."""
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
        ascending(self.block_lists())
        return self

    def block_lists(self) -> dict[str, tuple[int, ...]]:
        """Return every list of blocks by its field."""
        return {**donor_blocks(self.donor), "artifact.blocks": self.blocks}
