"""Every guidance method, in one explicit tuple.

The policy union, the JSON Schema, the policy reference and the conformance suite all read `METHODS`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from steerguard.errors import UnknownMethodError
from steerguard.methods.fitted_refusal import FittedRefusalSpec
from steerguard.methods.inferaligner import InferAlignerSpec
from steerguard.methods.inference_guard import InferenceGuardSpec
from steerguard.methods.refusal_direction import RefusalDirectionSpec
from steerguard.methods.rolling_guard import RollingGuardSpec

if TYPE_CHECKING:
    from steerguard.methods.spec import GuidanceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One catalog line."""

    name: str
    """Value of `method` in a policy."""
    spec: type[GuidanceSpec]
    """Model of the policy entry."""
    status: Literal["available", "planned"]
    """`planned`: policies that name it validate, plans refuse it."""
    executor: str | None
    """`module:function` that binds the step to a model; None while planned."""
    page: str
    """Page of the documentation, relative to `docs/`."""


METHODS: tuple[Method, ...] = (
    Method(
        name="inferaligner",
        spec=InferAlignerSpec,
        status="available",
        executor="steerguard.guidance.inferaligner.bind:bind",
        page="methods/inferaligner.md",
    ),
    Method(
        name="fitted_refusal",
        spec=FittedRefusalSpec,
        status="available",
        executor="steerguard.guidance.fitted_refusal.bind:bind",
        page="methods/fitted-refusal.md",
    ),
    Method(
        name="refusal_direction",
        spec=RefusalDirectionSpec,
        status="available",
        executor="steerguard.guidance.refusal_direction.bind:bind",
        page="methods/refusal-direction.md",
    ),
    Method(
        name="rolling_guard",
        spec=RollingGuardSpec,
        status="available",
        executor="steerguard.guidance.rolling_guard.bind:bind",
        page="methods/rolling-guard.md",
    ),
    Method(
        name="inference_guard",
        spec=InferenceGuardSpec,
        status="planned",
        executor=None,
        page="methods/inference_guard.md",
    ),
)


def method_named(name: str) -> Method:
    """Return the catalog line of a method.

    Raises:
        UnknownMethodError: no method has that name.
    """
    for method in METHODS:
        if method.name == name:
            return method
    names = [method.name for method in METHODS]
    near = difflib.get_close_matches(name, names, n=1)
    raise UnknownMethodError(
        f"No guidance method is called `{name}`.",
        expected=f"one of {', '.join(names)}",
        found=name,
        next_step=f"Write `{near[0]}`." if near else "Choose one of the methods listed.",
    )
