"""What a cost model reads of answers: means of the residual stream over their first tokens, at several lengths.

The readings of a set are kept one behind the other, in the order of the answers; `counts` says which belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steerguard.build.contrast import Conversation
from steerguard.build.steps import BuildContext
from steerguard.build.weight_types import in_weight_type
from steerguard.canonical import digest
from steerguard.errors import NonFiniteHiddenStateError
from steerguard.models.capture import evaluating, pass_blocks, selected_blocks
from steerguard.models.chat import encode_prompts, pad_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenAnswers:
    """Prompts with answers whose states are read; nothing is generated."""

    conversations: tuple[Conversation, ...]
    begins: tuple[str | None, ...]
    """Per prompt a forced beginning of its answer, which goes through the model and is not read, or None."""
    answers: tuple[tuple[int, ...], ...]
    """Token ids of each answer, at least one, without the end of the turn."""

    def __len__(self) -> int:
        """Return how many answers there are."""
        return len(self.answers)

    @property
    def content_digest(self) -> str:
        """`sha256:<hex>` over prompts, beginnings and answers in order."""
        prompts = [[dict(message) for message in conversation] for conversation in self.conversations]
        return digest([prompts, list(self.begins), [list(ids) for ids in self.answers]])


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixStates:
    """Means over the beginnings of each answer of one set."""

    blocks: tuple[int, ...]
    means: Tensor
    """float32 `[readings, blocks, width]`."""
    tokens: Tensor
    """int64 `[readings]`: how many tokens a reading is over; the last reading of an answer is over all of it."""
    counts: tuple[int, ...]
    """Readings of each answer, at least one."""
    identity: str = ""
    """`sha256:<hex>` over everything that the means are a function of."""

    @property
    def answers(self) -> Tensor:
        """Number of the answer that each reading is of, int64 `[readings]`."""
        return torch.repeat_interleave(torch.arange(len(self.counts)), torch.tensor(self.counts, dtype=torch.int64))

    @property
    def ends(self) -> Tensor:
        """Place of the last reading of each answer, int64 `[answers]`."""
        return torch.tensor(self.counts, dtype=torch.int64).cumsum(dim=0) - 1

    def at(self, tokens: int) -> Tensor:
        """Return the place of each answer's last reading of at most so many tokens, int64 `[answers]`.

        Args:
            tokens: a length that was read. An answer that is shorter is read at its end.
        """
        kept = torch.zeros(len(self.counts), dtype=torch.int64)
        kept.index_add_(0, self.answers, (self.tokens <= tokens).long())
        first = self.ends + 1 - torch.tensor(self.counts, dtype=torch.int64)
        return first + kept.clamp_min(1) - 1

    def features(self, blocks: Sequence[int]) -> Tensor:
        """Return the means at some of the blocks, float32 `[readings, len(blocks) * width]`."""
        return self.means[:, [self.blocks.index(block) for block in blocks]].flatten(start_dim=1)


def prefix_lengths(tokens: int, prefixes: Sequence[int]) -> tuple[int, ...]:
    """Return after how many tokens an answer of so many is read: each prefix that is shorter, and its end."""
    return (*(prefix for prefix in prefixes if prefix < tokens), tokens)


def prefix_states_of(
    context: BuildContext,
    given: GivenAnswers,
    blocks: Sequence[int],
    prefixes: Sequence[int],
    *,
    weights: str,
    step: str,
) -> PrefixStates:
    """Return what a cost model reads of answers, from the cache if there.

    Args:
        context: the build.
        given: prompts with their answers.
        blocks: blocks that are read, ascending.
        prefixes: lengths, ascending; each answer is read at the shorter ones and at its end.
        weights: weight type that the target runs in.
        step: what the progress bar shows.
    """
    depends_on = {
        **context.batched_identity(),
        "answers": given.content_digest,
        "run_in": weights,
        "blocks": list(blocks),
        "prefixes": list(prefixes),
    }

    def compute() -> dict[str, Tensor]:
        means = read_prefixes(
            in_weight_type(context.model, weights),
            context.tokenizer,
            given,
            blocks,
            prefixes,
            batch_size=context.recipe.document.batch_size,
            progress=context.progress.step(step, len(given)),
        )
        return {"means": means}

    lengths = [prefix_lengths(len(ids), prefixes) for ids in given.answers]
    return PrefixStates(
        blocks=tuple(blocks),
        means=context.cache.run("prefix-states", depends_on, compute)["means"],
        tokens=torch.tensor([tokens for entry in lengths for tokens in entry], dtype=torch.int64),
        counts=tuple(len(entry) for entry in lengths),
        identity=digest(depends_on),
    )


def read_prefixes(
    model: Any,
    tokenizer: Any,
    given: GivenAnswers,
    blocks: Sequence[int],
    prefixes: Sequence[int],
    *,
    batch_size: int,
    progress: Callable[[int], None],
) -> Tensor:
    """Return the means over the first tokens of each answer, float32 `[readings, blocks, width]`.

    One forward pass over prompt and answer, without cache and no further than the deepest block that is read.

    Args:
        model: a decoder-only model, or a multimodal model around one.
        tokenizer: its tokenizer or processor, with a chat template.
        given: prompts with their answers.
        blocks: blocks that are read.
        prefixes: lengths, ascending.
        batch_size: answers per forward.
        progress: called with the number of answers done so far.

    Raises:
        NonFiniteHiddenStateError: a state holds NaN or an infinity.
    """
    modules = selected_blocks(model, blocks)
    prompts = encode_prompts(tokenizer, given.conversations, given.begins)
    rows = [(*prompt.ids, *ids) for prompt, ids in zip(prompts, given.answers, strict=True)]
    lengths = [prefix_lengths(len(ids), prefixes) for ids in given.answers]
    starts = torch.tensor([0, *(len(entry) for entry in lengths)]).cumsum(dim=0).tolist()
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    width = int(model.config.get_text_config(decoder=True).hidden_size)
    means = torch.empty((starts[-1], len(blocks), width), dtype=torch.float32)
    with evaluating(model), torch.no_grad():
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            inputs = pad_batch([rows[index] for index in batch], tokenizer, padding_side="right", device=model.device)
            spans = [(len(prompts[index].ids), lengths[index]) for index in batch]
            places = [place for index in batch for place in range(starts[index], starts[index + 1])]
            means[places] = _read_batch(model, inputs, modules, spans)
            progress(begin + len(batch))
    if not bool(torch.isfinite(means).all()):
        raise NonFiniteHiddenStateError(
            "A hidden state is not finite",
            expected="finite values",
            found="NaN or infinity",
            where=f"blocks {list(blocks)}",
            next_step="load the model in bfloat16 or float32",
        )
    return means


def _read_batch(
    model: Any,
    inputs: dict[str, Tensor],
    modules: Sequence[nn.Module],
    spans: Sequence[tuple[int, tuple[int, ...]]],
) -> Tensor:
    """Return the means of a batch, float32 `[readings, blocks, width]`; a span is where the answer begins, and lengths."""
    read: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, hidden: Tensor) -> None:
        found = []
        for row, (start, lengths) in enumerate(spans):
            sums = hidden[row, start : start + lengths[-1]].float().cumsum(dim=0)
            over = torch.tensor(lengths, device=hidden.device)
            found.append(sums[over - 1] / over[:, None])
        read[module] = torch.cat(found).cpu()

    pass_blocks(model, inputs, modules, keep)
    return torch.stack([read[module] for module in modules], dim=1)
