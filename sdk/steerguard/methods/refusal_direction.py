"""Settings of the refusal direction: one direction that is added, or projected out."""

from __future__ import annotations

from typing import Annotated, Any, Literal, final

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from steerguard.errors import ArtifactFormatError
from steerguard.methods.section import ArtifactReferenceText
from steerguard.methods.spec import ArtifactNeed, ArtifactParameters, Footprint, GuidanceSpec
from steerguard.methods.vector_steering import (
    Blocks,
    Coefficient,
    FirstSteps,
    ModalityTokenRule,
    PositionRule,
    positions_name,
    read_schedule,
    steered_where,
    steering_footprint,
)

Mode = Literal["add", "ablate"]
"""What is done with the direction.

`add`: it is added to the residual stream, which induces refusals.
`ablate`: the component along it is removed from the residual stream, which takes refusals away.
"""


@final
class RefusalDirectionSpec(GuidanceSpec):
    """Add the direction that mediates refusal, or project it out, for the rows that the verdict opens.

    Idea: the mean difference of activations between harmful and harmless prompts, at one block and the end of the
    generation prompt, is a direction along which a safety-trained model decides to refuse. Adding it makes the model
    refuse; removing its component everywhere makes the model unable to.

    Formula, for the rows and positions that are opened, with `r` the direction and `u = r / |r|`: mode `add`, at the
    output of the steered blocks, `h_l <- h_l + coefficient * strength * r_l`; mode `ablate`, at the input and the output
    of the steered blocks, `h <- h - coefficient * <u, h> u`, with one `u` for all blocks.

    Cost: `add` one vector addition per steered block and token while the gate is open; `ablate` one dot product and one
    vector addition at two points of every steered block. A detector that reads a block above the first steered one
    needs a second pass over the prompt.

    Fails when: the model was never trained to refuse, so that the difference says "harmful" and not "refuse"; the
    coefficient of `add` is so high that answers turn incoherent. `ablate` takes refusals away: a rule that uses it makes
    the rows that it opens less safe, whatever the order of actions says.

    Reference: Arditi et al., arXiv 2406.11717, section 2.3 (difference in means) and section 2.4 (activation addition,
    directional ablation).
    """

    method: Literal["refusal_direction"]
    """Which method this entry configures: `refusal_direction`."""
    artifact: ArtifactReferenceText
    """Directions: an artifact family of type `steering_vectors` and a version range."""
    mode: Annotated[
        Mode, Field(json_schema_extra={"x-cost": "`ablate` acts at two points of every block, `add` at one of few"})
    ] = "add"
    """What is done with the direction: `add` induces refusals, `ablate` takes them away."""
    coefficient: Coefficient = 1.0
    """How strongly; 1.0 adds the calibrated strength, or removes the whole component; at most 1.0 with `ablate`."""
    positions: PositionRule = None
    """Token positions that are changed; left out: the artifact's with `add`, and `all` with `ablate`."""
    modality_tokens: ModalityTokenRule = "include"
    """Whether columns of the prompt that stand for images, sounds or videos are changed too, or left as they are."""
    blocks: Blocks = None
    """Decoder blocks that are changed, in increasing order; left out: the artifact's, which are all with `ablate`."""

    @field_validator("coefficient")
    @classmethod
    def _removes_at_most_all(cls, coefficient: float, info: ValidationInfo) -> float:
        if info.data.get("mode") == "ablate" and coefficient > 1.0:
            kind, message = (
                "ablate_over_one",
                "with mode: ablate the coefficient is at most 1, which removes everything",
            )
            raise PydanticCustomError(kind, message)
        return coefficient

    @field_validator("positions")
    @classmethod
    def _removes_at_every_step(cls, positions: PositionRule, info: ValidationInfo) -> PositionRule:
        if info.data.get("mode") == "ablate" and isinstance(positions, FirstSteps):
            kind, message = "ablate_first_steps", "with mode: ablate the positions are one of the named ones"
            raise PydanticCustomError(kind, message)
        return positions

    def artifact_needs(self) -> tuple[ArtifactNeed, ...]:
        """Return the one need: the directions."""
        need = ArtifactNeed(
            role="vectors", reference=self.artifact, types=("steering_vectors",), methods=(self.method,)
        )
        return (need,)

    def features(self) -> frozenset[str]:
        """Return the engine features of the mode."""
        if self.mode == "add":
            return frozenset({"operator.add", "hook.resid_post", "gate.verdict"})
        return frozenset({"operator.ablate", "hook.resid_pre", "hook.resid_post", "gate.verdict"})

    def footprint(self, parameters: ArtifactParameters) -> Footprint:
        """Return the changed blocks: the policy's, else the artifact's for the mode.

        Raises:
            ArtifactFormatError: the artifact states a schedule other than constant, or no blocks to ablate at.
        """
        params = parameters["vectors"]
        schedule = read_schedule(params)
        if schedule.kind != "constant":
            raise _malformed("schedule", "constant: there is one direction per block", schedule.kind)
        if self.mode == "add":
            return steering_footprint(
                params,
                entry=self.id,
                blocks=self.blocks,
                positions=self.positions,
                modality_tokens=self.modality_tokens,
                own_gates=False,
            )
        return Footprint(
            steered_blocks=self.blocks if self.blocks is not None else ablated_blocks(params),
            read_blocks=(),
            # The component is what it is; there is nothing to scale it by.
            strength="1.0",
            positions=positions_name(self.positions or "all"),
            operator="ablate",
            points=("resid_pre", "resid_post"),
            modality_tokens=self.modality_tokens,
        )

    def needs_buffered_stream(self) -> bool:
        """Return False: the gate is decided before the first token."""
        return False

    def summary(self) -> str:
        """Return one plain sentence on what the step does with these settings."""
        if self.mode == "add":
            where = steered_where(self.blocks)
            return f"adds {self.coefficient} times the refusal direction of {self.artifact} at {where}"
        where = "every decoder block" if self.blocks is None else steered_where(self.blocks)
        return (
            f"takes refusals away: it removes {self.coefficient} times the component along the refusal direction of "
            f"{self.artifact} at {where}"
        )


def ablated_blocks(params: Any) -> tuple[int, ...]:
    """Return the blocks at whose inputs and outputs an artifact's direction is removed.

    Raises:
        ArtifactFormatError: `ablated_blocks` is no increasing list of blocks.
    """
    blocks = params.get("ablated_blocks")
    if (
        not isinstance(blocks, list | tuple)
        or not blocks
        or any(type(block) is not int or block < 0 for block in blocks)
        or sorted(set(blocks)) != list(blocks)
    ):
        raise _malformed("ablated_blocks", "one or more decoder blocks in increasing order", blocks)
    return tuple(blocks)


def _malformed(name: str, expected: str, found: object) -> ArtifactFormatError:
    return ArtifactFormatError(
        f"The artifact's parameter `{name}` is not what a refusal direction may state.",
        expected=expected,
        found=repr(found)[:80],
        where=f"manifest.json: params.{name}",
        next_step="Upgrade steerguard, or use another version of the artifact.",
    )
