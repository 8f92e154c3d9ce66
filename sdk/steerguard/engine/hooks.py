"""Hooks on decoder blocks: they exist only while a running request needs them.

Every request brings hooks of its own and takes them away again, so a block carries as many as requests need it.
A hook acts for the request of the calling thread and is inert for every other caller.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch

from steerguard.engine.active import ACTIVE
from steerguard.errors import GuidanceDidNotFireError, IncompatibleModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from steerguard.engine.request import GuidedRequest
    from steerguard.engine.stages import Stage

    Hook = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class BlockInput:
    """The place in front of a decoder block; its number alone stands for the place behind it."""

    block: int


Place = int | BlockInput
"""Where a hook sits: a block's number stands for its output."""


def block_of(place: Place) -> int:
    """Return the number of the block that a place belongs to."""
    return place.block if isinstance(place, BlockInput) else place


def passing_order(place: Place) -> tuple[int, bool]:
    """Return a sort key: the order in which a forward pass meets the places."""
    return block_of(place), not isinstance(place, BlockInput)


def named(place: Place) -> str:
    """Return what a place is called in messages."""
    return f"input of block {place.block}" if isinstance(place, BlockInput) else f"block {place}"


class BlockHooks:
    """The hooks of ours on one wrapped model's decoder blocks."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._blocks = blocks
        self._lock = threading.Lock()
        self._count: Counter[int] = Counter()

    def require_blocks(self, blocks: Sequence[nn.Module]) -> None:
        """Refuse other decoder blocks than those that the hooks go to.

        Raises:
            IncompatibleModelError: a block was replaced, so what is hooked is not what runs.
        """
        replaced = [number for number, pair in enumerate(zip_longest(self._blocks, blocks)) if pair[0] is not pair[1]]
        if replaced:
            raise IncompatibleModelError(
                "Decoder blocks were replaced after the model was wrapped, so they run without the guard.",
                expected="the blocks that were wrapped",
                found=f"another module at block {', '.join(str(number) for number in replaced[:5])}",
                where="model.get_decoder()",
                next_step="Put the blocks back, or unwrap the model, replace them, and wrap again.",
            )

    def install(self, hooks: Mapping[Place, Hook]) -> InstalledHooks:
        """Put one hook on each named place, all or nothing; `remove` of the result takes them away."""
        installed = InstalledHooks(self)
        try:
            for place, hook in hooks.items():
                # torch numbers its hooks without a lock.
                with self._lock:
                    block = self._blocks[block_of(place)]
                    installed.handles[place] = (
                        block.register_forward_pre_hook(hook, with_kwargs=True)
                        if isinstance(place, BlockInput)
                        else block.register_forward_hook(hook)
                    )
                    self._count[block_of(place)] += 1
        except BaseException:
            installed.remove()
            raise
        return installed

    @property
    def first(self) -> nn.Module:
        """The block that every pass enters first."""
        return self._blocks[0]

    @property
    def installed(self) -> tuple[int, ...]:
        """Blocks that carry a hook of ours at this moment."""
        with self._lock:
            return tuple(sorted(block for block, count in self._count.items() if count))

    def discount(self, place: Place, handle: RemovableHandle) -> None:
        """Take one hook away."""
        with self._lock:
            handle.remove()
            self._count[block_of(place)] -= 1


class InstalledHooks:
    """The hooks of one request."""

    def __init__(self, owner: BlockHooks) -> None:
        self._owner = owner
        self.handles: dict[Place, RemovableHandle] = {}

    def remove(self, *, keep: Collection[Place] = ()) -> None:
        """Take away every hook but those on the places to keep; a second call does nothing."""
        for place in [place for place in self.handles if place not in keep]:
            self._owner.discount(place, self.handles[place])
            del self.handles[place]


def reading_hook(request: GuidedRequest, block: int) -> Hook:
    """Return the hook that lets a request read, decide and change at one block."""

    def act(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        if ACTIVE.get() is not request:
            return None
        if not isinstance(output, tuple):
            return request.at_block(block, output)
        changed = request.at_block(block, output[0])
        return None if changed is None else (changed, *output[1:])

    return act


def entering_hook(request: GuidedRequest, block: int) -> Hook:
    """Return the hook that lets a request change the input of one block."""

    def act(_module: nn.Module, arguments: Any, named_arguments: Any) -> Any:
        if ACTIVE.get() is not request:
            return None
        changed = request.before_block(block, entering(arguments, named_arguments, where=BlockInput(block)))
        return None if changed is None else replaced_input(changed, arguments, named_arguments)

    return act


def adding_hook(request: GuidedRequest, block: int, delta: Tensor, passes: dict[Place, int], *, measures: bool) -> Hook:
    """Return the hook of a decode step: it adds, counts and does nothing else, because every token pays for it.

    Args:
        request: the request that it acts for.
        block: the block's number.
        delta: `[rows, 1, width]`, negative zero in closed rows.
        passes: positions changed so far, by block; counted here.
        measures: whether to count the positions of each pass; elsewhere a pass counts one, and a pass of another width
            makes the counts of the blocks differ, which the fired proof finds.
    """
    current, plain, plus = ACTIVE.get, torch.Tensor, torch.add

    def add(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        if current() is not request:
            return None
        passes[block] += 1
        return plus(output, delta) if type(output) is plain else _add_to_first(output, delta)

    def measure_and_add(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        if current() is not request:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        passes[block] += hidden.shape[1]
        return plus(output, delta) if type(output) is plain else _add_to_first(output, delta)

    return measure_and_add if measures else add


def stepping_hook(
    request: GuidedRequest, block: int, deltas: Sequence[Tensor], rest: Tensor | None, passes: dict[Place, int]
) -> Hook:
    """Return the hook of decode steps that differ: it adds the next tensor in every pass, and counts.

    Args:
        request: the request that it acts for.
        block: the block's number.
        deltas: `[rows, 1, width]` for each of the first passes, negative zero where a row gets nothing.
        rest: what later passes add, `[rows, 1, width]`; None for nothing.
        passes: positions changed so far, by block; counted here.
    """
    current, ending = ACTIVE.get, len(deltas)

    def add_next(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        if current() is not request:
            return None
        step = passes[block]
        passes[block] += (output[0] if isinstance(output, tuple) else output).shape[1]
        delta = deltas[step] if step < ending else rest
        return None if delta is None else _add_to_first(output, delta)

    return add_next


def changing_hook(request: GuidedRequest, place: Place, stages: Sequence[Stage], passes: dict[Place, int]) -> Hook:
    """Return the hook of decode steps at a place where more is done than adding to an output; it counts positions.

    Args:
        request: the request that it acts for.
        place: the place.
        stages: what is done, one after the other.
        passes: positions changed so far, by place; counted here.
    """
    current = ACTIVE.get

    def changed(hidden: Tensor) -> Tensor:
        step = passes[place]
        passes[place] += hidden.shape[1]
        for stage in stages:
            hidden = stage(step, hidden)
        return hidden

    def behind(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        if current() is not request:
            return None
        return (changed(output[0]), *output[1:]) if isinstance(output, tuple) else changed(output)

    def before(_module: nn.Module, arguments: Any, named_arguments: Any) -> Any:
        if current() is not request:
            return None
        hidden = changed(entering(arguments, named_arguments, where=place))
        return replaced_input(hidden, arguments, named_arguments)

    return before if isinstance(place, BlockInput) else behind


def entering(arguments: tuple[Any, ...], named_arguments: Mapping[str, Any], *, where: Place | None = None) -> Tensor:
    """Return the hidden states that a block is called with.

    Args:
        arguments: positional arguments of the call.
        named_arguments: its named arguments.
        where: names the place in the error.

    Raises:
        GuidanceDidNotFireError: they are not where the engine looks for them.
    """
    hidden = arguments[0] if arguments else named_arguments.get("hidden_states")
    if not isinstance(hidden, torch.Tensor):
        raise GuidanceDidNotFireError(
            "A decoder block was called without hidden states where the engine looks for them.",
            expected="a tensor as first argument, or as `hidden_states`",
            found=type(hidden).__name__,
            where="input of a decoder block" if where is None else named(where),
            next_step="Use a policy that acts on the outputs of blocks for this model class.",
        )
    return hidden


def replaced_input(hidden: Tensor, arguments: tuple[Any, ...], named_arguments: dict[str, Any]) -> Any:
    """Return the arguments of a block with other hidden states."""
    if arguments:
        return (hidden, *arguments[1:]), named_arguments
    return arguments, {**named_arguments, "hidden_states": hidden}


def _add_to_first(output: Any, delta: Tensor) -> Any:
    """Add to a tensor subclass, or to the first entry of a block that returns a tuple."""
    return (output[0] + delta, *output[1:]) if isinstance(output, tuple) else output + delta
