"""Recipe part of a critic: the cost model that labels, the roll-outs, the budgets, and how the network is fitted."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from steerguard.build.recipe_part import FloatDtype, RecipePart
from steerguard.build.recipe_rollouts import RolloutSettings


class LabellingCost(RecipePart):
    """The cost model whose costs the critic foresees; the artifact carries a copy of it."""

    artifact: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[a-z0-9.-]+@\d+\.\d+\.\d+$")]
    """Exact reference, `family/variant@version`."""
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    """Digest of its manifest; left out, the one that the index of the registry pins. The artifact states it."""
    registry: Annotated[str, Field(min_length=1)] = ".."
    """Folder of the registry that holds it, relative to the recipe."""


class CriticFit(RecipePart):
    """How the network is fitted: a linear start in closed form, then all of it by gradient; inputs are standardised."""

    penalty: Annotated[float, Field(gt=0, le=1e9)]
    """L2 penalty of the linear start, on the sum of squared errors over samples."""
    hidden: Annotated[int, Field(ge=1, le=4096)] = 32
    """Units of the hidden layer."""
    epochs: Annotated[int, Field(ge=1, le=1000)]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0, le=100)]
    """Decoupled decay of the weights of the hidden layer."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 256


class CriticRecipe(RecipePart):
    """A network with two heads on the states of roll-outs: will the answer end within the budget, and at which cost."""

    type: Literal["critic"]
    method: Literal["safety_value"] = "safety_value"
    cost_model: LabellingCost
    rollouts: RolloutSettings
    budgets: Annotated[
        tuple[Annotated[str, Field(pattern=r"^0\.\d*[1-9]\d*$", max_length=12)], ...],
        Field(min_length=1, max_length=16, strict=False),
    ]
    """Budgets d that the critic is trained for, each as the share of benign answers that exceed it, decimal strings."""
    discount: Annotated[str, Field(pattern=r"^(0\.\d*[1-9]\d*|1|1\.0)$", max_length=12)] = "1"
    """gamma of the safety state, decimal string; its clock is the block."""
    fit: CriticFit
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    """Folds of the cross-validation that the card reports, split by prompt."""
    weights: FloatDtype = "bfloat16"
    """Weight type of the model that writes the answers, and whose states are read."""

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if len({float(budget) for budget in self.budgets}) != len(self.budgets):
            message = "artifact.budgets: a rate stands twice"
            raise ValueError(message)
        return self

    def block_lists(self) -> dict[str, tuple[int, ...]]:
        """Return no list: the blocks are those of the cost model, which fits the model or is refused."""
        return {}
