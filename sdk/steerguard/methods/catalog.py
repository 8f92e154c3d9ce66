"""Every guidance method, in one explicit tuple.

The policy union, the JSON Schema, the policy reference and the conformance suite all read `METHODS`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from steerguard.errors import UnknownMethodError
from steerguard.methods.best_of_n import BestOfNSpec
from steerguard.methods.controlled_decoding import ControlledDecodingSpec
from steerguard.methods.fitted_refusal import FittedRefusalSpec
from steerguard.methods.guardian import GuardianSpec
from steerguard.methods.inferaligner import InferAlignerSpec
from steerguard.methods.inference_guard import InferenceGuardSpec
from steerguard.methods.refusal_direction import RefusalDirectionSpec
from steerguard.methods.rolling_guard import RollingGuardSpec
from steerguard.methods.value_filter import ValueFilterSpec

if TYPE_CHECKING:
    from steerguard.methods.spec import GuidanceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One catalog line."""

    name: str
    """Value of `method` in a policy."""
    spec: type[GuidanceSpec]
    """Model of the policy entry."""
    status: Literal["available", "experimental"]
    """`experimental`: it runs, and did not do better than a simpler method where it was measured."""
    executor: str
    """`module:function` that binds the step to a model."""
    page: str
    """Page of the documentation, relative to `docs/`."""
    searches: bool = False
    """Whether it chooses among candidate answers; every other method steers, or reads, the answer that is written."""


SEARCH_EXECUTOR = "steerguard.guidance.search.bind:bind"
"""Executor of every method that searches: they are one loop with other parts."""

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
        status="experimental",
        executor=SEARCH_EXECUTOR,
        page="methods/inference-guard.md",
        searches=True,
    ),
    Method(
        name="best_of_n",
        spec=BestOfNSpec,
        status="available",
        executor=SEARCH_EXECUTOR,
        page="methods/best-of-n.md",
        searches=True,
    ),
    Method(
        name="controlled_decoding",
        spec=ControlledDecodingSpec,
        status="available",
        executor=SEARCH_EXECUTOR,
        page="methods/controlled-decoding.md",
        searches=True,
    ),
    Method(
        name="value_filter",
        spec=ValueFilterSpec,
        status="available",
        executor=SEARCH_EXECUTOR,
        page="methods/value-filter.md",
        searches=True,
    ),
    Method(
        name="guardian",
        spec=GuardianSpec,
        status="available",
        executor=SEARCH_EXECUTOR,
        page="methods/guardian.md",
        searches=True,
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
