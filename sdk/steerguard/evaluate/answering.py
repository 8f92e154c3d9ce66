"""One batch of prompts through the model, with or without guidance: token ids, texts and decisions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from steerguard.decision import Decision
from steerguard.evaluate.prompt_files import PromptSet
from steerguard.models.chat import encode_prompts, pad_batch
from steerguard.models.inspect import text_tokenizer

# Greedy search whatever the model's own generation settings say; None leaves out what only sampling reads.
GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """A set of prompts with its token ids: encoded once, used by every run."""

    prompts: PromptSet
    ids: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, prompts: PromptSet, tokenizer: Any) -> EncodedSet:
        """Encode every prompt with its generation prompt and prefill.

        Raises:
            IncompatibleModelError: the chat template does not accept a conversation.
        """
        encoded = encode_prompts(tokenizer, prompts.conversations, prompts.prefills)
        return cls(prompts, tuple(prompt.ids for prompt in encoded))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each prompt."""
        return tuple(map(len, self.ids))


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredBatch:
    """What came back for one batch, row by row."""

    ids: tuple[tuple[int, ...], ...]
    """New token ids up to and with the end token, without padding."""
    texts: tuple[str, ...]
    """The same without special tokens."""
    decisions: tuple[Decision, ...] | None
    """None without guidance."""
    generate_seconds: float


class Answerer:
    """A model that answers batches.

    Args:
        model: plain or wrapped; the same object may be wrapped and unwrapped between batches.
        tokenizer: its tokenizer or processor.
        max_new_tokens: most new tokens per answer.
        decoding: arguments of `generate` that say how tokens are chosen.
    """

    def __init__(
        self, model: Any, tokenizer: Any, max_new_tokens: int, decoding: Mapping[str, Any] | None = None
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens
        self._decoding = GREEDY if decoding is None else decoding
        settings = model.generation_config
        self._ends = _ids(settings.eos_token_id)
        self._pad = (*_ids(settings.pad_token_id), *self._ends, 0)[0]

    def answer(self, rows: Sequence[Sequence[int]], *, guarded: bool) -> AnsweredBatch:
        """Answer one batch.

        Args:
            rows: token ids of each prompt.
            guarded: whether the model is wrapped now, so that decisions are gathered.
        """
        batch = pad_batch(rows, self._tokenizer, device=self._model.device)
        decisions: list[Decision] | None = None
        start = time.perf_counter()
        if guarded:
            with self._model.guard.collect() as decisions:
                output = self._generate(batch)
        else:
            output = self._generate(batch)
        seconds = time.perf_counter() - start
        ids = tuple(self._trimmed(row) for row in output[:, batch["input_ids"].shape[1] :].tolist())
        texts = text_tokenizer(self._tokenizer).batch_decode(ids, skip_special_tokens=True)
        return AnsweredBatch(
            ids=ids,
            texts=tuple(texts),
            decisions=None if decisions is None else tuple(decisions),
            generate_seconds=seconds,
        )

    def without_end(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return the ids of an answer without its end token."""
        return tuple(ids[:-1] if ids and ids[-1] in self._ends else ids)

    def _generate(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.inference_mode():
            output: torch.Tensor = self._model.generate(**batch, max_new_tokens=self._max_new_tokens, **self._decoding)
        return output

    def _trimmed(self, ids: list[int]) -> tuple[int, ...]:
        for index, token in enumerate(ids):
            if token in self._ends:
                return tuple(ids[: index + 1])
        while ids and ids[-1] == self._pad:
            ids.pop()
        return tuple(ids)


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(one) for one in value) if isinstance(value, (list, tuple)) else (int(value),)
