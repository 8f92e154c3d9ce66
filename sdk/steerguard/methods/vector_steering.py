"""What methods that add an artifact's vectors share: the types of their settings, and the artifact's own schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from steerguard.errors import ArtifactFormatError, UnsupportedPlanError
from steerguard.methods.section import Section
from steerguard.methods.spec import Footprint

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_COEFFICIENT = 8.0
MAX_STEPS = 1024

Positions = Literal["all", "last_prompt_token_and_decode", "decode", "prefill"]
"""Token positions that a constant vector is added to.

`all`: the whole prompt and every generated token.
`last_prompt_token_and_decode`: the last prompt token and every generated token.
`decode`: generated tokens only.
`prefill`: prompt tokens only.
"""

ModalityTokens = Literal["include", "exclude"]
"""Whether columns of the prompt that stand for images, sounds or videos are changed.

`include`: as every other token of the prompt.
`exclude`: they are left as they are.
"""


class FirstSteps(Section):
    """The first generated tokens that the model reads, and nothing else."""

    first_steps: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_STEPS,
            json_schema_extra={"x-unit": "generated tokens", "x-cost": "none after the last of them"},
        ),
    ]
    """How many generated tokens are changed when the model reads them; every later one is left as it is."""


def _kind_of_positions(value: Any) -> str:
    return "by_count" if isinstance(value, (dict, FirstSteps)) else "by_name"


ScheduleKind = Literal["constant", "by_phase", "by_step"]
"""Which vector a position gets.

`constant`: the same one at every position of the position rule.
`by_phase`: one for the prompt, one for its last token, one for generated tokens.
`by_step`: one for the prompt, one for its last token, one for each of the first generated tokens, then none.
"""


def _increasing(blocks: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if blocks is not None and tuple(sorted(set(blocks))) != blocks:
        kind, message = "blocks_order", "blocks must be in increasing order, each once"
        raise PydanticCustomError(kind, message)
    return blocks


Coefficient = Annotated[
    float,
    Field(
        ge=0.0,
        le=MAX_COEFFICIENT,
        json_schema_extra={
            "x-unit": "multiples of the artifact's calibrated strength",
            "x-cost": "none; 0 leaves the model unguided",
        },
    ),
]
"""A coefficient; it multiplies every vector of a schedule alike."""

PositionRule = Annotated[
    Annotated[
        Annotated[Positions, Tag("by_name")] | Annotated[FirstSteps, Tag("by_count")],
        Discriminator(_kind_of_positions),
    ]
    | None,
    Field(json_schema_extra={"x-cost": "`all` changes the prompt as well, so its cache is the guided one"}),
]
"""A position rule, a name or `{first_steps: n}`; left out, the artifact's own."""

ModalityTokenRule = Annotated[ModalityTokens, Field(json_schema_extra={"x-cost": "none"})]
"""Whether modality tokens are changed too."""

Blocks = Annotated[
    tuple[Annotated[int, Field(ge=0, le=4095)], ...] | None,
    Field(
        min_length=1,
        json_schema_extra={"x-unit": "0-based decoder blocks", "x-cost": "one vector addition per block and token"},
    ),
    AfterValidator(_increasing),
]
"""Steered blocks; left out, the artifact's calibrated window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSchedule:
    """What `params` of an artifact of steering vectors say about when which vector is added."""

    kind: ScheduleKind
    steps: int | None
    """How many generated tokens have a vector of their own; `by_step` only."""
    positions: Positions | None
    """What a constant vector was calibrated with; None when the artifact does not say."""


def read_schedule(params: Mapping[str, Any]) -> VectorSchedule:
    """Return the schedule in the `params` of a manifest; one that states none is constant.

    Raises:
        ArtifactFormatError: the schedule, its steps or its positions are not what this version knows.
    """
    kind = params.get("schedule", "constant")
    if kind not in get_args(ScheduleKind):
        raise _malformed("schedule", f"one of {', '.join(get_args(ScheduleKind))}", kind)
    steps = params.get("steps")
    if kind == "by_step":
        if type(steps) is not int or not 1 <= steps <= MAX_STEPS:
            raise _malformed("steps", f"a whole number from 1 to {MAX_STEPS}", steps)
    elif steps is not None:
        raise _malformed("steps", f"no steps with the schedule {kind}", steps)
    positions = params.get("positions")
    if kind != "constant" and positions is not None:
        raise _malformed("positions", f"no positions with the schedule {kind}", positions)
    if positions is not None and positions not in get_args(Positions):
        raise _malformed("positions", f"one of {', '.join(get_args(Positions))}", positions)
    return VectorSchedule(kind=kind, steps=steps, positions=positions)


def steering_footprint(
    params: Mapping[str, Any],
    *,
    entry: str,
    blocks: tuple[int, ...] | None,
    positions: Positions | FirstSteps | None,
    modality_tokens: ModalityTokens = "include",
    own_gates: bool,
) -> Footprint:
    """Return the footprint of an entry that adds an artifact's vectors.

    Args:
        params: `params` of the artifact's manifest.
        entry: id of the guidance entry.
        blocks: the policy's blocks; None for the artifact's.
        positions: the policy's position rule; None for the artifact's, and `all` where it has none.
        modality_tokens: whether columns of images, sounds and videos are changed.
        own_gates: whether each block has a gate of its own that reads it.

    Raises:
        ArtifactFormatError: the artifact's schedule is malformed.
        UnsupportedPlanError: the policy states positions and the artifact's schedule has its own.
    """
    schedule = read_schedule(params)
    if positions is not None and schedule.kind != "constant":
        raise UnsupportedPlanError(
            f"The artifact's schedule is {schedule.kind}: it says itself which vector each position gets.",
            expected="no `positions` in the policy",
            found=positions_in_words(positions),
            where=f"guidance entry `{entry}`",
            next_step="Remove `positions`, or name an artifact whose schedule is constant.",
        )
    steered = blocks if blocks is not None else tuple(int(block) for block in params["blocks"])
    named = positions or schedule.positions or "all"
    return Footprint(
        steered_blocks=steered,
        read_blocks=steered if own_gates else (),
        strength=str(params["strength"]),
        positions=positions_name(named) if schedule.kind == "constant" else None,
        schedule=schedule.kind,
        steps=schedule.steps,
        first_steps=named.first_steps if isinstance(named, FirstSteps) else None,
        modality_tokens=modality_tokens,
    )


def positions_name(positions: Positions | FirstSteps) -> str:
    """Return the name of a position rule: its own, or `first_steps`."""
    return "first_steps" if isinstance(positions, FirstSteps) else positions


def positions_in_words(positions: Positions | FirstSteps) -> str:
    """Return a position rule as a policy writes it."""
    return f"first_steps: {positions.first_steps}" if isinstance(positions, FirstSteps) else positions


def steered_where(blocks: tuple[int, ...] | None) -> str:
    """Return the steered blocks in words, for one plain sentence."""
    if blocks is None:
        return "the artifact's calibrated decoder blocks"
    return f"decoder blocks {', '.join(str(block) for block in blocks)}"


def _malformed(name: str, expected: str, found: object) -> ArtifactFormatError:
    return ArtifactFormatError(
        f"The artifact's parameter `{name}` is not what steering vectors may state.",
        expected=expected,
        found=repr(found)[:80],
        where=f"manifest.json: params.{name}",
        next_step="Upgrade steerguard, or use another version of the artifact.",
    )
