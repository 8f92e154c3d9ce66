"""Chat prompts: where the last assistant header ends, and rendering conversations into padded batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch

from steerguard.errors import IncompatibleModelError
from steerguard.models.chat_template import read_template
from steerguard.models.inspect import text_tokenizer

Conversation = Sequence[Mapping[str, Any]]
"""Messages with `role` and `content`, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationPrompt:
    """What a chat template writes where the model's answer begins."""

    header_ids: tuple[int, ...]
    """Ids of the assistant header; for templates without one (`[/INST]`), the end of the user turn."""
    tails: tuple[tuple[int, ...], ...]
    """End of the preceding turn and the header, as one sequence per kind of preceding turn."""
    turn_end_ids: tuple[tuple[int, ...], ...]
    """Sequences after which an assistant turn is no longer open."""

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> GenerationPrompt | None:
        """Learn the generation prompt from a tokenizer's or processor's chat template.

        Args:
            tokenizer: a tokenizer or a processor.

        Returns:
            The generation prompt, or None when it cannot be determined; then no prompt is recognised.
        """
        marks = read_template(tokenizer)
        if marks is None:
            return None
        return cls(header_ids=marks.header, tails=marks.tails, turn_end_ids=marks.turn_ends)

    def ends(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> tuple[int | None, ...]:
        """Find the end of the generation prompt in each row.

        A prefilled answer may follow the header.
        A header counts only behind a proper turn boundary, and only while its turn is open: no turn end and no other
        control token of the template after it. So a header written inside user text is not taken for the real one.

        Args:
            input_ids: token ids, `[batch, tokens]`.
            attention_mask: 1 where a token counts, `[batch, tokens]`; None when all do. Padding may be on either side.

        Returns:
            Per row the absolute column of the last token of the last assistant header, or None when no assistant
            turn is open. Columns count padding; whether a row is recognised does not depend on it.
        """
        tails = _by_last_token(self.tails)
        turn_ends = _by_last_token(self.turn_end_ids)
        rows: list[list[int]] = input_ids.tolist()
        if attention_mask is None:
            return tuple(_open_header_end(row, tails, turn_ends) for row in rows)
        found: list[int | None] = []
        masks: list[list[int]] = attention_mask.to(torch.bool).tolist()
        for row, mask in zip(rows, masks, strict=True):
            columns = [column for column, counts in enumerate(mask) if counts]
            end = _open_header_end([row[column] for column in columns], tails, turn_ends)
            found.append(None if end is None else columns[end])
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """One conversation as token ids."""

    ids: tuple[int, ...]
    header_end: int
    """Index of the last token of the generation prompt; `len(ids) - 1` without a prefilled answer."""


def encode_prompts(
    tokenizer: Any, conversations: Sequence[Conversation], prefills: Sequence[str | None] | None = None
) -> tuple[EncodedPrompt, ...]:
    """Render conversations with their generation prompt, followed by prefilled answer texts.

    Args:
        tokenizer: a tokenizer or a processor with a chat template.
        conversations: one or more conversations.
        prefills: per conversation the beginning of the answer or None.

    Returns:
        Unpadded token ids in the order given.

    Raises:
        IncompatibleModelError: there is no chat template, or it does not accept a conversation.
        ValueError: another number of prefills than of conversations.
    """
    plain = text_tokenizer(tokenizer)
    renderer = tokenizer if getattr(tokenizer, "chat_template", None) else plain
    answers = [None] * len(conversations) if prefills is None else list(prefills)
    encoded: list[EncodedPrompt] = []
    for index, (conversation, answer) in enumerate(zip(conversations, answers, strict=True)):
        try:
            text = _rendered(renderer, conversation)
        except Exception as error:
            raise IncompatibleModelError(
                "The tokenizer's chat template does not render this conversation",
                expected="a chat template and the roles that it knows",
                found=type(error).__name__,
                where=f"conversation {index}",
                next_step="set tokenizer.chat_template, or change the roles of the messages",
            ) from error
        prompt = list(plain(text, add_special_tokens=False)["input_ids"])
        # Encoded apart from the prompt, so that the answer's first characters cannot merge with the header.
        prefill = list(plain(answer, add_special_tokens=False)["input_ids"]) if answer else []
        encoded.append(EncodedPrompt(ids=(*prompt, *prefill), header_end=len(prompt) - 1))
    return tuple(encoded)


def pad_batch(
    rows: Sequence[Sequence[int]],
    tokenizer: Any,
    *,
    padding_side: Literal["left", "right"] = "left",
    device: torch.device | str | None = None,
) -> dict[str, torch.Tensor]:
    """Put rows of token ids into one padded batch; the tokenizer's own padding settings are neither used nor changed.

    Args:
        rows: token ids, one sequence per row.
        tokenizer: gives the pad id, else the end-of-sequence id, else 0.
        padding_side: where the padding goes.
        device: where the tensors go; None is the CPU.

    Returns:
        `input_ids` and `attention_mask`, int64, `[batch, longest row]`.
    """
    plain = text_tokenizer(tokenizer)
    pad = next((i for i in (plain.pad_token_id, plain.eos_token_id) if i is not None), 0)
    width = max((len(row) for row in rows), default=0)
    # On the CPU also where the app has set another default device.
    input_ids = torch.full((len(rows), width), pad, dtype=torch.int64, device="cpu")
    attention_mask = torch.zeros((len(rows), width), dtype=torch.int64, device="cpu")
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if padding_side == "left" else slice(0, len(row))
        input_ids[index, place] = torch.tensor(row, dtype=torch.int64, device="cpu")
        attention_mask[index, place] = 1
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    return batch if device is None else {name: tensor.to(device) for name, tensor in batch.items()}


def render(
    tokenizer: Any,
    conversations: Sequence[Conversation],
    *,
    prefills: Sequence[str | None] | None = None,
    padding_side: Literal["left", "right"] = "left",
    device: torch.device | str | None = None,
) -> dict[str, torch.Tensor]:
    """Render conversations into one padded batch that ends in the generation prompt or in a prefilled answer.

    Args:
        tokenizer: a tokenizer or a processor with a chat template; it is not changed.
        conversations: one or more conversations.
        prefills: per conversation the beginning of the answer or None.
        padding_side: where the padding goes.
        device: where the tensors go; None is the CPU.

    Returns:
        `input_ids` and `attention_mask`, int64, `[batch, longest row]`: ready for `model.generate(**batch)`.

    Raises:
        IncompatibleModelError: there is no chat template, or it does not accept a conversation.
        ValueError: another number of prefills than of conversations.
    """
    rows = [prompt.ids for prompt in encode_prompts(tokenizer, conversations, prefills)]
    return pad_batch(rows, tokenizer, padding_side=padding_side, device=device)


def _rendered(renderer: Any, conversation: Conversation) -> str:
    """Return the conversation as the template writes it; contents become lists of parts for templates that take these.

    Templates of multimodal models go through a list of parts, and pass over a plain text without a word.
    """

    def apply(messages: Sequence[Mapping[str, Any]]) -> str:
        return str(renderer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))

    messages = list(conversation)
    contents = [message.get("content") for message in messages]
    if not all(isinstance(content, str) for content in contents):
        return apply(messages)
    parts = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]

    def shows_every_content(text: str) -> bool:
        return all(str(content).strip() in text for content in contents)

    def takes_parts(text: str) -> bool:
        # A template that takes texts only prints the list as a whole.
        return shows_every_content(text) and not any(str(part["content"]) in text for part in parts)

    try:
        text = apply(messages)
    except Exception:
        in_parts = apply(parts)
        if not takes_parts(in_parts):
            raise
        return in_parts
    if shows_every_content(text):
        return text
    with suppress(Exception):
        in_parts = apply(parts)
        if takes_parts(in_parts):
            return in_parts
    # A template may also shorten a content on purpose.
    return text


def _by_last_token(sequences: tuple[tuple[int, ...], ...]) -> dict[int, list[tuple[int, ...]]]:
    grouped: dict[int, list[tuple[int, ...]]] = {}
    for sequence in sequences:
        grouped.setdefault(sequence[-1], []).append(sequence)
    return grouped


def _open_header_end(
    ids: list[int], tails: dict[int, list[tuple[int, ...]]], turn_ends: dict[int, list[tuple[int, ...]]]
) -> int | None:
    """Walk back from the end of the prompt: the first header or turn end that is met decides."""
    for index in range(len(ids) - 1, -1, -1):
        token = ids[index]
        if token in tails and _ends_with_one_of(ids, index, tails[token]):
            return index
        if token in turn_ends and _ends_with_one_of(ids, index, turn_ends[token]):
            return None
    return None


def _ends_with_one_of(ids: list[int], index: int, sequences: list[tuple[int, ...]]) -> bool:
    return any(
        len(sequence) <= index + 1 and tuple(ids[index + 1 - len(sequence) : index + 1]) == sequence
        for sequence in sequences
    )
