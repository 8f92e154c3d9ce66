"""Who may run a forward pass of a wrapped model right now.

The state travels in one context variable, so two threads that generate at once on one model never see each other, and
a thread that was started inside a forward pass (DataParallel) has none and is refused.
A context can be copied and outlive what it was made for, so every state knows when it is over, and which thread and
task it belongs to.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from steerguard.errors import UnguidedForwardError

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTSIDE, STARTED, IN_BLOCKS = range(3)
"""Where a guided request is: between two passes, in a pass before its decoder blocks, in or behind them."""


class Activity(Protocol):
    """What a thread is doing with one wrapped model."""

    passing: int | None
    """`OUTSIDE`, `STARTED` or `IN_BLOCKS`; None where passes are free, so that nobody counts them."""

    @property
    def owner(self) -> object:
        """Token of the guard that started it."""

    @property
    def permits_forward(self) -> bool:
        """Whether the model's forward pass may run now, in this thread."""

    def end(self) -> None:
        """Permit nothing from here on, wherever a copy of the context still holds this."""


class Stretch:
    """A stretch of code with one wrapped model, in one thread and one asynchronous task."""

    passing: int | None = None

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self._live = True
        self._thread = threading.get_ident()
        self._task = _current_task()

    @property
    def is_here(self) -> bool:
        """Whether the stretch has not ended and this is its thread and task."""
        return self._live and self._thread == threading.get_ident() and self._task is _current_task()

    def end(self) -> None:
        """Permit nothing from here on."""
        self._live = False


class Unguided(Stretch):
    """A stretch of code that may use the model without guidance."""

    @property
    def permits_forward(self) -> bool:
        """Whether the stretch has not ended and this is its thread and task."""
        return self.is_here


ACTIVE: ContextVar[Activity | None] = ContextVar("steerguard_active", default=None)


@contextmanager
def activity(state: Activity) -> Iterator[None]:
    """Make `state` the current activity of this thread; it has ended when the block is left."""
    token = ACTIVE.set(state)
    try:
        yield
    finally:
        state.end()
        # A generator may be closed in another context than it was started in; what stays behind there has ended.
        with suppress(ValueError):
            ACTIVE.reset(token)


def require_permission(owner: object) -> None:
    """Refuse a forward pass that no guided request of this guard started.

    Raises:
        UnguidedForwardError: the wrapped model was called directly.
    """
    state = ACTIVE.get()
    if state is None or state.owner is not owner or not state.permits_forward:
        raise not_permitted()


def not_permitted() -> UnguidedForwardError:
    """Return the error for a pass that no guided request of this guard started."""
    return UnguidedForwardError(
        "A wrapped model was called directly, outside `generate`.",
        expected="a call to `generate`, `guard.check` or `guard.explain`, or a pass inside `with guard.forward():`",
        found="a direct forward pass of the model or its text decoder, or one in another thread, task or callback",
        next_step="Use `with model.guard.unguided(reason):`, which records the bypass, or `steerguard.unwrap(model)`.",
    )


def pass_inside_a_pass() -> UnguidedForwardError:
    """Return the error for a pass that a guided request did not start itself, but a hook inside one of its passes."""
    return UnguidedForwardError(
        "A wrapped model was called inside a forward pass of its own.",
        expected="one pass at a time in a guided request",
        found="a second pass, started by a hook of the app or behind the model's class",
        next_step="Call the model after `generate`. Inside the hook `generate`, `guard.check` and "
        "`with model.guard.unguided(reason):` work too.",
    )


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
