"""What a cost model over texts may do beside saying what answers cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@runtime_checkable
class JudgesPrompts(Protocol):
    """A cost model that also judges a prompt by itself, before there is an answer."""

    def prompt_cost(self, prompts: Sequence[str]) -> Tensor:
        """Return the cost of each prompt, float32 `[rows]`; higher is more harmful.

        Of an empty prompt the cost is `nan`: there is nothing to judge.
        """


@runtime_checkable
class RunsAModel(Protocol):
    """A cost model that runs a model of its own, on the device where that model is."""

    @property
    def model(self) -> Any:
        """The model, a torch module."""
