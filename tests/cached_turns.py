"""Conversations that go on behind a cache: batches of the next turn, and what a call with a cache did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch
from tests.guarded_models import blocks_of, guarded, policy, run
from tests.multimodal_prompts import MULTIMODAL_CLASSES
from transformers import DynamicCache, StaticCache

from steerguard.testing import Architecture

TOLERANCE = {"atol": 2e-3, "rtol": 1e-4}
AT_THE_END = "coefficient: 4.0, positions: last_prompt_token_and_decode"
EVERYWHERE = "coefficient: 4.0"
NEVER, EVER = 1e6, -1e6
STEPS = 4
TEXT_CLASSES = [name for name in get_args(Architecture) if name not in (*MULTIMODAL_CLASSES, "falcon_mamba")]
RECURRENT = ("qwen3_next", "lfm2")
"""Classes whose caches cannot be continued, only emptied."""
EVERY_MODALITY = "text, image, audio, video"


def kept(model, kind="dynamic"):
    """An empty cache as an app makes it."""
    if kind == "static":
        return StaticCache(config=model.config, max_cache_len=300)
    return DynamicCache(config=model.config)


def next_turn(batch, tokens, asked=None):
    """The batch that follows an answer: all columns so far, then what is asked next, column by column."""
    asked = batch if asked is None else asked
    answered = tokens.shape[1] - batch["input_ids"].shape[1]
    shown = torch.ones(tokens.shape[0], answered, dtype=torch.long)
    return {
        "input_ids": torch.cat((tokens, asked["input_ids"]), dim=1),
        "attention_mask": torch.cat((batch["attention_mask"], shown, asked["attention_mask"]), dim=1),
    }


@dataclass
class Turn:
    """One call under a guard."""

    tokens: torch.Tensor
    logits: list[torch.Tensor]
    reports: list[Any]
    columns: int
    """That went through the first block."""

    @property
    def verdicts(self):
        return [(one.intended, one.applied, one.rules, one.cause, one.doses) for one in self.reports]

    @property
    def scores(self):
        return [reading.score for one in self.reports for reading in one.readings]

    @property
    def cached(self):
        return [one.usage.cached_tokens for one in self.reports]


def turn_of(wrapped, batch, **settings):
    """Generate under a guard; tokens, logits, reports, and the columns that were run."""
    columns = []
    count = lambda _m, _a, out: columns.append((out[0] if isinstance(out, tuple) else out).shape[1])  # noqa: E731
    handle = blocks_of(wrapped)[0].register_forward_hook(count)
    try:
        with wrapped.guard.collect() as reports:
            output, logits = run(wrapped, batch, **{"max_new_tokens": STEPS, "min_new_tokens": STEPS, **settings})
    finally:
        handle.remove()
    assert wrapped.guard.hooked_blocks == ()
    assert wrapped.guard.hooked_blocks == ()
    tokens = output if isinstance(output, torch.Tensor) else output.sequences
    return Turn(tokens=tokens, logits=logits, reports=reports, columns=sum(columns))


def agree(cached, alone):
    """A call with a cache has the outcome of the same call without one."""
    assert torch.equal(cached.tokens, alone.tokens)
    assert cached.verdicts == alone.verdicts
    assert all(abs(one - other) < 1e-3 for one, other in zip(cached.scores, alone.scores, strict=True))
    for one, other in zip(cached.logits, alone.logits, strict=True):
        assert torch.allclose(one, other, **TOLERANCE)


def same_bits(one, other):
    """Whether two runs have the same logits, bit by bit."""
    return all(
        torch.equal(left.view(torch.int32), right.view(torch.int32))
        for left, right in zip(one.logits, other.logits, strict=True)
    )


def middle(model, batch, settings, **named):
    """A threshold that some rows of a batch reach and some do not."""
    with guarded(model, policy(0.0, settings=settings), mode="monitor", **named) as wrapped:
        scores = sorted(turn_of(wrapped, batch, max_new_tokens=1, min_new_tokens=1).scores)
    return (scores[len(scores) // 2 - 1] + scores[len(scores) // 2]) / 2


def turns_of(wrapped, batch, cache, *, turns=3, **settings):
    """Hold a conversation with a cache, and ask every turn again without one; return both for each turn."""
    found = []
    for _ in range(turns):
        found.append((turn_of(wrapped, batch, past_key_values=cache, **settings), turn_of(wrapped, batch, **settings)))
        batch = next_turn(batch, found[-1][0].tokens)
    return found
