"""The fence behind the class of a wrapped model: who may enter its decoder blocks.

A pass can go around the guarded class: by `forward` of the original class, by a `forward` that was bound before `wrap`
or that accelerate keeps on the instance, by `model.model(...)`, `model.get_decoder()(...)` or another model around the
same decoder. All of them call the first decoder block, so its class asks for the same permission as the model's own,
and lets each pass that the model was called for enter once.

What is asked is `__call__` of the first block at the time of `wrap`, and nothing else. Code that walks the blocks by hand
is not stopped: it can call `forward` of the first block, begin at a later one, or run blocks that it put in their place.

What generates text is fenced, what only encodes is not: vision and audio towers, projectors, embeddings and the head
stay callable, because their outputs become text only in the blocks. A `wrap` leaves every other module as it is.

Compiled code cannot ask who calls. It asks whether any permitted pass of this model runs compiled, in whatever thread,
and is compiled anew, and refused, where none does.

Without a guard the fenced class does nothing, so a block that something else gave a class derived from it works on
after `unwrap`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

import torch

from steerguard.engine.active import ACTIVE, IN_BLOCKS, STARTED, not_permitted, pass_inside_a_pass, require_permission
from steerguard.engine.compiled_places import TRACED
from steerguard.errors import AlreadyWrappedError, GuardedModelCopyError, UnsupportedArchitectureError
from steerguard.guarded_class import GUARD_ATTRIBUTE

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from steerguard.guard import Guard


def require_unfenced(block: nn.Module) -> None:
    """Refuse a block that is the first one of another wrapped model.

    Raises:
        AlreadyWrappedError: a guard stands at the block.
    """
    if GUARD_ATTRIBUTE in vars(block):
        raise AlreadyWrappedError(
            "The decoder blocks of the model belong to a model that is wrapped already.",
            expected="blocks without a guard",
            found="blocks that two models share",
            next_step="Use the wrapped one, or call steerguard.unwrap on it first.",
        )


def raise_fence(block: nn.Module, guard: Guard) -> None:
    """Let nothing enter a block without permission of a guard.

    Args:
        block: the first decoder block of the model.
        guard: the guard of the model.

    Raises:
        UnsupportedArchitectureError: the class of the block cannot be derived from; the block is as it was.
    """
    try:
        # A class derived from a fenced one, as FSDP makes, asks already.
        if not hasattr(type(block), "_steerguard_unfenced"):
            block.__class__ = _fenced_class(cast("Any", type(block)))
    except TypeError as error:
        raise UnsupportedArchitectureError(
            "The first decoder block of this model cannot be guarded.",
            expected="a block of a plain Python class",
            found=type(block).__name__,
        ) from error
    object.__setattr__(block, GUARD_ATTRIBUTE, guard)


def remove_fence(block: nn.Module) -> None:
    """Let everything enter a block again; class and attributes are those of before."""
    vars(block).pop(GUARD_ATTRIBUTE, None)
    original = vars(type(block)).get("_steerguard_unfenced")
    if original is not None:
        block.__class__ = original


@functools.cache
def _fenced_class(original: type) -> type:
    """Return the fenced subclass of a block's class; one per class."""
    namespace: dict[str, Any] = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "_steerguard_unfenced": original,
        "__call__": _entered(original),
        "__reduce_ex__": _copied(original),
    }
    made = type(original.__name__, (original,), namespace)
    if "forward" in vars(made):
        # transformers wraps `forward` of each class derived from a block once more, which every token would pay for.
        del made.forward  # type: ignore[attr-defined]
    return made


def _entered(original: Any) -> Callable[..., Any]:
    inner = original.__call__

    @functools.wraps(inner)
    def enter(self: Any, *arguments: Any, **named: Any) -> Any:
        if torch.compiler.is_compiling():
            traced = getattr(self, TRACED, None)
            if traced is not None:
                # Compared before every compiled pass; reading the layout keeps models with other hooks apart.
                if traced.passage == "closed" or not traced.layout:
                    raise not_permitted()
                return inner(self, *arguments, **named)
        # Asked at every token: in the usual case without a further call.
        guard = self.__dict__.get(GUARD_ATTRIBUTE)
        if guard is not None:
            state = ACTIVE.get()
            if state is None or state.owner is not guard.owner or not state.permits_forward:
                require_permission(guard.owner)
            elif state.passing == STARTED:
                state.passing = IN_BLOCKS
            elif state.passing is not None:
                raise pass_inside_a_pass()
        return inner(self, *arguments, **named)

    return enter


def _copied(original: Any) -> Callable[..., Any]:
    inner = original.__reduce_ex__

    def reduce(self: Any, protocol: Any) -> Any:
        if GUARD_ATTRIBUTE in self.__dict__:
            raise GuardedModelCopyError(
                "The decoder of a wrapped model cannot be pickled or copied: the copy would run without its guard.",
                found=type(self).__name__,
                next_step="Call steerguard.unwrap(model) first, copy, and wrap the copy.",
            )
        return inner(self, protocol)

    return reduce
