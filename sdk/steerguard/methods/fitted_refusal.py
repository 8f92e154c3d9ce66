"""Settings of fitted refusal vectors: directions found by gradient on wordings of a refusal, behind a gate."""

from __future__ import annotations

from typing import Literal, final

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


@final
class FittedRefusalSpec(GuidanceSpec):
    """Steer a model into a refusal with vectors that were fitted to refusals, for the rows that the verdict opens.

    Idea: one vector per steered decoder block is found by gradient descent on the model itself, with its weights
    frozen: added to the residual stream on harmful prompts, it makes several wordings of a refusal likely.
    The vector is what the fit found; it is no difference of mean activations and needs no aligned sibling.

    Formula, at the output of each steered decoder block l: `h_l <- h_l + coefficient * strength * g * v_l`, with `g`
    in {0, 1} the verdict, frozen for the whole request, and `v_l` the fitted vector.

    Cost: one vector addition per steered block and token while the gate is open, no extra forward token.
    A detector that reads a block above the first steered one costs a second pass over every prompt.

    Fails when: the gate opens on a benign prompt, which is then refused; a prefilled answer is stronger than the
    vector; the coefficient is far from the fitted strength, so that nothing is refused or the answer turns incoherent.

    Reference: none; a method of this project, in the manner of gradient-based steering vectors.
    """

    method: Literal["fitted_refusal"]
    """Which method this entry configures: `fitted_refusal`."""
    artifact: ArtifactReferenceText
    """Fitted vectors: an artifact family of type `steering_vectors` and a version range."""
    coefficient: Coefficient = 1.0
    """How strongly the vectors are added; 1.0 is the strength that the artifact was fitted for."""
    positions: PositionRule = None
    """Token positions that a constant vector is added to; left out: the artifact's, else `all`; none with a schedule."""
    modality_tokens: ModalityTokenRule = "include"
    """Whether columns of the prompt that stand for images, sounds or videos are changed too, or left as they are."""
    blocks: Blocks = None
    """Decoder blocks whose output is changed, in increasing order; left out: the artifact's fitted blocks."""

    def artifact_needs(self) -> tuple[ArtifactNeed, ...]:
        """Return the one need: the fitted vectors."""
        need = ArtifactNeed(
            role="vectors", reference=self.artifact, types=("steering_vectors",), methods=(self.method,)
        )
        return (need,)

    def features(self) -> frozenset[str]:
        """Return the engine features. The artifact states its schedule."""
        return frozenset({"operator.add", "hook.resid_post", "gate.verdict"})

    def footprint(self, parameters: ArtifactParameters) -> Footprint:
        """Return the steered blocks: the policy's, else the artifact's fitted ones."""
        return steering_footprint(
            parameters["vectors"],
            entry=self.id,
            blocks=self.blocks,
            positions=self.positions,
            modality_tokens=self.modality_tokens,
            own_gates=False,
        )

    def needs_buffered_stream(self) -> bool:
        """Return False: the gate is decided before the first token."""
        return False

    def summary(self) -> str:
        """Return one plain sentence on what the step does with these settings."""
        where = steered_where(self.blocks)
        return f"adds {self.coefficient} times the fitted refusal vectors of {self.artifact} at {where}"
