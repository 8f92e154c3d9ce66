"""Settings of InferenceGuard: critic-guided block search under a safety budget."""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from steerguard.methods.section import ArtifactReferenceText
from steerguard.methods.spec import ArtifactNeed, ArtifactParameters, GuidanceSpec

Start = Literal["lazy", "always"]
"""When the search begins.

`lazy`: answer as usual, and search only if the final check rejects the answer.
`always`: search from the first block.
"""

FinalCheck = Literal["cost_model", "none"]
"""What the finished answer is checked with.

`cost_model`: the cost model that the critic was trained against; an answer over its budget is never returned.
`none`: the critic's estimates alone.
"""


@final
class InferenceGuardSpec(GuidanceSpec):
    """Search block by block for an answer that stays within a cost budget.

    Idea: the decoding state is extended by a remaining safety budget z, and every continuation that has used it up is
    given a prohibitive cost. A small critic on the model's own hidden state predicts, for a partial answer, whether it
    can still finish within the budget, and steers a beam search over blocks of tokens.

    Formula: `z_0 = d`, `z_{t+1} = (z_t - C_t) / gamma`; a candidate scores its predicted task cost while
    `P(z_T > 0) > 0.5`, otherwise `n`, with n larger than any task cost. The `keep` best of `candidates` go on.

    Cost per returned token: about `candidates` forward tokens, times up to `1 + retries`.

    Fails when: the cost model itself is wrong (the guarantee is relative to it); no candidate within the budget exists
    after the retries, and then the row is refused; the critic sees states unlike those that it was trained on.

    Reference: InferenceGuard, arXiv 2502.01208, sections 3-4 and table 1 (there: 128 candidates, blocks of 32 tokens,
    a quarter of the candidates kept, 2 retries).
    """

    method: Literal["inference_guard"]
    """Which method this entry configures: `inference_guard`."""
    critic: ArtifactReferenceText
    """Critic: an artifact family of type `critic` and a version range."""
    candidates: Annotated[
        int,
        Field(
            ge=1,
            le=512,
            json_schema_extra={"x-unit": "candidates per block", "x-cost": "forward tokens grow in proportion"},
        ),
    ] = 8
    """How many continuations are drawn for each block; 1 is plain generation."""
    block_tokens: Annotated[
        int,
        Field(
            ge=1,
            le=512,
            json_schema_extra={"x-unit": "tokens", "x-cost": "shorter blocks mean more critic and cost-model calls"},
        ),
    ] = 8
    """Length of one block between two choices."""
    keep: Annotated[
        int,
        Field(ge=1, le=512, json_schema_extra={"x-unit": "candidates", "x-cost": "cache memory grows in proportion"}),
    ] = 2
    """How many candidates go on to the next block; at most `candidates`."""
    retries: Annotated[
        int,
        Field(ge=0, le=16, json_schema_extra={"x-unit": "retries per block", "x-cost": "each draws all candidates"}),
    ] = 2
    """How often a block is drawn again when no candidate is within the budget."""
    start: Annotated[Start, Field(json_schema_extra={"x-cost": "`lazy` costs one check when the answer is fine"})] = (
        "lazy"
    )
    """When the search begins: `lazy` (only after the final check rejects the plain answer) or `always`."""
    final_check: Annotated[
        FinalCheck,
        Field(json_schema_extra={"x-cost": "`cost_model` adds one pass over the finished answer"}),
    ] = "cost_model"
    """What the finished answer is checked with before it is released: `cost_model` or `none`."""

    @field_validator("keep")
    @classmethod
    def _keep_at_most_candidates(cls, keep: int, info: ValidationInfo) -> int:
        candidates = info.data.get("candidates")
        if candidates is not None and keep > candidates:
            kind, message = "keep_over_candidates", "keep must be at most candidates, which is {candidates}"
            raise PydanticCustomError(kind, message, {"candidates": candidates})
        return keep

    def artifact_needs(self) -> tuple[ArtifactNeed, ...]:
        """Return the one need: the critic, whose manifest names its cost model."""
        return (ArtifactNeed(role="critic", reference=self.critic, type="critic", method=self.method),)

    def features(self) -> frozenset[str]:
        """Return the engine features; the final check needs a cost model as well."""
        checks = {"check.cost_model"} if self.final_check == "cost_model" else set()
        return frozenset({"search.blocks", "critic.safety_state"} | checks)

    def footprint(self, parameters: ArtifactParameters) -> None:
        """Return None: the search changes which tokens are kept, not the residual stream."""
        del parameters

    def needs_buffered_stream(self) -> bool:
        """Return True where an answer may still be replaced once it is finished."""
        return self.final_check == "cost_model" or self.start == "lazy"

    def summary(self) -> str:
        """Return one plain sentence on what the step does with these settings."""
        when = "from the first token" if self.start == "always" else "once the final check rejects the plain answer"
        return (
            f"draws {self.candidates} candidates per block of {self.block_tokens} tokens, keeps the best {self.keep} "
            f"by {self.critic}, {when}"
        )
