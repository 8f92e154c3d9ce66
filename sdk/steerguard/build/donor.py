"""The aligned sibling: a copy of the target that learns one refusal sentence, is read, and is discarded.

InferAligner (arXiv 2401.11206) takes the vectors from an aligned model of the same ancestor; where none exists,
one is made by a short safety fine-tuning. Here only some decoder blocks move, so that the donor stays in the
target's basis, and benign prompts are answered with the target's *own* words, so that what the two models do
differently is refusing and nothing else. Plain float32 AdamW; the target itself is never written to.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from steerguard.build.contrast import Conversation
from steerguard.build.recipe_vectors import FineTunedDonor
from steerguard.errors import BuildError
from steerguard.models.blocks import decoder_blocks, text_decoder
from steerguard.models.chat import render

Example = TypeVar("Example")

_IGNORED = -100
# Gradients of the first steps are several times larger than later ones.
_MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One training example: token ids of a rendered prompt and of the answer to learn."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def own_answers(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    *,
    tokens: int,
    batch_size: int,
    progress: Callable[[int], None],
    begins: Sequence[str | None] | None = None,
) -> Tensor:
    """Return the model's greedy answers as ids, int64 `[n, tokens]`, padded with -1 after the end of the turn.

    Args:
        model: the target.
        tokenizer: its tokenizer.
        conversations: what is answered.
        tokens: answer tokens to keep.
        batch_size: prompts per call.
        progress: called with the number of prompts done so far.
        begins: per conversation a forced beginning of the answer or None; it is no part of what is returned.
    """
    answers = torch.full((len(conversations), tokens), -1, dtype=torch.int64)
    for start in range(0, len(conversations), batch_size):
        rows = list(conversations[start : start + batch_size])
        forced = None if begins is None else begins[start : start + batch_size]
        inputs = render(tokenizer, rows, prefills=forced, device=model.device)
        with torch.inference_mode():
            full = model.generate(
                **inputs,
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=end_of_turn(tokenizer),
            )
        new = full[:, inputs["input_ids"].shape[1] :].cpu()
        ended = (new == end_of_turn(tokenizer)).cumsum(dim=1) > 1
        answers[start : start + len(rows), : new.shape[1]] = new.masked_fill(ended, -1)
        progress(start + len(rows))
    return answers


def lessons(tokenizer: Any, conversations: Sequence[Conversation], answers: Sequence[Sequence[int]]) -> list[Lesson]:
    """Return training examples for the conversations and the answer ids to learn."""
    examples = []
    for conversation, answer in zip(conversations, answers, strict=True):
        inputs = render(tokenizer, [conversation])
        examples.append(Lesson(prompt=tuple(inputs["input_ids"][0].tolist()), answer=tuple(answer)))
    return examples


def refusal_ids(tokenizer: Any, sentence: str) -> tuple[int, ...]:
    """Return the ids of the refusal sentence with the end of the turn."""
    ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
    return (*ids, end_of_turn(tokenizer))


def train_donor(
    model: Any,
    harmful: Sequence[Lesson],
    benign: Sequence[Lesson],
    settings: FineTunedDonor,
    *,
    seed: int,
    progress: Callable[[int], None],
) -> dict[str, Tensor]:
    """Fine-tune a copy of the model and return the parameters that moved.

    Args:
        model: the target in float32; it is copied, never changed.
        harmful: prompts with the refusal as answer.
        benign: prompts with the target's own answer.
        settings: blocks, steps, batch and learning rate.
        seed: decides the order of the examples.
        progress: called with the number of steps done so far.

    Returns:
        `<block>.<parameter name>` to float32 weights, for `donor_from`.

    Raises:
        BuildError: the loss is not finite.
    """
    donor = _trainable_copy(model, settings.train_blocks)
    moving = {
        f"{index}.{name}": parameter
        for index, block in enumerate(decoder_blocks(donor))
        if index in settings.train_blocks
        for name, parameter in block.named_parameters()
    }
    optimiser = torch.optim.AdamW(moving.values(), lr=settings.learning_rate, weight_decay=0.0)
    half = settings.batch_size // 2
    refuse, answer = cycle(harmful, seed), cycle(benign, seed + 1)
    for step in range(settings.steps):
        batch = [refuse(step * half + offset) for offset in range(half)]
        batch += [answer(step * half + offset) for offset in range(half)]
        loss = answer_loss(donor, batch)
        if not bool(torch.isfinite(loss)):
            raise BuildError(
                "The donor's loss is not finite.",
                where=f"step {step}",
                found=float(loss),
                next_step="lower artifact.donor.learning_rate",
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(list(moving.values()), _MAX_GRADIENT_NORM)
        optimiser.step()
        progress(step + 1)
    return {name: parameter.detach().clone() for name, parameter in moving.items()}


def donor_from(model: Any, moved: dict[str, Tensor]) -> Any:
    """Return a copy of the model that holds the donor's parameters."""
    donor = copy.deepcopy(model)
    blocks = decoder_blocks(donor)
    with torch.no_grad():
        for label, weights in moved.items():
            index, _, name = label.partition(".")
            blocks[int(index)].get_parameter(name).copy_(weights)
    return donor.eval()


