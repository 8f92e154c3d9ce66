"""Seconds of the same requests without and with a policy, in turn, so that a change of the machine's pace hits both."""

from __future__ import annotations

from typing import Any

from steerguard.evaluate.answering import Answerer, EncodedSet
from steerguard.evaluate.guarding import guarded
from steerguard.evaluate.prompt_files import PromptSet
from steerguard.policy.document import Policy
from steerguard.registry.store import ArtifactStore


def timed_pairs(
    model: Any,
    tokenizer: Any,
    policy: Policy,
    registry: ArtifactStore,
    prompts: PromptSet,
    *,
    rows: int,
    rounds: int,
    max_new_tokens: int,
) -> tuple[tuple[float, float], ...]:
    """Return seconds of `generate` for one batch without and with the policy, one pair per round.

    Every round wraps the model anew and takes the wrapping out of the count. Which of the two goes first alternates.

    Args:
        model: plain, not wrapped; it is plain again at the end.
        tokenizer: its tokenizer.
        policy: what guards it.
        registry: where artifacts come from.
        prompts: where the rows come from.
        rows: how many of them make the batch, from the first on.
        rounds: how many pairs.
        max_new_tokens: most new tokens per answer.

    Raises:
        SteerguardError: as `steerguard.wrap`.
    """
    ids = EncodedSet.of(prompts, tokenizer).ids[:rows]
    answerer = Answerer(model, tokenizer, max_new_tokens)

    def plain() -> float:
        return answerer.answer(ids, guarded=False).generate_seconds

    def under_policy() -> float:
        with guarded(model, policy, tokenizer, registry):
            return answerer.answer(ids, guarded=True).generate_seconds

    # The first calls of a process pay for buffers that no later call does.
    plain()
    pairs: list[tuple[float, float]] = []
    for turn in range(rounds):
        if turn % 2:
            seconds = under_policy()
            pairs.append((plain(), seconds))
        else:
            pairs.append((plain(), under_policy()))
    return tuple(pairs)
