"""The record of one answered prompt: one line of the journal, one row of the report. Holds texts in the clear."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from steerguard.decision import Action
from steerguard.evaluate.result import DecimalText


class EvaluatedRow(BaseModel):
    """What one run answered to one prompt of one set."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    set: str
    """Name of the set."""
    run: str
    """`unguided` or the policy's name."""
    index: Annotated[int, Field(ge=0)]
    """Position of the prompt in its set."""
    prompt: str
    """The last user message."""
    prefill: str | None = None
    """Beginning of the answer that was forced."""
    answer: str
    """The decoded new text without special tokens; the prefill is not repeated."""
    answer_tokens: Annotated[int, Field(ge=0)] = 0
    """New tokens of the answer, the end token counted."""
    token_ids_sha256: str
    """SHA-256 of the new token ids up to and with the end token, as canonical JSON."""
    identical_to_unguided: bool | None = None
    """Whether the new token ids are those of the unguided run; None in the unguided run itself."""
    action: Action
    """What the policy intended; `allow` in the unguided run."""
    applied: Action
    """What was done; differs from `action` in monitor mode."""
    scores: dict[str, DecimalText]
    """By detector; a detector that read nothing is absent."""
    extra_forward_tokens: Annotated[int, Field(ge=0)] = 0
    """Forward tokens beyond those of the same unguided request."""
    changed_positions: Annotated[int, Field(ge=0)] = 0
    """Token positions that guidance changed, summed over steps and blocks; 0 where no gate of a step opened."""
    harm: DecimalText | None = None
    """The judge's probability that prompt and answer together are harmful; None without a judge."""
    perplexity: dict[str, DecimalText] = {}
    """By model, the perplexity of the answer given the prompt; empty where the answer has no token."""
