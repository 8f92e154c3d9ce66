"""Recipe part of roll-outs: how often each prompt is answered, by which sampling, and which answers leave that path."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from steerguard.build.recipe_part import RecipePart

_Begin = Annotated[str, Field(min_length=1, max_length=80)]


class OffPolicySettings(RecipePart):
    """Answers whose first tokens are drawn hotter; from there they go on as all others do.

    A search sees beginnings that plain sampling seldom writes. What follows them is labelled honestly, since only blocks
    behind the hot tokens are learnt from.
    """

    per_prompt: Annotated[int, Field(ge=1, le=64)]
    """How many such answers each prompt gets, besides the others."""
    temperature: Annotated[float, Field(gt=0, le=4)]
    """Of the first tokens."""
    tokens: Annotated[int, Field(ge=1, le=4096)]
    """How many first tokens are drawn hotter; a multiple of `block_tokens`."""


class RolloutSettings(RecipePart):
    """The model's own sampled answers, several to each prompt."""

    per_prompt: Annotated[int, Field(ge=2, le=64)]
    """Answers to each prompt, drawn independently; they share their forced beginning, if the prompt has one."""
    tokens: Annotated[int, Field(ge=2, le=4096)]
    """Generated tokens of each answer at most."""
    block_tokens: Annotated[int, Field(ge=2, le=4096)] = 8
    """Generated tokens between two moments at which the safety state is rolled forward: the block of the search."""
    temperature: Annotated[float, Field(gt=0, le=4)]
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_harmful_prompts: Annotated[int, Field(ge=1)] | None = None
    """Harmful prompts that are answered at most, drawn by the recipe's seed; left out, all."""
    max_benign_prompts: Annotated[int, Field(ge=1)] | None = None
    """The same of benign prompts."""
    max_prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    """Prompts with more tokens, generation prompt and forced beginning included, are left out of those drawn: long
    prompts cost most of the time."""
    begin: Annotated[tuple[_Begin, ...], Field(max_length=64, strict=False)] = ()
    """Forced beginnings, one drawn for each prompt whose answers have one; the same for harmful and benign prompts."""
    begin_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the prompts whose answers are begun by force."""
    off_policy: OffPolicySettings | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.begin) != (self.begin_share > 0):
            message = "artifact.rollouts.begin: give beginnings exactly when begin_share is above 0"
            raise ValueError(message)
        if len(set(self.begin)) != len(self.begin):
            message = "artifact.rollouts.begin: an entry stands twice"
            raise ValueError(message)
        if self.tokens % self.block_tokens or self.tokens == self.block_tokens:
            message = "artifact.rollouts.tokens: a multiple of block_tokens, and at least two blocks"
            raise ValueError(message)
        hot = self.off_policy
        if hot is not None and (hot.tokens % self.block_tokens or hot.tokens >= self.tokens):
            message = "artifact.rollouts.off_policy.tokens: a multiple of block_tokens below tokens"
            raise ValueError(message)
        return self

    @property
    def answers_per_prompt(self) -> int:
        """How many answers each prompt gets, those with hot beginnings included."""
        return self.per_prompt + (0 if self.off_policy is None else self.off_policy.per_prompt)

    @property
    def blocks(self) -> int:
        """How many blocks the longest answer has."""
        return self.tokens // self.block_tokens
