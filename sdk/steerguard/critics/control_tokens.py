"""Control tokens that a text merely spells, such as `</s>`: broken up, so that no text can close its own turn.

A judge's tokenizer turns the spelt form of a control token into the token itself. Without this an answer could end its
turn, open the judge's and write the verdict.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """The control tokens of one tokenizer."""

    pattern: re.Pattern[str] | None
    """Finds the spelt form of each; None when the tokenizer has none."""

    @classmethod
    def of(cls, tokenizer: Any) -> ControlTokens:
        """Return the control tokens of a Hugging Face tokenizer: its special tokens, spelt in either case."""
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = {str(token) for token in added if getattr(token, "special", False)}
        spelt = {token.strip() for token in special | set(tokenizer.all_special_tokens)} - {""}
        if not spelt:
            return cls(None)
        longest_first = sorted(spelt, key=lambda token: (-len(token), token))
        return cls(re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE))

    def broken_up(self, text: str) -> str:
        """Return the text with a space behind the first character of each spelt control token; other text stays."""
        if self.pattern is None:
            return text
        # Breaking one up could spell another, so until none is left; a token of one character gives way to the space.
        while (found := self.pattern.sub(_with_a_space, text)) != text:
            text = found
        return text


def _with_a_space(match: re.Match[str]) -> str:
    spelt = match[0]
    return f"{spelt[0]} {spelt[1:]}" if len(spelt) > 1 else " "