def _trainable_copy(model: Any, train_blocks: Sequence[int]) -> Any:
    donor = copy.deepcopy(model).eval()
    for parameter in donor.parameters():
        parameter.requires_grad_(requires_grad=False)
    for index, block in enumerate(decoder_blocks(donor)):
        if index in train_blocks:
            block.requires_grad_(requires_grad=True)
    return donor


def cycle(examples: Sequence[Example], seed: int) -> Callable[[int], Example]:
    """Return a function from a counter to an example: a shuffled order, repeated."""
    order = list(range(len(examples)))
    # Not security: the order of training examples, the same for the same seed.
    random.Random(seed).shuffle(order)  # noqa: S311 - see the line above
    return lambda index: examples[order[index % len(order)]]


def answer_loss(model: Any, batch: Sequence[Lesson]) -> Tensor:
    """Return the mean cross entropy of the answer tokens; logits are computed at answer positions only.

    Args:
        model: a transformers model; gradients flow to whatever asks for them.
        batch: examples.
    """
    with torch.enable_grad():
        logits, targets, _ = _answer_logits(model, batch)
        return nn.functional.cross_entropy(logits.float(), targets)


def answer_losses(model: Any, batch: Sequence[Lesson]) -> Tensor:
    """Return the mean cross entropy of each answer's tokens, float64 `[len(batch)]` on the CPU; without gradients.

    Args:
        model: a transformers model.
        batch: examples; no answer is empty.
    """
    with torch.no_grad():
        logits, targets, rows = _answer_logits(model, batch)
        losses = nn.functional.cross_entropy(logits.float(), targets, reduction="none").cpu().double()
    rows = rows.cpu()
    return torch.stack([losses[rows == row].mean() for row in range(len(batch))])


def _answer_logits(model: Any, batch: Sequence[Lesson]) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits `[answer tokens, vocabulary]`, the tokens that follow, and the row of each."""
    length = max(len(lesson.prompt) + len(lesson.answer) for lesson in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.int64)
    mask = torch.zeros(len(batch), length, dtype=torch.int64)
    labels = torch.full((len(batch), length), _IGNORED, dtype=torch.int64)
    for row, lesson in enumerate(batch):
        start, end = len(lesson.prompt), len(lesson.prompt) + len(lesson.answer)
        ids[row, :end] = torch.tensor(lesson.prompt + lesson.answer)
        mask[row, :end] = 1
        labels[row, start:end] = torch.tensor(lesson.answer)
    device = model.get_input_embeddings().weight.device
    hidden = text_decoder(model)(
        input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
    ).last_hidden_state
    targets = labels[:, 1:].to(device)
    at_answers = targets != _IGNORED
    logits = model.get_output_embeddings()(hidden[:, :-1][at_answers])
    return logits, targets[at_answers], at_answers.nonzero()[:, 0]


def end_of_turn(tokenizer: Any) -> int:
    """Return the id that ends an answer.

    Raises:
        BuildError: the tokenizer names none.
    """
    if tokenizer.eos_token_id is None:
        raise BuildError("The tokenizer names no end-of-turn token.", expected="tokenizer.eos_token_id", found=None)
    return int(tokenizer.eos_token_id)
