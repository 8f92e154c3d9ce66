"""Reads of answers: the states that a rolling guard would see, at the moments at which it would read them.

The reads of a set are kept one behind the other, in the order of the answers; `counts` says which belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steerguard.artifacts.probe_params import Part
from steerguard.build.answers import AnsweredPrompts
from steerguard.build.recipe_answers import AnswerSettings
from steerguard.build.steps import BuildContext
from steerguard.build.weight_types import in_weight_type
from steerguard.canonical import digest
from steerguard.errors import NonFiniteHiddenStateError
from steerguard.models.capture import evaluating, pass_blocks, selected_blocks
from steerguard.models.chat import encode_prompts, pad_batch
from steerguard.models.prompt_mean import SKIPPED_TOKENS, prompt_mean, prompt_mean_mask


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerReads:
    """What the parts of a probe read of the answers of one set."""

    parts: tuple[Part, ...]
    newest: Tensor
    """Newest tokens, `[reads, parts at the newest token, width]`, in the model's own floating point type."""
    means: Tensor
    """Prompt means, float32 `[answers, parts over the prompt mean, width]`."""
    counts: tuple[int, ...]
    """Reads of each answer; 0 for an answer that ended before the first one."""

    @property
    def answers(self) -> Tensor:
        """Number of the answer that each read is of, int64 `[reads]`."""
        return torch.repeat_interleave(torch.arange(len(self.counts)), torch.tensor(self.counts, dtype=torch.int64))

    def states(self) -> Tensor:
        """Return what each part reads, float32 `[reads, parts, width]`; the prompt mean again at every read."""
        newest, means, of = iter(range(self.newest.shape[1])), iter(range(self.means.shape[1])), self.answers
        read = [
            self.newest[:, next(newest)].float() if over == "end" else self.means[of, next(means)]
            for _, over in self.parts
        ]
        return torch.stack(read, dim=1)

    def chosen(self, answers: Tensor) -> AnswerReads:
        """Return the reads of some answers, bool `[answers]`."""
        return AnswerReads(
            parts=self.parts,
            newest=self.newest[answers[self.answers]],
            means=self.means[answers],
            counts=tuple(count for count, kept in zip(self.counts, answers.tolist(), strict=True) if kept),
        )


def moments(generated: int, settings: AnswerSettings, *, begun: bool) -> tuple[int, ...]:
    """Return after how many generated tokens an answer is read; 0 is the end of its forced beginning.

    Args:
        generated: tokens of the answer without the end of the turn.
        settings: of the recipe; the last of `tokens` tokens is never read, since nothing follows it.
        begun: whether the answer was begun by force.
    """
    last = min(generated, settings.tokens - 1)
    return ((0,) if begun else ()) + tuple(range(settings.first, last + 1, settings.every))


def reads_of(
    context: BuildContext,
    answered: AnsweredPrompts,
    parts: Sequence[Part],
    settings: AnswerSettings,
    *,
    weights: str,
    step: str,
) -> AnswerReads:
    """Return what a probe's parts read of the answers, from the cache if there.

    Args:
        context: the build.
        answered: prompts with their answers.
        parts: blocks, and what is read there; one forward pass reads them all.
        settings: when an answer is read.
        weights: weight type that the target runs in.
        step: what the progress bar shows.
    """
    lengths = answered.lengths(context.tokenizer)
    times = [
        moments(length, settings, begun=begin is not None)
        for length, begin in zip(lengths, answered.begins, strict=True)
    ]
    depends_on = {
        **context.batched_identity(),
        "prompts": answered.prompts.content_digest,
        "begins": digest(list(answered.begins)),
        "answers": digest(answered.ids.tolist()),
        "moments": digest([list(entry) for entry in times]),
        "run_in": weights,
        "parts": [list(part) for part in parts],
        "skipped_tokens": SKIPPED_TOKENS,
    }

    def compute() -> dict[str, Tensor]:
        newest, means = read_answers(
            in_weight_type(context.model, weights),
            context.tokenizer,
            answered,
            times,
            parts,
            batch_size=context.recipe.document.batch_size,
            progress=context.progress.step(step, len(answered)),
        )
        return {"newest": newest, "means": means}

    read = context.cache.run("answer-states", depends_on, compute)
    return AnswerReads(
        parts=tuple(parts), newest=read["newest"], means=read["means"], counts=tuple(len(entry) for entry in times)
    )


