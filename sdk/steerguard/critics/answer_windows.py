"""An answer that is too long for its judge: refused, or read in windows that leave no character out. Never cut.

A cut answer would be judged by its beginning, and what follows could say anything.
Windows overlap by half. The cost of the answer is that of its worst window.
The prompt stands in every window whole; one that leaves no room for the answer is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from steerguard.errors import CostModelError

TooLong = Literal["raise", "windows"]

LEAST_ROOM = 16
"""Tokens of the answer that a window must have room for."""

MOST_WINDOWS = 64
"""More windows than this for one answer are refused."""

_SPARE = 8
"""Tokens left free in a window: a piece of a text may have a few more tokens than it had within the whole."""

Encode = Callable[[str, str], list[int]]
"""From prompt and answer to the token ids that the judge reads."""


def answer_windows(
    prompt: str, answer: str, *, encode: Encode, tokenizer: Any, max_tokens: int, too_long: TooLong, name: str
) -> list[list[int]]:
    """Return what the judge reads for one answer: one sequence of token ids, or one per window.

    Args:
        prompt: what was asked.
        answer: what was answered, not empty.
        encode: renders and encodes both.
        tokenizer: a fast tokenizer; says where the tokens of the answer lie in its text.
        max_tokens: tokens that the judge may read at once.
        too_long: what to do with an answer that needs more.
        name: of the cost model, for messages.

    Raises:
        CostModelError: too long under `raise`; or the prompt leaves no room, or there are more than `MOST_WINDOWS`.
    """
    whole = encode(prompt, answer)
    if not whole:
        raise CostModelError(
            "The tokenizer of a cost model leaves nothing of a text.",
            expected="at least one token",
            found="none",
            where=f"cost model `{name}`",
            next_step="Use a template with words of its own, or let the tokenizer add its control tokens.",
        )
    if len(whole) <= max_tokens:
        return [whole]
    if too_long == "raise":
        raise _too_long(name, f"at most {max_tokens} tokens", f"{len(whole)} tokens")
    room = max_tokens - len(encode(prompt, "")) - _SPARE
    if room < LEAST_ROOM:
        raise _too_long(name, f"room for {LEAST_ROOM} tokens of answer beside the prompt", f"room for {max(room, 0)}")
    offsets = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    starts = [start for start, _ in offsets]
    windows: list[list[int]] = []
    first = 0
    while True:
        last = first + room >= len(starts)
        # Up to the beginning of the next token, because some tokenizers leave white space out of every token.
        piece = answer[starts[first] if first else 0 : None if last else starts[first + room]]
        windows.append(encode(prompt, piece))
        if len(windows[-1]) > max_tokens or len(windows) > MOST_WINDOWS:
            raise _too_long(name, f"at most {MOST_WINDOWS} windows of {max_tokens} tokens", "more, or longer ones")
        if last:
            return windows
        first += room // 2


def _too_long(name: str, expected: str, found: str) -> CostModelError:
    return CostModelError(
        "The text is too long for its cost model, and a cut answer is not judged.",
        expected=expected,
        found=found,
        where=f"cost model `{name}`",
        next_step="Generate fewer tokens, raise `max_tokens`, set `too_long: windows`, or use a cost model that reads more.",
    )
