"""The prompts that `search.py` measures on, and how they are given to the model: sets, batches, seeds, sampling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from prompt_groups import BEGUN, Chat, PromptGroup, benign_groups, harmful_groups, prefilled_group

from steerguard.models.chat import render
from steerguard.models.inspect import text_tokenizer

HARMFUL = ("advbench", "prefilled")
BENIGN = "cast_harmless"
TEMPERATURE = 0.7
SEED = 5
"""Of the first batch; each batch adds the number of its first row, so that every method begins it alike."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a set, ready for `generate`."""

    first: int
    inputs: Mapping[str, torch.Tensor]


def measured_sets(data: Path, rows: int) -> dict[str, PromptGroup]:
    """Return the three sets by id: AdvBench rows 260-519 plain and begun by force, and CAST harmless test.

    Args:
        data: folder with the public sets.
        rows: most rows of each set.
    """
    found = (harmful_groups(data, rows)[0], prefilled_group(data), benign_groups(data, rows)[0])
    return {group.id: _first(group, rows) for group in found}


def begun_in_turn(chats: Sequence[Chat]) -> list[str | None]:
    """Return a neutral beginning for every other chat: a judge that learns from such answers learns nothing from them."""
    return [BEGUN[index // 2 % len(BEGUN)] if index % 2 else None for index in range(len(chats))]


def batches(tokenizer: Any, group: PromptGroup, size: int, *, start: int = 0) -> Iterator[Batch]:
    """Yield the rows of a set in order; a batch that was begun before is yielded whole.

    Args:
        tokenizer: of the model.
        group: the set.
        size: rows of a batch.
        start: rows that are done already, a multiple of the size or all.
    """
    for first in range(start, len(group.chats), size):
        part = slice(first, first + size)
        forced = None if group.prefills is None else group.prefills[part]
        yield Batch(first, render(tokenizer, group.chats[part], prefills=forced))


def sampled(model: Any, batch: Batch, *, tokens: int, seed: int = SEED, copies: int = 1) -> torch.Tensor:
    """Return the generated ids, int64 `[rows, tokens]`; the library's defaults decide top_k and top_p."""
    torch.manual_seed(seed + batch.first)
    with torch.inference_mode():
        ids: torch.Tensor = model.generate(
            **batch.inputs,
            max_new_tokens=tokens,
            do_sample=True,
            temperature=TEMPERATURE,
            num_return_sequences=copies,
        )
    return ids[:, batch.inputs["input_ids"].shape[1] :]


def trimmed(ids: Sequence[int], end: int) -> list[int]:
    """Return the ids of an answer up to and with its end token."""
    return list(ids[: ids.index(end) + 1]) if end in ids else list(ids)


def texts_of(tokenizer: Any, answers: Sequence[Sequence[int]]) -> list[str]:
    """Return answers as texts, without special tokens."""
    return list(text_tokenizer(tokenizer).batch_decode([list(ids) for ids in answers], skip_special_tokens=True))


def _first(group: PromptGroup, rows: int) -> PromptGroup:
    if len(group.chats) <= rows:
        return group
    forced = None if group.prefills is None else group.prefills[:rows]
    return PromptGroup(group.id, f"{group.title}, first {rows}", group.chats[:rows], forced)
