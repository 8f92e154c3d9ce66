"""One run of transformers' decoding loop: which hooks it holds, and what its callbacks learn and do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from steerguard.engine.hooks import reading_hook
from steerguard.engine.outcome import RowVerdict, read_verdicts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor
    from transformers import LogitsProcessor, StoppingCriteria

    from steerguard.engine.hooks import BlockHooks, InstalledHooks
    from steerguard.engine.program import Program
    from steerguard.engine.refusal import RefusalTemplate
    from steerguard.engine.request import GuidedRequest
    from steerguard.models.chat import GenerationPrompt
    from steerguard.plan.plan import Mode


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Engine:
    """What every request on one wrapped model shares; holds no state of a request."""

    owner: object
    program: Program
    hooks: BlockHooks
    generation_prompt: GenerationPrompt | None
    template: RefusalTemplate
    mode: Mode


class GuidedLoop:
    """One run of the loop: the request, its hooks and what the loop's callbacks learn."""

    def __init__(self, engine: Engine, request: GuidedRequest, *, samples: bool, filler: int = 0) -> None:
        self._engine = engine
        self._filler = filler
        self._samples = samples
        self.request = request
        self.verdicts: tuple[RowVerdict, ...] = ()
        self._hooks: list[InstalledHooks] = []
        self._refused: Tensor | None = None
        self._discarded: Tensor | None = None
        self._watch: Tensor | None = None
        self._opened: Tensor | None = None
        self._passes = 0
        self._ends: dict[int, int] = {}

    def processors(self, processors: Iterable[LogitsProcessor]) -> LogitsProcessorList:
        """Return the processors that the loop must call with its logits: ours, then the given ones."""
        return _Processors(self, processors)

    def criteria(self, criteria: Iterable[StoppingCriteria]) -> StoppingCriteriaList:
        """Return the criteria that the loop must ask whether rows are finished."""
        return _Criteria(self, criteria)

    def start(self) -> None:
        """Install the hooks that the prefill needs."""
        program = self._engine.program
        blocks = tuple(program.blocks) if self._engine.mode == "enforce" else program.read_blocks
        self._hooks.append(self._engine.hooks.install({block: reading_hook(self.request, block) for block in blocks}))

    def stop(self) -> None:
        """Take away every hook that is still there."""
        for hooks in self._hooks:
            hooks.remove()

    def on_logits(self, scores: Tensor) -> Tensor:
        """Freeze the verdicts after the prefill; afterwards watch open rows."""
        if not self.verdicts:
            self._freeze(scores.device)
        elif self._ends:
            self._release()
        if self._watch is not None:
            # A state that is not finite makes every logit of its row NaN, and a sum with NaN stays NaN.
            self._watch.add_(scores.select(1, 0))
        if not self._samples:
            return scores
        if self._watch is not None and self._opened is not None:
            scores = _silenced(scores, torch.isnan(self._watch) & self._opened)
        if self._discarded is not None:
            scores = _silenced(scores, self._discarded)
        return scores

    def _freeze(self, device: torch.device) -> None:
        self.verdicts = read_verdicts(self.request, self._engine.mode)
        refused = [verdict.applied == "refuse" for verdict in self.verdicts]
        self._refused = torch.tensor(refused, device=device)
        self._discarded = self._refused if any(refused) else None
        opened = {item for verdict in self.verdicts for item in verdict.open}
        self.request.freeze([item for item in self._engine.program.interventions if item in opened])
        self._hooks[0].remove(keep=() if all(refused) else self.request.lasting_blocks)
        if not all(refused):
            self._hooks.append(self._engine.hooks.install(self.request.decode_hooks()))
            self._ends = dict(self.request.decode_ends)
        if opened:
            self._watch = torch.zeros(self.request.rows, device=device)
            self._opened = torch.tensor([bool(verdict.open) for verdict in self.verdicts], device=device)

    def _release(self) -> None:
        """Take away the decode hooks that have added their last step."""
        self._passes += 1
        over = [block for block, end in self._ends.items() if end == self._passes]
        for block in over:
            del self._ends[block]
        if over:
            decode = self._hooks[-1]
            decode.remove(keep=[block for block in decode.handles if block not in over])

    def filled(self, scores: Tensor) -> Tensor:
        """Leave refused rows nothing but the filler, so that not even callbacks see a token of theirs."""
        if self._discarded is None:
            return scores
        only = torch.full_like(scores[:1], -torch.inf)
        only[:, self._filler] = 0.0
        return torch.where(self._discarded[:, None], only, scores)

    def newly_refused(self) -> Tensor | None:
        """Return bool `[rows]` once, after the prefill; None ever after."""
        refused, self._refused = self._refused, None
        return refused

    def broken_rows(self) -> set[int]:
        """Return the open rows whose logits were not finite at some step."""
        if self._watch is None:
            return set()
        broken = torch.isnan(self._watch).tolist()
        return {row for row, verdict in enumerate(self.verdicts) if verdict.open and broken[row]}


class _Processors(LogitsProcessorList):  # type: ignore[misc]  # transformers' classes are untyped
    """The loop's processors behind ours, which sees the model's own numbers first."""

    def __init__(self, loop: GuidedLoop, processors: Iterable[LogitsProcessor]) -> None:
        super().__init__(processors)
        self._loop = loop

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        request = self._loop.request
        request.in_callbacks = True
        try:
            result: Tensor = super().__call__(input_ids, self._loop.on_logits(scores), **kwargs)
        finally:
            request.in_callbacks = False
        return self._loop.filled(result)


class _Criteria(StoppingCriteriaList):  # type: ignore[misc]  # transformers' classes are untyped
    """The loop's stopping criteria and, once after the prefill, the refused rows: what is finished stays finished."""

    def __init__(self, loop: GuidedLoop, criteria: Iterable[StoppingCriteria]) -> None:
        super().__init__(criteria)
        self._loop = loop

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        request = self._loop.request
        request.in_callbacks = True
        try:
            done: Tensor = super().__call__(input_ids, scores, **kwargs)
        finally:
            request.in_callbacks = False
        refused = self._loop.newly_refused()
        return done if refused is None else done | refused.to(done.device)


def _silenced(scores: Tensor, rows: Tensor) -> Tensor:
    """Return the scores with zeros in rows that will be refused, so that drawing from them cannot fail."""
    return torch.where(rows[:, None], torch.zeros_like(scores), scores)
