"""The executor for models that run through `torch.compile`: one generation at a time, and only tensors in the graph.

    wrap: hooks at the places → the app compiles → generate: prefill uncompiled → verdicts → tensors filled → compiled steps

Invariants:
- The hooks stand from `wrap` to `unwrap`; outside guided decode steps they do nothing, and no tensors are there to read.
- Everything before the first decode step runs uncompiled, under the hooks of the request, as in the eager executor.
- Where no row is open, decode steps run the graph of a model without a guard.
- The hooks count on the device; the fired proof compares that with the steps of the loop once the answers are there.
- No decode step waits for the device.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from steerguard.engine.additions import NEGATIVE_ZERO
from steerguard.engine.compiled_places import (
    TRACED,
    Adding,
    CompiledPlace,
    Operating,
    TracedState,
    attribute_of,
    before_block,
    behind_block,
)
from steerguard.engine.decoding import AddedPart, DecodeHooks, at_places, decode_parts
from steerguard.engine.hooks import BlockInput, block_of, named
from steerguard.engine.schedules import changes_answer
from steerguard.errors import GuidanceDidNotFireError
from steerguard.models.compiled import uncompiled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from steerguard.engine.additions import Additions
    from steerguard.engine.hooks import BlockHooks, Hook, InstalledHooks, Place
    from steerguard.engine.program import Program
    from steerguard.engine.request import GuidedRequest
    from steerguard.guidance.intervention import Intervention
    from steerguard.models.compiled import SetAside

TRANSFORMERS_OWN = ("_compiled_call", "_last_compile_config")
"""Attributes in which transformers keeps a forward pass that it compiled by itself."""


class CompiledExecutor:
    """Places, tensors and lock of one wrapped model.

    Args:
        program: the bound plan in force; a stricter policy of one request acts at some of its places.
        hooks: where the hooks go.
        blocks: the decoder blocks of the model.
    """

    def __init__(self, program: Program, hooks: BlockHooks, blocks: Sequence[nn.Module]) -> None:
        places = at_places([item for item in program.interventions if changes_answer(item.schedule)])
        self._state = TracedState(", ".join(named(place) for place in places) or "none")
        last = next(reversed(places), None)
        self._places = {place: CompiledPlace(self._state, is_last=place == last) for place in places}
        self._hooks = hooks
        self._blocks = blocks
        self._installed: InstalledHooks | None = None
        self._lock = threading.RLock()
        self._aside: SetAside | None = None
        self._runs = False
        """Whether the decode steps of a generation run."""
        self._likes: dict[Place, Tensor] = {}
        """Empty tensors with the device, type and width of the hidden states at each place."""
        self._stepped: list[tuple[Tensor, AddedPart]] = []
        """Tensors whose content changes from step to step."""
        self._transformers_own: frozenset[str] = frozenset()

    def install(self, model: nn.Module) -> None:
        """Put the hooks and what they read on the blocks; before anything is compiled."""
        self._transformers_own = frozenset(TRANSFORMERS_OWN) & vars(model).keys()
        hooks: dict[Place, Hook] = {
            place: before_block if isinstance(place, BlockInput) else behind_block for place in self._places
        }
        for place, held in self._places.items():
            object.__setattr__(self._blocks[block_of(place)], attribute_of(place), held)
        for module in (model, self._blocks[0]):
            object.__setattr__(module, TRACED, self._state)
        self._installed = self._hooks.install(hooks)

    def remove(self, model: nn.Module) -> None:
        """Leave nothing on the model; what was compiled meanwhile is compiled anew without a guard."""
        if self._installed is not None:
            self._installed.remove()
        for place in self._places:
            vars(self._blocks[block_of(place)]).pop(attribute_of(place), None)
        for module in (model, self._blocks[0]):
            vars(module).pop(TRACED, None)
        for name in TRANSFORMERS_OWN:
            if name not in self._transformers_own:
                vars(model).pop(name, None)

    @property
    def handles(self) -> Any:
        """The handles of the hooks."""
        return () if self._installed is None else self._installed.handles.values()

    @contextmanager
    def uncompiled(self, model: nn.Module) -> Iterator[None]:
        """Keep other threads out and run the model without `torch.compile` inside the block.

        The decode steps of a generation are compiled again from `begin` on.
        """
        with self._lock:
            outer, runs = self._aside, self._runs
            # The prompt of a second generation inside a first one is read uncompiled too.
            self._runs = False
            try:
                with uncompiled(model) as self._aside:
                    yield
            finally:
                self._aside, self._runs = outer, runs

    @property
    def is_free(self) -> bool:
        """Whether no decode step of this model is on its way; a callback may ask for a second generation."""
        return self._state.request is None

    @property
    def compiles(self) -> bool:
        """Whether a pass may run compiled now."""
        return self._aside is None or self._runs

    def run(self, inner: Callable[..., Any], model: Any, arguments: tuple[Any, ...], named_arguments: Any) -> Any:
        """Run one pass that is permitted, alone on the model; the compiled code learns what it may do.

        In a pass that does not run compiled it may do nothing: what enters the blocks then asks the context variable.
        """
        state = self._state
        with self._lock:
            before = state.passage
            state.passage = "closed" if not self.compiles else "guided" if state.acts_here else "plain"
            try:
                return inner(model, *arguments, **named_arguments)
            finally:
                state.passage = before

    def lay_out(
        self,
        request: GuidedRequest,
        lasting: Sequence[Intervention],
        additions: Additions,
        *,
        outputs: Mapping[Place, Tensor],
        passes: dict[Place, int],
        most_passes: int | None,
    ) -> DecodeHooks:
        """Fill the tensors for the decode steps of a request; the arguments are those of `decode_hooks`.

        Args:
            request: the request, its gates known.
            lasting: every intervention of the request that may change generated tokens, open in some row or not, so
                that the graph does not depend on which rows are open.
            additions: what each of them does.
            outputs: empty tensors `[0, width]` with the device and type of the hidden states at the places passed.
            passes: not used: counted on the device.
            most_passes: how many decode passes can come at most; None where that is not known.
        """
        del passes
        self._know(outputs)
        self._stepped = []
        items = at_places(lasting)
        # A tensor made in inference mode could not be filled again outside of it.
        with torch.inference_mode(mode=False):
            last = next(reversed(self._places))
            self._count_from_zero(self._likes.get(last, next(iter(outputs.values()))).device)
            for place, held in self._places.items():
                like = self._likes.get(place)
                held.stages = ()
                # Where no prefill was changed yet, all rows are closed.
                if like is not None:
                    parts = decode_parts(request, items.get(place, ()), additions, like=like, most_passes=most_passes)
                    held.stages = tuple(
                        self._adding(part, request.rows, like)
                        if isinstance(part, AddedPart)
                        else Operating(part.operator, part.gate.clone())
                        for part in parts
                    )
        return DecodeHooks()

    def begin(self, request: GuidedRequest | None) -> None:
        """Run the passes that follow compiled, where the app compiled the model.

        Args:
            request: the request that `lay_out` was called for; None where nothing is open.
        """
        self._state.request = request
        self._runs = True
        if self._aside is not None:
            self._aside.put_back()

    def advance(self, step: int) -> None:
        """Fill in what the decode step of this number adds, 0 for the first; nothing waits for the device."""
        for delta, part in self._stepped:
            if step < len(part.deltas):
                delta.copy_(part.deltas[step])
            elif step == len(part.deltas):
                delta.fill_(NEGATIVE_ZERO) if part.rest is None else delta.copy_(part.rest)

    def require_passes(self, passes: int) -> dict[Place, int]:
        """Prove that every place changed the positions of every decode step; waits for the device.

        Args:
            passes: decode steps, as the loop counted them.

        Returns:
            The positions per row at each place.

        Raises:
            GuidanceDidNotFireError: the places together changed another number of positions.
        """
        count = self._state.count
        wanted, found = passes * len(self._places), 0 if count is None else int(count)
        if found != wanted:
            raise GuidanceDidNotFireError(
                "Compiled decode steps acted on another number of positions than the plan requires.",
                expected=f"{wanted} positions: {passes} at each of {len(self._places)} places",
                found=f"{found} positions",
                where=self._state.layout,
                next_step="Look for code that removes hooks, call torch.compiler.reset(), and compile again after wrap.",
            )
        return dict.fromkeys(self._places, passes)

    def end(self) -> None:
        """Let go of the request; nothing is left that a later pass could read."""
        self._state.request = None
        self._stepped = []
        for held in self._places.values():
            held.stages = ()

    def _know(self, outputs: Mapping[Place, Tensor]) -> None:
        """Remember the hidden states of the places passed; forget all others once a model was moved or cast."""
        passed = {place: like for place, like in outputs.items() if place in self._places}
        known = {place: self._likes.get(place, like) for place, like in passed.items()}
        if any((known[one].device, known[one].dtype) != (like.device, like.dtype) for one, like in passed.items()):
            self._likes.clear()
        self._likes.update(passed)

    def _adding(self, part: AddedPart, rows: int, like: Tensor) -> Adding:
        first = part.deltas[0] if part.deltas else part.rest
        delta = torch.full((rows, 1, like.shape[-1]), NEGATIVE_ZERO, device=like.device, dtype=like.dtype)
        if first is not None:
            delta.copy_(first)
        if part.deltas:
            self._stepped.append((delta, part))
        return Adding(delta)

    def _count_from_zero(self, device: torch.device) -> None:
        """Start over, in the same tensor where that is possible: a compiled graph may rely on where it lies."""
        state = self._state
        state.seen = 0
        if state.count is None or state.count.device != device:
            state.count = torch.zeros((), dtype=torch.int64, device=device)
            torch._dynamo.mark_static_address(state.count, guard=False)  # noqa: SLF001 - torch has no public name for it
        else:
            state.count.zero_()
