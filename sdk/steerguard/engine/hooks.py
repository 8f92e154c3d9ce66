"""Forward hooks on decoder blocks: they exist only while a running request needs them.

Every request brings hooks of its own and takes them away again, so a block carries as many as requests need it.
A hook acts for the request of the calling thread and is inert for every other caller.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from steerguard.engine.active import ACTIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from steerguard.engine.request import GuidedRequest

    Hook = Callable[[nn.Module, Any, Any], Any]


class BlockHooks:
    """The hooks of ours on one wrapped model's decoder blocks."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._blocks = blocks
        self._lock = threading.Lock()
        self._count: Counter[int] = Counter()

    def install(self, hooks: Mapping[int, Hook]) -> InstalledHooks:
        """Put one hook on each named block, all or nothing; `remove` of the result takes them away."""
        installed = InstalledHooks(self)
        try:
            for block, hook in hooks.items():
                # torch numbers its hooks without a lock.
                with self._lock:
                    installed.handles[block] = self._blocks[block].register_forward_hook(hook)
                    self._count[block] += 1
        except BaseException:
            installed.remove()
            raise
        return installed

    @property
    def installed(self) -> tuple[int, ...]:
        """Blocks that carry a hook of ours at this moment."""
        with self._lock:
            return tuple(sorted(block for block, count in self._count.items() if count))

    def discount(self, block: int, handle: RemovableHandle) -> None:
        """Take one hook away."""
        with self._lock:
            handle.remove()
            self._count[block] -= 1


class InstalledHooks:
    """The hooks of one request."""

    def __init__(self, owner: BlockHooks) -> None:
        self._owner = owner
        self.handles: dict[int, RemovableHandle] = {}

    def remove(self, *, keep: Collection[int] = ()) -> None:
        """Take away every hook but those on the blocks to keep; a second call does nothing."""
        for block in [block for block in self.handles if block not in keep]:
            self._owner.discount(block, self.handles[block])
            del self.handles[block]


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


def adding_hook(request: GuidedRequest, block: int, delta: Tensor, passes: dict[int, int], *, measures: bool) -> Hook:
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
    request: GuidedRequest, block: int, deltas: Sequence[Tensor], rest: Tensor | None, passes: dict[int, int]
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


def _add_to_first(output: Any, delta: Tensor) -> Any:
    """Add to a tensor subclass, or to the first entry of a block that returns a tuple."""
    return (output[0] + delta, *output[1:]) if isinstance(output, tuple) else output + delta
