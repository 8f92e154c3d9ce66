"""What one run of a decoding loop was asked for, from the settings that `generate` prepared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """What one run of the loop was asked for."""

    prompt_width: int
    limit: int
    """Most tokens that may be generated."""
    samples: bool
    beams: bool
    copies: int
    """Rows per prompt."""
    answers: int
    """Returned sequences per prompt."""
    pad: int
    end_ids: tuple[int, ...]
    records_states: bool
    """Whether the caller asked for hidden states."""
    cached: bool = True
    """Whether a decode step feeds only the new token."""

    @classmethod
    def of(cls, config: Any, prompt_width: int, *, beams: bool) -> LoopSettings:
        """Return the settings that `generate` prepared for its loop.

        Args:
            config: the effective generation settings.
            prompt_width: columns of the prompt.
            beams: whether this is beam search.
        """
        answers = config.num_return_sequences or 1
        return cls(
            prompt_width=prompt_width,
            limit=config.max_length - prompt_width,
            samples=bool(config.do_sample),
            beams=beams,
            copies=config.num_beams if beams else answers,
            answers=answers,
            pad=(*_ids(config._pad_token_tensor), 0)[0],  # noqa: SLF001 - set by generate for its own loops
            end_ids=_ids(config._eos_token_tensor),  # noqa: SLF001 - as above
            records_states=bool(config.output_hidden_states),
            cached=bool(config.use_cache),
        )


def _ids(tensor: Tensor | None) -> tuple[int, ...]:
    return () if tensor is None else tuple(int(token) for token in tensor.reshape(-1).tolist())
