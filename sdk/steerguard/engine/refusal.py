"""Rows that hold the refusal template as if the model had generated it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from steerguard.errors import UnsupportedPlanError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class FittedTemplate:
    """The refusal template in token ids, fitted to a limit."""

    ids: tuple[int, ...]
    cut: bool
    """True when whole words had to be left out."""


class RefusalTemplate:
    """A refusal template and the tokenizer that writes it.

    Raises:
        UnsupportedPlanError: the text is blank or holds control tokens.
    """

    def __init__(self, text: str, tokenizer: Any) -> None:
        self.text = text
        self._prefixes = _word_prefixes(text, tokenizer)
        if not text.strip() or set(self._prefixes[-1]) & set(tokenizer.all_special_ids):
            raise UnsupportedPlanError(
                "The refusal template must be plain text.",
                expected="words without control tokens of the tokenizer",
                found="nothing but spaces" if not text.strip() else "a control token",
                where="refusal.template",
                next_step="Write the sentence that a refused caller shall read.",
            )

    def fit(self, limit: int, end: int | None) -> FittedTemplate:
        """Return the longest form of the template that fits.

        Args:
            limit: most tokens that may be generated, at least 0.
            end: end-of-sequence id that follows a template that fits; None when the model has none.
        """
        whole = self._prefixes[-1]
        if len(whole) <= limit:
            closed = (*whole, end) if end is not None and len(whole) < limit else whole
            return FittedTemplate(closed, cut=False)
        fitting = [prefix for prefix in self._prefixes if len(prefix) <= limit]
        ids = fitting[-1] if fitting else ()
        closed = (*ids, end) if end is not None and len(ids) < limit else ids
        return FittedTemplate(closed, cut=True)


def replace_rows(sequences: Tensor, *, prompt_width: int, rows: Mapping[int, tuple[int, ...]], pad: int) -> Tensor:
    """Return the sequences with some rows' generated part replaced.

    Args:
        sequences: int64 `[rows, width]`, prompt included.
        prompt_width: columns of the prompt.
        rows: what each replaced row holds behind its prompt.
        pad: id that fills finished rows.

    Returns:
        int64 `[rows, max(needed, kept)]`: as wide as the longest row needs.
    """
    kept = sequences.shape[1] - prompt_width if len(rows) < sequences.shape[0] else 0
    width = max([kept, *(len(ids) for ids in rows.values())])
    result = torch.full((sequences.shape[0], prompt_width + width), pad, dtype=sequences.dtype, device=sequences.device)
    result[:, : prompt_width + kept] = sequences[:, : prompt_width + kept]
    for row, ids in rows.items():
        result[row, prompt_width:] = pad
        result[row, prompt_width : prompt_width + len(ids)] = torch.tensor(
            ids, dtype=sequences.dtype, device=sequences.device
        )
    return result


def _word_prefixes(text: str, tokenizer: Any) -> tuple[tuple[int, ...], ...]:
    words = text.split(" ")
    prefixes = [" ".join(words[: count + 1]) for count in range(len(words))]
    return tuple(tuple(tokenizer(prefix, add_special_tokens=False)["input_ids"]) for prefix in prefixes)
