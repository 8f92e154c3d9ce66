"""Settings of InferAligner: safety steering vectors behind a gate."""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import Field

from steerguard.methods.section import ArtifactReferenceText
from steerguard.methods.spec import ArtifactNeed, ArtifactParameters, Footprint, GuidanceSpec
from steerguard.methods.vector_steering import (
    Blocks,
    Coefficient,
    ModalityTokenRule,
    PositionRule,
    steered_where,
    steering_footprint,
)

Gate = Literal["verdict", "per_block"]
"""What opens a block for a row.

`verdict`: the rule's verdict opens every steered block.
`per_block`: the verdict, and in addition the block's own linear gate.
"""


@final
class InferAlignerSpec(GuidanceSpec):
    """Steer a model towards refusal with the safety direction of an aligned sibling, for harmful prompts only.

    Idea: the difference of mean activations between harmful and harmless prompts, taken in a safety-aligned sibling,
    points towards refusal in the unaligned model too. A gate on the model's own activations decides per prompt whether
    the direction is added, so prompts whose gate stays closed are answered bit-identically to the unguided model.

    Formula, at the output of each steered decoder block l: `h_l <- h_l + coefficient * strength * g_l * theta_l`, with
    `g_l` in {0, 1} frozen for the whole request, `theta_l` the sibling's mean difference and `strength` the artifact's
    calibrated multiple. An artifact may hold several `theta_l` on a schedule: by phase, or by generated token.
    `per_block` adds the condition `<srv_l, h_l> + b_l > 0` at the end of the generation prompt.

    Cost: one vector addition per steered block and token while the gate is open, no extra forward token.
    A detector that reads a block above the first steered one costs a second pass over every prompt.

    Fails when: no aligned sibling of the same shape and ancestor exists; the prompts are far from those that the gate
    was built on (long, multi-turn or unusual system prompts); the coefficient is so high that answers turn incoherent.

    Reference: InferAligner, arXiv 2401.11206, section 3 (safety steering vectors, guidance gate).
    """

    method: Literal["inferaligner"]
    """Which method this entry configures: `inferaligner`."""
    artifact: ArtifactReferenceText
    """Steering vectors: an artifact family of type `steering_vectors` and a version range."""
    coefficient: Coefficient = 1.0
    """How strongly the direction is added; 1.0 is the strength that the artifact was calibrated at."""
    positions: PositionRule = None
    """Token positions that a constant vector is added to; left out: the artifact's, else `all`; none with a schedule."""
    modality_tokens: ModalityTokenRule = "include"
    """Whether columns of the prompt that stand for images, sounds or videos are changed too, or left as they are."""
    gate: Annotated[Gate, Field(json_schema_extra={"x-cost": "`per_block` adds one dot product per block"})] = "verdict"
    """What opens a block: the rule's `verdict` alone, or `per_block` in addition the block's own linear gate."""
    blocks: Blocks = None
    """Decoder blocks whose output is changed, in increasing order; left out: the artifact's calibrated window."""

    def artifact_needs(self) -> tuple[ArtifactNeed, ...]:
        """Return the one need: the steering vectors."""
        need = ArtifactNeed(
            role="vectors", reference=self.artifact, types=("steering_vectors",), methods=(self.method,)
        )
        return (need,)

    def features(self) -> frozenset[str]:
        """Return the engine features; `per_block` needs linear gates as well. The artifact states its schedule."""
        gates = {"gate.verdict"} if self.gate == "verdict" else {"gate.verdict", "gate.linear"}
        return frozenset({"operator.add", "hook.resid_post"} | gates)

    def footprint(self, parameters: ArtifactParameters) -> Footprint:
        """Return the steered window: the policy's blocks, else the artifact's calibrated ones."""
        return steering_footprint(
            parameters["vectors"],
            entry=self.id,
            blocks=self.blocks,
            positions=self.positions,
            modality_tokens=self.modality_tokens,
            own_gates=self.gate == "per_block",
        )

    def needs_buffered_stream(self) -> bool:
        """Return False: the gate is decided before the first token."""
        return False

    def summary(self) -> str:
        """Return one plain sentence on what the step does with these settings."""
        where = steered_where(self.blocks)
        return f"adds {self.coefficient} times the calibrated safety direction of {self.artifact} at {where}"
