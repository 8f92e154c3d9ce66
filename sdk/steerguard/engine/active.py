"""Who may run a forward pass of a wrapped model right now.

The state travels in one context variable, so two threads that generate at once on one model never see each other, and
a thread that was started inside a forward pass (DataParallel) has none and is refused.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from steerguard.errors import UnguidedForwardError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Activity(Protocol):
    """What a thread is doing with one wrapped model."""

    @property
    def owner(self) -> object:
        """The guard that started it."""

    @property
    def permits_forward(self) -> bool:
        """Whether the model's forward pass may run."""


@dataclass(frozen=True, slots=True, eq=False)
class Unguided:
    """A forward pass without guidance was asked for by name."""

    owner: object
    permits_forward: bool = True


ACTIVE: ContextVar[Activity | None] = ContextVar("steerguard_active", default=None)


@contextmanager
def activity(state: Activity) -> Iterator[None]:
    """Make `state` the current activity of this thread."""
    token = ACTIVE.set(state)
    try:
        yield
    finally:
        ACTIVE.reset(token)


def require_permission(owner: object) -> None:
    """Refuse a forward pass that no guided request of this guard started.

    Raises:
        UnguidedForwardError: the wrapped model was called directly.
    """
    state = ACTIVE.get()
    if state is None or state.owner is not owner or not state.permits_forward:
        raise UnguidedForwardError(
            "A wrapped model was called directly, outside `generate`.",
            expected="a call to `generate`, `guard.check` or `guard.explain`",
            found="a direct forward pass, or one in a thread started inside a forward pass",
            next_step="Use `with model.guard.unguided(reason):`, which records the bypass, or `steerguard.unwrap(model)`.",
        )
