"""Hidden states that a caller asked for, recorded where guidance has already changed them.

transformers records the output of a block with a hook of its own, which is installed once and stays.
Our hooks come later, so without this it would record what the model did not go on with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.utils import output_capturing

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Iterable

    from torch.utils.hooks import RemovableHandle


class RecordedLast:
    """Lets transformers' recording hooks run last for as long as one request needs it."""

    def __init__(self) -> None:
        self._orders: list[tuple[OrderedDict[int, Any], tuple[int, ...]]] = []

    def behind(self, handles: Iterable[RemovableHandle]) -> None:
        """Move the recording hooks behind the given ones, wherever both stand on one block."""
        for handle in handles:
            hooks = handle.hooks_dict_ref()
            if hooks is None:
                continue
            recording = [key for key, hook in hooks.items() if getattr(hook, "__module__", "") == _MODULE]
            if recording:
                self._orders.append((hooks, tuple(hooks)))
            for key in recording:
                hooks.move_to_end(key)

    def restore(self) -> None:
        """Put the hooks that are still there back into the order that they had."""
        while self._orders:
            hooks, order = self._orders.pop()
            for key in order:
                if key in hooks:
                    hooks.move_to_end(key)


_MODULE = output_capturing.__name__
