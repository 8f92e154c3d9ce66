"""The rows of one run of the loop that a search answers for: which they are, and what the loop shows of them.

A row that searches from its first block takes no part in the loop, which holds filler for it. A row that searches only
if it must is answered by the loop as ever, while its states are read and the places are marked that a search could
begin at.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch

from steerguard.engine.answer_states import AnswerSums, NewestStates
from steerguard.engine.arguments import unsupported
from steerguard.engine.forks import Mark, unforkable
from steerguard.engine.loop_inputs import CACHES
from steerguard.errors import CostModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from steerguard.decision import SearchOutcome
    from steerguard.engine.hooks import BlockHooks, InstalledHooks
    from steerguard.engine.loop_settings import LoopSettings
    from steerguard.engine.outcome import RowVerdict
    from steerguard.engine.request import GuidedRequest
    from steerguard.guidance.search.search_guidance import SearchGuidance

ROW_BOUND = frozenset({
    "PrefixConstrainedLogitsProcessor", "EncoderNoRepeatNGramLogitsProcessor", "EncoderRepetitionPenaltyLogitsProcessor",
    "SynthIDTextWatermarkLogitsProcessor",
})  # fmt: skip
"""Processors that know rows by their number in the batch, which candidates do not have."""


def require_searchable(settings: LoopSettings) -> None:
    """Refuse calls whose answers a search could not replace.

    Raises:
        UnsupportedGenerationError: names what the call asks for.
    """
    if settings.beams:
        raise unsupported("a search and beam search")
    if not settings.cached:
        raise unsupported("a search and `use_cache=False`")
    if settings.records_states:
        raise unsupported("a search and `output_hidden_states`")


class SearchRows:
    """What one run of the loop does for its searches.

    Args:
        request: the request, before its prefill.
        hooks: where hooks go.
        loop_arguments: what the loop is called with beside tokens.
        processors: the processors of the call.
        asked: returns what a row asks, as text.
    """

    def __init__(
        self,
        request: GuidedRequest,
        hooks: BlockHooks,
        loop_arguments: Mapping[str, Any],
        processors: Sequence[Any],
        asked: Callable[[int], str],
    ) -> None:
        self._request = request
        self._asked = asked
        self.decided: dict[int, SearchOutcome] = {}
        """By row, what came of it before a token was written."""
        self.prompt_seconds = 0.0
        """How long it took to judge prompts."""
        self._hooks = hooks
        self._installed: InstalledHooks | None = None
        self._newest: NewestStates | None = None
        self._over: Tensor | None = None
        self._lengths: Tensor | None = None
        self._reads: Tensor | None = None
        self._block_sizes: frozenset[int] = frozenset()
        self._processors = [type(processor).__name__ for processor in processors]
        self.cache = next((loop_arguments[name] for name in CACHES if loop_arguments.get(name) is not None), None)
        """The states of all rows."""
        self.guidance: list[SearchGuidance | None] = [None] * request.rows
        """By row, who searches for it."""
        self.always: Tensor | None = None
        """bool `[rows]`: rows that the loop holds filler for; None while there is none."""
        self.logits: Tensor | None = None
        """float32 `[rows, vocabulary]` behind the prompt."""
        self.sums: AnswerSums | None = None
        """Of the parts of `blocks`."""
        self.boundaries: dict[int, AnswerSums] = {}
        """By generated tokens, what was read by the end of a block."""
        self.marks: dict[int, Mark] = {}
        """By generated tokens g, where the cache lacks the last of them; at 0, where the prompt ends. The newest that fit."""
        self._sizes: dict[int, int] = {}
        """By generated tokens, the bytes of marks that take any."""
        self.random: RandomState | None = None
        """Before the loop drew anything, where nothing that it draws is used."""
        self.blocks = tuple(sorted({block for search in request.program.searches for block in search.cost.blocks}))

    def begin(self, verdicts: Sequence[RowVerdict], logits: Tensor) -> None:
        """Learn which rows search; before the first token is chosen.

        Args:
            verdicts: of all rows.
            logits: float32 `[rows, vocabulary]`, the model's own.

        Raises:
            UnsupportedGenerationError: a row searches, and the call has a cache or a processor that candidates cannot have.
        """
        by_step = {search.step: search for search in self._request.program.searches}
        for row, verdict in enumerate(verdicts):
            if verdict.applied == "guide":
                self.guidance[row] = next((by_step[step] for step in verdict.verdict.use if step in by_step), None)
        chosen = [search for search in self.guidance if search is not None]
        if not chosen:
            return
        self._require_forkable()
        asked = time.monotonic()
        self._check_prompts()
        self.prompt_seconds = time.monotonic() - asked
        begins = [
            None if search is None else "always" if row in self.decided else search.parts.start
            for row, search in enumerate(self.guidance)
        ]
        always, lazy = [start == "always" for start in begins], [start == "lazy" for start in begins]
        self.logits = logits.clone()
        self._mark(0)
        self._over = torch.zeros(len(always), dtype=torch.bool, device=logits.device)
        self._lengths = torch.zeros(len(always), dtype=torch.int64, device=logits.device)
        if any(always):
            self.always = torch.tensor(always, device=logits.device)
        if all(one or verdict.applied == "refuse" for one, verdict in zip(always, verdicts, strict=True)):
            self.random = RandomState(logits.device)
        if not any(lazy):
            return
        waiting = [search for search in chosen if search.parts.start == "lazy"]
        self._block_sizes = frozenset(search.parts.block_tokens or 0 for search in waiting) - {0}
        if 1 in self._block_sizes:
            # Without its one token, an answer is the prompt.
            self.marks[1] = self.marks[0]
        self._reads = torch.tensor(lazy, device=logits.device)
        if any(search.cost.blocks for search in waiting):
            self._newest = NewestStates(self.blocks, self._request)
            self._installed = self._hooks.install(self._newest.hooks())

    def after_pass(self, fed: int) -> None:
        """Read the newest token of every row; nothing waits for the device.

        Args:
            fed: generated tokens that went through the model, at least 1.
        """
        if self._reads is None or self._over is None:
            return
        if self._newest is not None:
            states = self._newest.take()
            if self.sums is None:
                self.sums = AnswerSums.nothing(len(states), states.shape[1], states.shape[2], states.device)
            self.sums = self.sums.plus(states, (self._reads & ~self._over).to(states.device))
            if any(fed % size == 0 for size in self._block_sizes):
                self.boundaries[fed] = self.sums
        if any((fed + 1) % size == 0 for size in self._block_sizes):
            self._mark(fed + 1)
            self._let_marks_go()

    def ended(self, done: Tensor) -> None:
        """Learn which rows have ended, bool `[rows]`, once behind every token; what follows is not theirs."""
        if self._over is not None and self._lengths is not None:
            self._lengths = self._lengths + ~self._over
            self._over = self._over | done.to(self._over.device)

    def answers(self, generated: Tensor) -> list[tuple[int, ...]]:
        """Return what the loop wrote for each row until the row ended, whatever its tokens are.

        A token is not told from padding by its id: an app may pad with one that answers hold. Waits for the device.

        Args:
            generated: int64 `[rows, generated]`, behind the prompts.
        """
        ids = generated.tolist()
        lengths = [len(row) for row in ids] if self._lengths is None else self._lengths.tolist()
        return [tuple(row[:length]) for row, length in zip(ids, lengths, strict=True)]

    @property
    def kept_bytes(self) -> int:
        """What the marks and the sums at ends of blocks take, in bytes."""
        return sum(self._sizes.values()) + sum(sums.bytes for sums in self.boundaries.values())

    def _mark(self, tokens: int) -> None:
        """Mark the place where the cache is now."""
        self.marks[tokens] = mark = Mark(self.cache)
        if mark.bytes:
            self._sizes[tokens] = mark.bytes

    def _let_marks_go(self) -> None:
        """Drop the oldest marks that take memory, but the one of the prompt, beyond half of what the budget leaves."""
        plan = self._request.program.plan
        if plan.max_extra_memory_bytes is None or not self._sizes:
            return
        room = (plan.max_extra_memory_bytes - plan.cost.extra_bytes(self._request.rows)) // 2
        droppable = sorted(self._sizes.keys() - {0})
        while droppable and self.kept_bytes > room:
            oldest = droppable.pop(0)
            del self.marks[oldest], self._sizes[oldest]

    def stop(self) -> None:
        """Take the hooks away."""
        if self._installed is not None:
            self._installed.remove()

    def _check_prompts(self) -> None:
        """Decide about rows whose prompt alone is not within the cost budget, or cannot be judged."""
        for row, search in enumerate(self.guidance):
            if search is None or not search.parts.checks_prompt or search.prompt_cost is None:
                continue
            try:
                cost = float(search.prompt_cost([self._asked(row)])[0])
            except CostModelError:
                cost = math.nan
            if math.isnan(cost):
                # It failed, or the prompt has no text that it could judge.
                self.decided[row] = "critic_failed"
            elif cost >= search.cost_budget:
                self.decided[row] = "prompt"

    def _require_forkable(self) -> None:
        why = "no cache" if self.cache is None else unforkable(self.cache)
        if why is not None:
            raise unsupported(f"a search over {why}")
        bound = sorted(ROW_BOUND.intersection(self._processors))
        if bound:
            raise unsupported(f"a search and `{bound[0]}`")


class RandomState:
    """Where the random generators of a device are.

    Args:
        device: where tokens are drawn.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()

    def restore(self) -> None:
        """Go back there."""
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._state, self._device)
        else:
            torch.set_rng_state(self._state)