def read_answers(
    model: Any,
    tokenizer: Any,
    answered: AnsweredPrompts,
    times: Sequence[Sequence[int]],
    parts: Sequence[Part],
    *,
    batch_size: int,
    progress: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """Return the states at the reads, `[reads, parts at the newest token, width]`, and the prompt means.

    One forward pass over prompt and answer, without cache and no further than the deepest block that is read.

    Args:
        model: a decoder-only model, or a multimodal model around one.
        tokenizer: its tokenizer or processor, with a chat template.
        answered: prompts with their answers.
        times: per answer after how many generated tokens it is read, ascending.
        parts: blocks, and what is read there.
        batch_size: answers per forward.
        progress: called with the number of answers done so far.

    Raises:
        NonFiniteHiddenStateError: a state holds NaN or an infinity, or a prompt is too short for a mean.
    """
    selected = tuple(
        zip(selected_blocks(model, [block for block, _ in parts]), (over for _, over in parts), strict=True)
    )
    prompts = encode_prompts(tokenizer, answered.prompts.conversations, answered.begins)
    rows = [
        (*prompt.ids, *ids[: times[index][-1] if times[index] else 0].tolist())
        for index, (prompt, ids) in enumerate(zip(prompts, answered.ids, strict=True))
    ]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    starts = torch.tensor([0, *(len(entry) for entry in times)]).cumsum(dim=0).tolist()
    over = [one for _, one in parts]
    width = int(model.config.get_text_config(decoder=True).hidden_size)
    newest = torch.empty((starts[-1], over.count("end"), width), dtype=next(model.parameters()).dtype)
    means = torch.empty((len(rows), over.count("prompt_mean"), width))
    with evaluating(model), torch.no_grad():
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            inputs = pad_batch([rows[index] for index in batch], tokenizer, padding_side="right", device=model.device)
            # The state after g generated tokens is that of the g-th; after none, that of the last prompt token.
            at = [(row, len(prompts[index].ids) - 1 + time) for row, index in enumerate(batch) for time in times[index]]
            ends = torch.tensor([prompts[index].header_end for index in batch], device=model.device)
            places = [place for index in batch for place in range(starts[index], starts[index + 1])]
            newest[places], means[batch] = _read_batch(model, inputs, selected, at, ends)
            progress(begin + len(batch))
    if not bool(torch.isfinite(newest).all() and torch.isfinite(means).all()):
        raise NonFiniteHiddenStateError(
            "A hidden state is not finite",
            expected=f"finite values, and prompts of more than {SKIPPED_TOKENS} tokens for a prompt mean",
            found="NaN or infinity",
            where=f"blocks {[block for block, _ in parts]}",
            next_step="load the model in bfloat16 or float32",
        )
    return newest, means


def _read_batch(
    model: Any,
    inputs: dict[str, Tensor],
    selected: Sequence[tuple[nn.Module, str]],
    at: Sequence[tuple[int, int]],
    ends: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the states at rows and columns `at`, and the means of the prompts that end at `ends`."""
    rows, columns = [row for row, _ in at], [column for _, column in at]
    in_mean = prompt_mean_mask(inputs["attention_mask"].bool(), ends)
    read: dict[tuple[nn.Module, str], Tensor] = {}

    def keep(module: nn.Module, hidden: Tensor) -> None:
        if (module, "end") in selected:
            read[module, "end"] = hidden[rows, columns].cpu()
        if (module, "prompt_mean") in selected:
            read[module, "prompt_mean"] = prompt_mean(hidden, in_mean.to(hidden.device)).cpu()

    pass_blocks(model, inputs, [module for module, _ in selected], keep)
    width = next(iter(read.values())).shape[-1]
    newest = [read[part] for part in selected if part[1] == "end"]
    means = [read[part] for part in selected if part[1] == "prompt_mean"]
    return torch.stack(newest, dim=1), torch.stack(means, dim=1) if means else torch.empty(len(ends), 0, width)
