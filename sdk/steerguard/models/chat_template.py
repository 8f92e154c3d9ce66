"""Learn a chat template by rendering probes: no template is known by name.

A probe is the same conversation rendered with several contents that end in different characters.
The token ids that all renderings share at their end belong to the template, and what comes before them to the content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerguard.models.inspect import text_tokenizer

Ids = tuple[int, ...]
Messages = list[dict[str, Any]]

_CONTENTS = ("Name a river", "Is 7 an odd number?", "Add 2 to 5", "Write 'tree' (once)", "Good day.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateMarks:
    """Token ids that a chat template writes around the contents."""

    header: tuple[int, ...]
    """What `add_generation_prompt` appends; where it appends nothing, the end of the user turn."""
    tails: tuple[tuple[int, ...], ...]
    """End of the preceding turn followed by the header, one per kind of preceding turn, none a suffix of another."""
    turn_ends: tuple[tuple[int, ...], ...]
    """Sequences that close an assistant turn or open another turn."""


def read_template(tokenizer: Any) -> TemplateMarks | None:
    """Return the marks of the chat template, or None when they cannot be told apart from the contents.

    Args:
        tokenizer: a tokenizer or a processor with a chat template.

    Returns:
        The marks, or None without a template, when the template renders no user turn, or when nothing visible
        separates an assistant turn from what follows it.
    """
    for wrap in (_as_text, _as_parts):
        marks = _read(Prober(tokenizer, wrap))
        if marks is not None:
            return marks
    return None


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of control tokens: declared special, or named as bos, eos, pad and the like."""
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(tokenizer.all_special_ids) | {index for index, token in added.items() if token.special}


class Prober:
    """Renders conversations of which one content varies."""

    def __init__(self, tokenizer: Any, wrap: Callable[[str], Any]) -> None:
        self.tokenizer = text_tokenizer(tokenizer)
        self._renderer = tokenizer if getattr(tokenizer, "chat_template", None) else self.tokenizer
        self._wrap = wrap

    @classmethod
    def reading(cls, tokenizer: Any) -> Prober | None:
        """Return a prober with contents as the template takes them, texts or lists of parts; None when it takes neither."""
        probers = (cls(tokenizer, wrap) for wrap in (_as_text, _as_parts))
        return next((prober for prober in probers if prober.render(["user"], header=True) is not None), None)

    def render(
        self, roles: Sequence[str], *, header: bool, place: int = -1, filler: str = "Hello there"
    ) -> tuple[Ids, ...] | None:
        """Return one rendering per content, or None when the template does not take this conversation.

        Args:
            roles: of the turns.
            header: whether a generation prompt follows.
            place: the turn whose content varies, the last one by default.
            filler: the content of all others.
        """
        rendered: list[Ids] = []
        for content in _CONTENTS:
            texts = [filler] * len(roles)
            texts[place] = content
            messages = [{"role": role, "content": self._wrap(text)} for role, text in zip(roles, texts, strict=True)]
            text = self._apply(messages, header=header)
            if text is None or content not in text:
                return None
            varied = messages[place]["content"]
            if varied != content and str(varied) in text:
                # The list of parts was printed as a whole: this template takes texts only.
                return None
            rendered.append(tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"]))
        return tuple(rendered)

    def _apply(self, messages: Messages, *, header: bool) -> str | None:
        try:
            text = self._renderer.apply_chat_template(messages, tokenize=False, add_generation_prompt=header)
        except Exception:  # noqa: BLE001  a template is foreign code; whatever it raises means: not such a conversation
            return None
        return text if isinstance(text, str) else None


def _as_text(content: str) -> str:
    return content


def _as_parts(content: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": content}]


def _read(prober: Prober) -> TemplateMarks | None:
    opened = prober.render(["user"], header=True)
    closed = prober.render(["user"], header=False)
    if opened is None or closed is None:
        return None
    user_tail = shared_end(opened)
    header = shared_end([ids[shared_start(ids, other) :] for ids, other in zip(opened, closed, strict=True)])
    if not user_tail:
        return None
    if not header or len(header) > len(user_tail):
        header = user_tail
    turn_ends = _turn_ends(prober, closed, header)
    if turn_ends is None:
        return None
    return TemplateMarks(header=header, tails=_tails(prober, user_tail, header), turn_ends=turn_ends)


def _tails(prober: Prober, user_tail: Ids, header: Ids) -> tuple[Ids, ...]:
    found = {user_tail}
    for roles in (["user", "assistant"], ["system"], ["user", "assistant", "tool"]):
        rendered = prober.render(roles, header=True)
        tail = shared_end(rendered) if rendered is not None else ()
        if len(tail) > len(header) and tail[-len(header) :] == header:
            found.add(tail)
    return tuple(
        sorted(tail for tail in found if not any(tail != other and tail[-len(other) :] == other for other in found))
    )


def _turn_ends(prober: Prober, user_turns: Iterable[Ids], header: Ids) -> tuple[Ids, ...] | None:
    tokenizer = prober.tokenizer
    special = special_ids(tokenizer)
    singles = {index for ids in user_turns for index in ids if index in special}
    singles.update(index for index in header[:1] if index in special)
    if tokenizer.eos_token_id is not None:
        singles.add(tokenizer.eos_token_id)
    answered = prober.render(["user", "assistant"], header=False)
    if answered is None:
        return tuple((index,) for index in sorted(singles)) or None
    closing = shared_end(answered)
    visible = [index for index in closing if index in special]
    singles.update(visible)
    ends: list[Ids] = [(index,) for index in sorted(singles)]
    if not visible:
        if not tokenizer.decode(list(closing)).strip():
            # Without a visible end, a later user turn could hide behind an earlier assistant header.
            return None
        ends.append(closing)
    return tuple(ends)


def shared_start(first: Ids, second: Ids) -> int:
    """Return how many ids two sequences share at their beginning."""
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    return length


def shared_end(sequences: Sequence[Ids]) -> Ids:
    """Return the ids that all sequences share at their end."""
    first = sequences[0]
    length = min(shared_start(first[::-1], other[::-1]) for other in sequences)
    return first[len(first) - length :]
