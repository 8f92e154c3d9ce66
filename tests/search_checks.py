"""What a search reports, told once more from scratch: plain forward passes over whole answers, with hooks of their own."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from tests.guarded_models import answers, blocks_of
from transformers import LogitsProcessor

from steerguard.guidance.intervention import ByPhase, ByStep, Constant


@contextmanager
def forward_columns(model):
    """Counts token positions that pass the first block; a list with one entry for each pass, `(rows, columns)`."""
    passes = []

    def count(_module, arguments, named):
        hidden = arguments[0] if arguments else named["hidden_states"]
        passes.append(tuple(hidden.shape[:2]))

    handle = blocks_of(model)[0].register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


def counted(passes):
    return sum(rows * columns for rows, columns in passes)


def judge_of(wrapped, step="search"):
    """Weights and bias of the linear cost model that a search asks, and the blocks that it reads."""
    cost = next(search for search in wrapped.guard.engine.program.searches if search.step == step).cost.inner
    return cost.blocks, cost.weights[0], cost.biases[0]


def added_by(wrapped, report):
    """By block, the schedules that were open for a row, as the artifact states them."""
    opened = {(dose.step, block) for dose in report.doses for block in dose.open_blocks}
    return {
        item.block: item.schedule
        for item in wrapped.guard.engine.program.interventions
        if (item.step, item.block) in opened
    }


def _addition(schedule, prompt, columns, width):
    """What a schedule adds to each column of a prompt and its answer, `[columns, width]`."""
    total = torch.zeros(columns, width)
    if isinstance(schedule, Constant):
        assert schedule.positions == "all"
        return total + schedule.vector
    if schedule.prompt is not None:
        total[: prompt - 1] += schedule.prompt
    if schedule.last is not None:
        total[prompt - 1] += schedule.last
    if isinstance(schedule, ByPhase):
        if schedule.decode is not None:
            total[prompt:] += schedule.decode
        return total
    assert isinstance(schedule, ByStep)
    for index, vector in enumerate(schedule.steps):
        if vector is not None and prompt + index < columns:
            total[prompt + index] += vector
    return total


@torch.no_grad()
def passed_through(model, prompt, answer, *, blocks=(), added=None, **inputs):
    """One pass without a cache over a prompt and an answer, tokens without padding.

    Returns:
        Logits `[columns, vocabulary]`, and the outputs of some blocks before anything is added to them.
    """
    ids = torch.tensor([[*prompt, *answer]])
    states, handles = {}, []

    def read(block):
        def act(_module, _arguments, output):
            states[block] = (output[0] if isinstance(output, tuple) else output)[0].float()

        return act

    def add(schedule):
        def act(_module, _arguments, output):
            hidden = output[0] if isinstance(output, tuple) else output
            changed = hidden + _addition(schedule, len(prompt), hidden.shape[1], hidden.shape[2]).to(hidden.dtype)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return act

    decoder = blocks_of(model)
    handles += [decoder[block].register_forward_hook(read(block)) for block in blocks]
    handles += [decoder[block].register_forward_hook(add(schedule)) for block, schedule in (added or {}).items()]
    try:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **inputs).logits[0].float()
    finally:
        for handle in handles:
            handle.remove()
    return logits, states


def cost_from_scratch(model, prompt, answer, judge, *, added=None, **inputs):
    """What an answer costs: of its tokens all but the last one are read."""
    blocks, weight, bias = judge
    _, states = passed_through(model, prompt, answer, blocks=blocks, added=added, **inputs)
    own = slice(len(prompt), len(prompt) + len(answer) - 1)
    means = torch.cat([states[block][own].mean(dim=0) for block in blocks])
    return float(means @ weight[0] + bias[0])


def unpadded(batch):
    """The prompts of a batch as lists of ids."""
    rows = zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True)
    return [[token for token, shown in zip(ids, mask, strict=True) if shown] for ids, mask in rows]


def answered(tokens, batch, *, end=None):
    """Generated ids per row, up to and with their end, and without padding."""
    found = answers(tokens, batch["input_ids"].shape[1])
    return [ids[: ids.index(end) + 1] if end in ids else ids for ids in found]


class Seen(LogitsProcessor):
    """Keeps what every row was shown at every step: its tokens so far, and the model's own scores."""

    def __init__(self) -> None:
        self.rows: list[tuple[tuple[int, ...], torch.Tensor]] = []

    def __call__(self, input_ids, scores):
        # What is shown of a row that the loop holds filler for says nothing.
        told = scores.nan_to_num(neginf=0.0).abs().sum(dim=1) > 0
        shown = zip(input_ids[told].tolist(), scores[told].clone(), strict=True)
        self.rows += [(tuple(ids), found) for ids, found in shown]
        return scores


class Ramp:
    """A cost model by which an answer costs what it has read, less a few tokens: safe at first, and then never again."""

    def __init__(self, blocks, free=4) -> None:
        self.blocks = blocks
        self._free = free

    def cost(self, inputs):
        noise = inputs.means.flatten(start_dim=1).sum(dim=1).tanh() * 1e-2
        return inputs.read.float() - self._free + noise
