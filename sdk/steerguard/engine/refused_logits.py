"""What a scored row says when it was refused: the refusal template has probability one, everything else none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from steerguard.engine.outcome import RowVerdict
    from steerguard.engine.refusal import RefusalTemplate
    from steerguard.engine.request import GuidedRequest

IMPOSSIBLE = -1024.0
"""Logit, and after a softmax log-probability, of a token that a refused row does not say.

`exp` of it is zero in every floating point type, so the template's own tokens get exactly 0, and sums stay finite.
"""

ANY_LENGTH = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Where the answers of scored rows lie, and which columns of them the logits hold."""

    mask: Tensor
    """bool `[rows, columns]`, False at padding."""
    ends: Tensor
    """int64 `[rows]`, column of the end of the generation prompt; 0 where there is none."""
    recognised: tuple[bool, ...]
    kept: Tensor
    """int64 `[kept]`, the columns that the logits are of."""

    @classmethod
    def of(cls, request: GuidedRequest, mask: Tensor, *, logits_to_keep: int | Tensor | None) -> Columns:
        """Describe the rows of a request; `logits_to_keep` is the argument of the model's forward pass."""
        columns = torch.arange(mask.shape[1], device=mask.device)
        if isinstance(logits_to_keep, torch.Tensor):
            columns = columns[logits_to_keep.to(mask.device)]
        elif logits_to_keep:
            columns = columns[-logits_to_keep:]
        ends = torch.tensor(request.columns, device=mask.device)
        return cls(mask=mask, ends=ends, recognised=request.recognised, kept=columns)

    def broken(self, logits: Tensor) -> list[bool]:
        """Return per row whether a logit of its answer is not a number; a broken state makes every logit of it so."""
        behind = self.mask & (torch.arange(self.mask.shape[1], device=self.mask.device) >= self.ends[:, None])
        found: list[bool] = (torch.isnan(logits.select(2, 0)) & behind[:, self.kept].to(logits.device)).any(1).tolist()
        return found


def refused_logits(
    logits: Tensor,
    columns: Columns,
    verdicts: Sequence[RowVerdict],
    template: RefusalTemplate,
    generation_config: Any,
) -> Tensor:
    """Return the logits with those of refused rows replaced by what `generate` returns for them.

    From the end of the generation prompt on, column after column predicts the next token of the refusal template, its
    end, then padding, whatever the answer in the row is; earlier columns predict its first token, because an earlier
    turn may hold what the row was refused for. A row without such an end, or whose state was not finite, says the
    template from its first column on.

    Args:
        logits: `[rows, kept, vocabulary]`.
        columns: where the answers lie.
        verdicts: one per row.
        template: what a refused caller reads.
        generation_config: names the tokens that end an answer and that pad it.
    """
    ending, padding = _first(generation_config.eos_token_id), _first(generation_config.pad_token_id)
    said = template.fit(ANY_LENGTH, ending).ids
    filler = next((token for token in (padding, ending) if token is not None), 0)
    tokens = torch.tensor([*said, filler], device=logits.device)
    counted = columns.mask.long().cumsum(dim=1)
    result = logits.clone()
    for row, verdict in enumerate(verdicts):
        if verdict.applied != "refuse":
            continue
        whole = not columns.recognised[row] or verdict.verdict.cause == "non_finite"
        start = 0 if whole else int(columns.ends[row])
        # The first token of a row counts as one, and padding before it as none.
        numbers = (counted[row] - counted[row, start].clamp(min=1)).clamp(0, len(said))
        numbers = numbers[columns.kept].to(logits.device)
        result[row] = torch.full_like(logits[row], IMPOSSIBLE).scatter_(1, tokens[numbers][:, None], 0.0)
    return result


def _first(token: int | list[int] | None) -> int | None:
    return token[0] if isinstance(token, (list, tuple)) else token
