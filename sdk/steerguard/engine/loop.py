"""One run of transformers' decoding loop: which hooks it holds, and what its callbacks learn and do.

The loop keeps one row per beam, or per answer asked for; the rows of one prompt stand side by side.
Beam search moves rows about, but never from one prompt to another, and asks its criteria about more candidates than it
has rows: so what holds for a prompt is spread over however many of them come.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from steerguard.engine.copies import any_copy
from steerguard.engine.outcome import RowVerdict, read_verdicts
from steerguard.engine.own_caches import OwnCaches
from steerguard.engine.recorded_states import RecordedLast
from steerguard.engine.rolling import RollingReads
from steerguard.engine.schedules import changes_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from torch import Tensor
    from transformers import LogitsProcessor, StoppingCriteria

    from steerguard.engine.compiled import CompiledExecutor
    from steerguard.engine.hooks import BlockHooks, Hook, InstalledHooks, Place
    from steerguard.engine.loop_settings import LoopSettings
    from steerguard.engine.program import Program
    from steerguard.engine.refusal import RefusalTemplate
    from steerguard.engine.request import GuidedRequest
    from steerguard.engine.search_rows import SearchRows
    from steerguard.guidance.intervention import Intervention
    from steerguard.models.chat import GenerationPrompt
    from steerguard.plan.plan import Mode
    from steerguard.trust.findings import WatchedArtifact


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Engine:
    """What every request on one wrapped model shares; holds no state of a request."""

    owner: object
    program: Program
    hooks: BlockHooks
    generation_prompt: GenerationPrompt | None
    template: RefusalTemplate
    mode: Mode
    modality_ids: tuple[int, ...] = ()
    """Ids that stand for images and sounds in `input_ids`; prompt means leave them out."""
    compiled: CompiledExecutor | None = None
    """What runs decode steps of a model that the app compiles; None where they run as hooks of the request."""
    text: Callable[[Sequence[int]], str]
    """Turns token ids into text, without special tokens."""
    user_text: Callable[[Sequence[int]], str]
    """Turns the token ids of a prompt into the text of its last user turn."""
    caches: OwnCaches = field(default_factory=OwnCaches)
    """The caches that outlive a call; per-request policies share them."""
    artifacts: tuple[WatchedArtifact, ...] = ()
    """What must not have been revoked for a call to be answered; empty where nobody watches."""
    revoked: bool = False
    """True in the copy that a call gets where one of them was: every row is refused, and nothing is read or changed."""


class GuidedLoop:
    """One run of the loop: the request, its hooks and what the loop's callbacks learn.

    Args:
        engine: the bound engine.
        request: the request that it runs.
        settings: what the loop was asked for.
        on_verdicts: called once the verdicts are taken, before any token is chosen.
        searches: what the run does for its searches; None where the plan has none, or nothing is enforced.
    """

    def __init__(
        self,
        engine: Engine,
        request: GuidedRequest,
        settings: LoopSettings,
        on_verdicts: Callable[[GuidedLoop], None] | None = None,
        searches: SearchRows | None = None,
    ) -> None:
        self._engine = engine
        self._on_verdicts = on_verdicts
        self.settings = settings
        self.request = request
        self.verdicts: tuple[RowVerdict, ...] = ()
        self.passes = 0
        """Forward passes so far, counted where the loop asks for scores: it knows nothing of hooks."""
        self._hooks: list[InstalledHooks] = []
        self._recorded = RecordedLast()
        self._refused: Tensor | None = None
        self._discarded: Tensor | None = None
        self._watch: Tensor | None = None
        self._opened: Tensor | None = None
        self._ends: dict[Place, int] = {}
        self.searches = searches
        self._compiled: CompiledExecutor | None = None
        """Set while the tensors of compiled decode steps hold what this request does."""
        self.reads: RollingReads | None = None
        """What is read while the answers are written; None where the plan watches none."""
        if request.program.watches and not request.revoked:
            acts = engine.mode == "enforce"
            self.reads = RollingReads(request, engine.hooks, acts=acts, beams=settings.beams)
            request.on_searched = self.reads.searched

    def processors(self, processors: Iterable[LogitsProcessor]) -> LogitsProcessorList:
        """Return the processors that the loop must call with its logits: ours, then the given ones."""
        return _Processors(self, processors)

    def criteria(self, criteria: Iterable[StoppingCriteria]) -> StoppingCriteriaList:
        """Return the criteria that the loop must ask whether rows are finished."""
        return _Criteria(self, criteria)

    def start(self) -> None:
        """Install the hooks that the prefill needs; reads of answers come before changes at the same block."""
        if self.reads is not None:
            handles = self.reads.start()
            if self.settings.records_states:
                self._recorded.behind(handles.values())
        self._install(self.request.prefill_hooks())

    def stop(self) -> None:
        """Take away every hook that is still there."""
        for hooks in self._hooks:
            hooks.remove()
        if self._compiled is not None:
            self._compiled.end()
        if self.reads is not None:
            self.reads.stop()
        if self.searches is not None:
            self.searches.stop()
        self._recorded.restore()

    def _install(self, hooks: dict[Place, Hook]) -> None:
        installed = self._engine.hooks.install(hooks)
        self._hooks.append(installed)
        if self.settings.records_states:
            self._recorded.behind(installed.handles.values())

    def on_logits(self, scores: Tensor) -> Tensor:
        """Freeze the verdicts after the prefill; afterwards watch open rows."""
        self.passes += 1
        if not self.verdicts:
            self._freeze(scores)
        elif self._ends:
            self._release()
        elif self._compiled is not None:
            self._compiled.advance(self.passes - 1)
        if self.searches is not None and self.passes > 1:
            self.searches.after_pass(self.passes - 1)
        if self.reads is not None and self.reads.after_pass(self.passes - 1):
            self._stop_rows(self.reads.stopped)
        if self._watch is not None:
            # A state that is not finite makes every logit of its row NaN, and a sum with NaN stays NaN.
            self._watch.add_(scores.select(1, 0))
        if self._watch is not None and self.settings.samples:
            # Drawing from numbers that are not finite would fail.
            scores = _silenced(scores, self._broken(self._watch))
        if self._discarded is not None:
            # The app's processors come next, and must not see what the model would say in a refused row.
            scores = _silenced(scores, self._discarded)
        return scores

    def _freeze(self, scores: Tensor) -> None:
        device = scores.device
        self.verdicts = read_verdicts(self.request, self._engine.mode)
        refused = [verdict.applied == "refuse" for verdict in self.verdicts]
        self._refused = torch.tensor(refused, device=device)
        if self.searches is not None:
            self.searches.begin(self.verdicts, scores)
            if self.searches.always is not None:
                # The loop writes nothing for them, as for refused rows.
                self._refused = self._refused | self.searches.always
                refused = self._refused.tolist()
        self._discarded = self._refused if any(refused) else None
        opened = {item for verdict in self.verdicts for item in verdict.open}
        self._prepare_decode(opened, over=all(refused))
        if self.reads is not None:
            self.reads.watch(self.verdicts)
        if opened or (self.reads is not None and self.reads.opened is not None):
            self._watch = torch.zeros(self.request.rows, device=device)
            self._opened = torch.tensor([bool(verdict.open) for verdict in self.verdicts], device=device)
        if self._on_verdicts is not None:
            self._on_verdicts(self)

    def _prepare_decode(self, opened: Collection[Intervention], *, over: bool) -> None:
        """Exchange what the prefill needed for what decode steps need.

        Args:
            opened: interventions whose gate is open for some row.
            over: whether no decode step follows.
        """
        interventions, executor = self._engine.program.interventions, self._engine.compiled
        # Reads of answers, passes over all columns and a second generation inside a first one run uncompiled.
        if executor is None or self.reads is not None or not self.settings.cached or not executor.is_free:
            self.request.freeze([item for item in interventions if item in opened])
            self._hooks[0].remove(keep=() if over else self.request.lasting_places)
            if not over:
                self._install(self.request.decode_hooks())
                self._ends = dict(self.request.decode_ends)
            return
        acts = not over and any(changes_answer(item.schedule) for item in opened)
        self.request.freeze(interventions if acts else ())
        self._hooks[0].remove()
        if acts:
            # Known first, so that `stop` clears what was laid out even in part.
            self._compiled = executor
            self.request.decode_hooks(executor.lay_out)
            if self.settings.records_states:
                self._recorded.behind(executor.handles)
        if not over:
            executor.begin(self.request if acts else None)

    def settle(self) -> None:
        """Compare what compiled decode steps have counted with the steps of the finished loop; waits for the device.

        Raises:
            GuidanceDidNotFireError: they differ.
        """
        if self._compiled is not None:
            self.request.decode_passes.update(self._compiled.require_passes(self.passes - 1))

    def _stop_rows(self, stopped: Tensor | None) -> None:
        """Refuse rows in the middle of their answer; nothing waits for the device."""
        if stopped is not None:
            self._discarded = stopped if self._discarded is None else self._discarded | stopped

    def _broken(self, watch: Tensor) -> Tensor:
        """Return the rows that are steered and of which a copy had logits that were not finite."""
        late = None if self.reads is None else self.reads.opened
        steered = self._opened if late is None or self._opened is None else self._opened | late
        broken = any_copy(torch.isnan(watch), self.settings.copies)
        return broken if steered is None else broken & steered

    def _release(self) -> None:
        """Take away the decode hooks that have added their last step."""
        over = [block for block, end in self._ends.items() if end == self.passes - 1]
        for block in over:
            del self._ends[block]
        if over:
            decode = self._hooks[-1]
            decode.remove(keep=[block for block in decode.handles if block not in over])

    def filled(self, scores: Tensor) -> Tensor:
        """Leave refused rows scores that say nothing, so that not even callbacks see a token of theirs.

        Without beams only the filler is left. With beams every token is alike: so the first candidates are as many and
        as good as any that follow, and a refused prompt is done, by every rule of beam search, after one step.
        """
        if self._discarded is None:
            return scores
        if self.settings.beams:
            return _silenced(scores, self._discarded)
        only = torch.full_like(scores[:1], -torch.inf)
        only[:, self.settings.pad] = 0.0
        return torch.where(self._discarded[:, None], only, scores)

    def shown(self, input_ids: Tensor) -> Tensor:
        """Return what callbacks may see of rows or candidates: nothing but filler behind a refused prompt."""
        if self._discarded is None or not (self.settings.beams or self.reads is not None):
            return input_ids
        generated = torch.arange(input_ids.shape[1], device=input_ids.device) >= self.settings.prompt_width
        hidden = self._spread(self._discarded, input_ids.shape[0]).to(input_ids.device)[:, None] & generated
        return torch.where(hidden, self.settings.pad, input_ids)

    def finished(self, done: Tensor) -> Tensor:
        """Return which rows or candidates are finished: those that the criteria name, and refused prompts.

        What is finished stays finished in a loop without beams; beam search asks about new candidates every time.
        """
        if self.settings.beams or self.reads is not None:
            # Finished again at every step: rows are refused one after the other.
            refused = self._discarded
        else:
            refused, self._refused = self._refused, None
        over = done if refused is None else done | self._spread(refused, done.shape[0]).to(done.device)
        if self.reads is not None and not self.settings.beams:
            self.reads.ended(over)
        if self.searches is not None:
            self.searches.ended(over)
        return over

    def _spread(self, rows: Tensor, count: int) -> Tensor:
        """Return what holds for the rows of each prompt for `count` rows or candidates instead."""
        if count == rows.shape[0]:
            return rows
        prompts = rows.shape[0] // self.settings.copies
        return rows[:: self.settings.copies, None].expand(prompts, count // prompts).reshape(-1)

    @property
    def engine(self) -> Engine:
        """The bound engine."""
        return self._engine

    @property
    def steered(self) -> bool:
        """Whether anything was changed in any row; waits for the device."""
        late = None if self.reads is None else self.reads.opened
        return any(verdict.open for verdict in self.verdicts) or (late is not None and bool(late.any()))

    def broken_rows(self) -> set[int]:
        """Return the rows of open prompts of which a row had logits that were not finite at some step."""
        if self._watch is None:
            return set()
        return {row for row, broken in enumerate(self._broken(self._watch).tolist()) if broken}

    def stopped_rows(self) -> set[int]:
        """Return the rows that were refused in the middle of their answer; waits for the device."""
        stopped = None if self.reads is None else self.reads.stopped
        return set() if stopped is None else {row for row, found in enumerate(stopped.tolist()) if found}


class _Processors(LogitsProcessorList):  # type: ignore[misc]  # transformers' classes are untyped
    """The loop's processors behind ours, which sees the model's own numbers first."""

    def __init__(self, loop: GuidedLoop, processors: Iterable[LogitsProcessor]) -> None:
        super().__init__(processors)
        self._loop = loop

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        request = self._loop.request
        request.in_callbacks = True
        try:
            seen = self._loop.on_logits(scores)
            result: Tensor = super().__call__(self._loop.shown(input_ids), seen, **kwargs)
        finally:
            request.in_callbacks = False
        return self._loop.filled(result)


class _Criteria(StoppingCriteriaList):  # type: ignore[misc]  # transformers' classes are untyped
    """The loop's stopping criteria, and the refused rows, which are finished once the verdicts are taken."""

    def __init__(self, loop: GuidedLoop, criteria: Iterable[StoppingCriteria]) -> None:
        super().__init__(criteria)
        self._loop = loop

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        request = self._loop.request
        request.in_callbacks = True
        try:
            done: Tensor = super().__call__(self._loop.shown(input_ids), scores, **kwargs)
        finally:
            request.in_callbacks = False
        return self._loop.finished(done)


def _silenced(scores: Tensor, rows: Tensor) -> Tensor:
    """Return the scores with zeros in rows that are refused: nothing is learned from them, and drawing cannot fail."""
    return torch.where(rows[:, None], torch.zeros_like(scores), scores)
