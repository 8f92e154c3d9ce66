"""How surprising an answer is to a model: perplexity per answer token, teacher-forced."""

from __future__ import annotations

import inspect as signatures
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch

from steerguard.errors import EvaluationError
from steerguard.models.chat import Conversation, encode_prompts, pad_batch


def answer_perplexity(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    prefills: Sequence[str | None] | None,
    answer_ids: Sequence[Sequence[int]],
    *,
    batch_size: int,
    padding_side: Literal["left", "right"] = "left",
) -> list[float]:
    """Return the perplexity of each answer: exp of its mean negative log-likelihood per token, in nats.

    The prompt, the generation prompt and a prefilled beginning condition the answer and are not counted themselves.
    Every id that is given counts, so leave the end token out when it should not.
    The log-softmax is float32 whatever the weights are, and logits are computed at answer positions only.

    Args:
        model: a decoder-only causal language model; a wrapped one needs its permission for unguided passes.
        tokenizer: its tokenizer or processor, with a chat template.
        conversations: what was asked, one per answer.
        prefills: per conversation the forced beginning of the answer or None; None when there is none at all.
        answer_ids: new token ids of each answer, without padding; at least one each.
        batch_size: answers per forward, at least 1.
        padding_side: where padding goes; the result depends on it only by rounding.

    Returns:
        One number per answer in the order given, at least 1; infinite where the model excludes a token.

    Raises:
        EvaluationError: an answer is empty: it has no perplexity, and a made-up number would enter averages.
        IncompatibleModelError: the chat template does not render a conversation.
        ValueError: the lists differ in length, or `batch_size` is not allowed.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if len(conversations) != len(answer_ids):
        raise ValueError(f"{len(conversations)} conversations but {len(answer_ids)} answers")
    for index, answer in enumerate(answer_ids):
        if len(answer) == 0:
            raise EvaluationError(
                "An empty answer has no perplexity.",
                where=f"answer {index}",
                expected="at least one token",
                found="none",
                next_step="leave empty answers out and report their share",
            )
    prompts = [prompt.ids for prompt in encode_prompts(tokenizer, conversations, prefills)]
    rows = [(*prompt, *answer) for prompt, answer in zip(prompts, answer_ids, strict=True)]
    # Rows of like length together: less padding.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    found = [math.nan] * len(rows)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                batch = pad_batch(
                    [rows[index] for index in chosen], tokenizer, padding_side=padding_side, device=model.device
                )
                lengths = [len(answer_ids[index]) for index in chosen]
                for index, mean in zip(chosen, _mean_losses(model, batch, lengths), strict=True):
                    found[index] = _exp(mean)
    finally:
        model.train(training)
    return found


def _mean_losses(model: Any, batch: dict[str, torch.Tensor], lengths: Sequence[int]) -> list[float]:
    """Return the mean negative log-likelihood of the last tokens of each row.

    Args:
        model: in eval mode.
        batch: `input_ids` and `attention_mask`, padded on either side.
        lengths: how many tokens at the end of each row are its answer.
    """
    ids, mask = batch["input_ids"], batch["attention_mask"]
    # Column after the last real token, on either side of the padding.
    ends = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(dim=1).tolist()
    spans = [(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    # The token at column c is predicted at column c - 1.
    columns = torch.arange(min(first for first, _ in spans) - 1, max(end for _, end in spans) - 1, device=ids.device)
    logits = model(**batch, use_cache=False, **_extra_arguments(model, mask, columns)).logits
    if logits.shape[1] != len(columns):
        # A model without `logits_to_keep` computes them all.
        logits = logits[:, columns]
    means: list[float] = []
    offset = int(columns[0]) + 1
    for row, (first, end) in enumerate(spans):
        own = torch.log_softmax(logits[row, first - offset : end - offset].float(), dim=-1)
        means.append(-float(own.gather(-1, ids[row, first:end].unsqueeze(-1)).double().mean()))
    return means


def _extra_arguments(model: Any, mask: torch.Tensor, columns: torch.Tensor) -> dict[str, torch.Tensor]:
    accepted = signatures.signature(model.forward).parameters
    extra: dict[str, torch.Tensor] = {}
    if "position_ids" in accepted:
        # Decoders count positions from the first column otherwise, padding included.
        extra["position_ids"] = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    if "logits_to_keep" in accepted:
        extra["logits_to_keep"] = columns
    return extra


def _exp(mean: float) -> float:
    try:
        return math.exp(mean)
    except OverflowError:
        return math.inf
