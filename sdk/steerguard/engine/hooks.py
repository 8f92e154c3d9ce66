"""Forward hooks on decoder blocks, reference-counted: they exist only while a running request needs them."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from steerguard.engine.active import ACTIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import nn
    from torch.utils.hooks import RemovableHandle


class BlockHooks:
    """The hooks of one wrapped model.

    A block carries at most one hook of ours, whatever the number of requests; it acts for the request of the calling
    thread and is inert for every other caller.
    """

    def __init__(self, owner: object, blocks: Sequence[nn.Module]) -> None:
        self._owner = owner
        self._blocks = blocks
        self._lock = threading.Lock()
        self._users: Counter[int] = Counter()
        self._handles: dict[int, RemovableHandle] = {}

    def acquire(self, blocks: Iterable[int]) -> None:
        """Count one more user of each block; install what is missing. All or nothing."""
        taken: list[int] = []
        try:
            for block in blocks:
                self._acquire_one(block)
                taken.append(block)
        except BaseException:
            self.release(taken)
            raise

    def release(self, blocks: Iterable[int]) -> None:
        """Count one user less of each block; remove hooks that nobody needs."""
        with self._lock:
            for block in blocks:
                self._users[block] -= 1
                if self._users[block] <= 0:
                    del self._users[block]
                    self._handles.pop(block).remove()

    @property
    def installed(self) -> tuple[int, ...]:
        """Blocks that carry a hook at this moment."""
        with self._lock:
            return tuple(sorted(self._handles))

    def _acquire_one(self, block: int) -> None:
        with self._lock:
            if block not in self._handles:
                self._handles[block] = self._blocks[block].register_forward_hook(_hook(self._owner, block))
            self._users[block] += 1


def _hook(owner: object, block: int) -> Callable[[nn.Module, Any, Any], Any]:
    def act(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        state = ACTIVE.get()
        if state is None or state.owner is not owner:
            return None
        return state.at_block(block, output)

    return act
