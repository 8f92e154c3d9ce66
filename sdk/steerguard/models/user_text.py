"""What a prompt asks: the text of the last user turn of a rendered conversation, for judges that read texts.

Where turns begin is learned by rendering probes, as in `chat_template`: ids that all renderings share before a content
belong to the template.

The text runs from behind the user's header to the assistant header where the answer begins:

- User turns that follow one another count as one, and so does whatever stands behind the last user turn, such as the
  result of a tool. A turn that a user writes with control tokens of the template therefore hides nothing, unless it
  also writes an answer of the assistant and a next user turn; such a prompt is a conversation of several turns, and only
  a tokenizer that escapes control tokens can tell.
- A prefilled answer is not part of it.
- Where the last user turn cannot be found, the text of the whole prompt is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from steerguard.models.chat import GenerationPrompt
from steerguard.models.chat_template import Ids, Prober, shared_end, shared_start
from steerguard.models.inspect import text_tokenizer

_FEW = ("user", "assistant", "user")
_MANY = (*_FEW, "assistant", "user")


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarts:
    """Token ids that a chat template writes before contents; empty where it writes nothing, or nothing that is fixed.

    White space at their end is left out: it may be one token with the beginning of the content.
    """

    user: Ids
    """Before the content of any user turn."""
    assistant: Ids
    """Before the content of an earlier answer, end of the turn before it included."""
    user_after_answer: Ids
    """Before the content of a user turn that follows an answer, end of that answer included."""

    @classmethod
    def of(cls, tokenizer: Any) -> TurnStarts | None:
        """Learn them from a tokenizer's or processor's chat template; None when it marks no user turn."""
        prober = Prober.reading(tokenizer)
        alone = None if prober is None else _before(prober, ("user",), 0, filler="")
        if prober is None or not alone:
            return None
        few = [_before(prober, _FEW, place, filler="Hello there") for place in range(len(_FEW))]
        many = [_before(prober, _MANY, place, filler="Is 7 odd?") for place in range(len(_MANY))]
        return cls(
            user=shared_end((alone, few[2])) if few[2] else alone,
            assistant=shared_end((few[1], many[3])),
            user_after_answer=shared_end((few[2], many[4])),
        )

    def last_user(self, ids: Sequence[int]) -> int | None:
        """Return the index behind the header of the last user turn; of turns that follow one another, of the first.

        Args:
            ids: token ids of a prompt up to the end of its last turn.

        Returns:
            The index of the first token of the text, at most `len(ids)`; None where no user turn begins.
        """
        start: int | None = None
        answered = False
        for end in range(1, len(ids) + 1):
            if start is None:
                start = end if _ends_with(ids, end, self.user) else None
            elif _ends_with(ids, end, self.assistant):
                answered = True
            elif answered and _ends_with(ids, end, self.user_after_answer):
                start, answered = end, False
        return start


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UserText:
    """Finds the text of the last user turn in the token ids of a prompt."""

    tokenizer: Any
    """Turns token ids into text."""
    prompt: GenerationPrompt | None
    """Where the answer begins; None where that cannot be told."""
    starts: TurnStarts | None

    @classmethod
    def of(cls, tokenizer: Any, prompt: GenerationPrompt | None) -> UserText:
        """Return the finder for a tokenizer or processor.

        Args:
            tokenizer: a tokenizer or a processor.
            prompt: its generation prompt.
        """
        return cls(tokenizer=text_tokenizer(tokenizer), prompt=prompt, starts=TurnStarts.of(tokenizer))

    def __call__(self, ids: Sequence[int]) -> str:
        """Return the text of the last user turn, or of the whole prompt; control tokens and outer white space left out.

        Args:
            ids: token ids of one prompt, without padding.
        """
        text: str = self.tokenizer.decode(list(self._asked(ids)), skip_special_tokens=True)
        return text.strip()

    def _asked(self, ids: Sequence[int]) -> Sequence[int]:
        if self.prompt is None or self.starts is None:
            return ids
        header = self.prompt.ends(torch.tensor([list(ids)], dtype=torch.int64, device="cpu"))[0]
        if header is None:
            return ids
        tails = [len(tail) for tail in self.prompt.tails if _ends_with(ids, header + 1, tail)]
        asked = ids[: header + 1 - max(tails, default=0)]
        start = self.starts.last_user(asked)
        return ids if start is None else asked[start:]


def _before(prober: Prober, roles: Sequence[str], place: int, *, filler: str) -> Ids:
    """Return the ids before the content of one turn, which are the same whatever it is; empty when it does not render."""
    rendered = prober.render(roles, header=False, place=place, filler=filler)
    if rendered is None:
        return ()
    before = rendered[0][: min(shared_start(rendered[0], other) for other in rendered[1:])]
    while before and not prober.tokenizer.decode(before[-1:]).strip():
        before = before[:-1]
    return before


def _ends_with(ids: Sequence[int], end: int, sequence: Ids) -> bool:
    """Return whether a sequence that is not empty stands right before an index."""
    begin = end - len(sequence)
    return bool(sequence) and begin >= 0 and ids[end - 1] == sequence[-1] and tuple(ids[begin:end]) == sequence
