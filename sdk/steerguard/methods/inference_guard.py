"""Settings of InferenceGuard: critic-guided block search under a safety budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from steerguard.methods.search_parts import SearchParts, Value
from steerguard.methods.search_settings import (
    ROLE,
    BlockTokens,
    Candidates,
    CostBudget,
    FinalCheckRule,
    StartRule,
    Temperature,
    Weight,
    budget_words,
    cost_needs,
    has_critic,
    replaces_answers,
    search_features,
    search_footprint,
    when_words,
)
from steerguard.methods.section import ArtifactReferenceText
from steerguard.methods.spec import ArtifactNeed, ArtifactParameters, Footprint, GuidanceSpec

if TYPE_CHECKING:
    from steerguard.methods.bounds import Bound


@final
class InferenceGuardSpec(GuidanceSpec):
    """Search block by block for an answer that stays within a cost budget.

    Idea: the decoding state is extended by a remaining safety budget z, and every continuation that has used it up is
    worse than every one that has not. A small critic on the model's own hidden state, where there is one, predicts for
    a partial answer whether it can still finish within the budget.

    Formula, on the clock of blocks: `z_0 = d`, `z_{k+1} = (z_k - C_{k+1}) / gamma`, with C_k what block k adds to the
    cost of the answer. Among the candidates with `z > 0`, and with a critic `P(z_T > 0) > 0.5`, the `keep` with the
    lowest `value` go on; the others come behind all of these, the cheapest first. A block without a safe candidate is
    drawn again up to `retries` times, with `avoid_penalty` subtracted from the logits of tokens that failed.

    Cost, in forward tokens: at most `candidates` for each token of the answer, times up to `1 + retries`, and one more
    where the search begins within a plain answer.

    Fails when: the cost model itself is wrong (the promise is relative to it); no candidate within the budget exists
    after the retries, and then `final_check: cost_model` refuses the row; the critic sees states unlike those that it
    was trained on.

    Reference: InferenceGuard, arXiv 2502.01208, sections 3-4 and table 1 (there: 128 candidates, blocks of 32 tokens,
    a quarter of the candidates kept, 2 retries). The clock of blocks, `lazy` and the refusal at the end are ours.
    """

    method: Literal["inference_guard"]
    """Which method this entry configures: `inference_guard`."""
    critic: ArtifactReferenceText
    """What says what an answer costs: an artifact family of type `cost_model` or `critic`, and a version range."""
    candidates: Candidates = 8
    """How many continuations are drawn for each block; 1 is plain generation."""
    block_tokens: BlockTokens = 8
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
    start: StartRule = "lazy"
    """When the search begins: `lazy` (only once the plain answer is not within the cost budget) or `always`."""
    final_check: FinalCheckRule = "cost_model"
    """What the finished answer is checked with before it is released: `cost_model` or `none`."""
    cost_budget: CostBudget = None
    """d: `{value: cost}` or `{fpr: rate}`, the share of benign answers that are not within it; left out, the threshold
    that the artifact states."""
    discount: Annotated[
        float, Field(gt=0.0, le=1.0, json_schema_extra={"x-unit": "factor per block", "x-cost": "none"})
    ] = 1.0
    """gamma of the safety state: above 0, at most 1; below 1 what an early block cost or saved weighs more."""
    value: Value = "cost"
    """What makes one safe candidate better than another: its `cost`, the `likelihood` of its tokens, or `lagrangian`,
    both."""
    weight: Weight = 5.0
    """lambda of `value: lagrangian`: how much one unit of cost weighs against the mean log-probability of a token."""
    temperature: Temperature = 0.7
    """Temperature at which candidates are drawn where the call itself is greedy."""
    avoid_penalty: Annotated[float, Field(ge=0.0, le=1000.0, json_schema_extra={"x-unit": "logits"})] = 5.0
    """What is subtracted, on a retry, from the logits of tokens that failed candidates of this block hold."""

    @field_validator("keep")
    @classmethod
    def _keep_at_most_candidates(cls, keep: int, info: ValidationInfo) -> int:
        candidates = info.data.get("candidates")
        if candidates is not None and keep > candidates:
            kind, message = "keep_over_candidates", "keep must be at most candidates, which is {candidates}"
            raise PydanticCustomError(kind, message, {"candidates": candidates})
        return keep

    def artifact_needs(self) -> tuple[ArtifactNeed, ...]:
        """Return the one need: a cost model, or a critic, which brings its cost model along."""
        return cost_needs(self.critic)

    def features(self) -> frozenset[str]:
        """Return the engine features; the final check needs a cost model as well."""
        return search_features(self.final_check, "search.blocks", "critic.safety_state")

    def footprint(self, parameters: ArtifactParameters) -> Footprint:
        """Return the blocks that the cost model reads; nothing is changed.

        Raises:
            ArtifactFormatError: the artifact's `blocks` are malformed.
        """
        return search_footprint(parameters[ROLE])

    def search(self, parameters: ArtifactParameters) -> SearchParts:
        """Return the whole method; a critic is used where the artifact has one."""
        return SearchParts(
            candidates=self.candidates,
            block_tokens=self.block_tokens,
            keep=self.keep,
            retries=self.retries,
            start=self.start,
            final_check=self.final_check,
            value=self.value,
            tracks_safety=True,
            uses_critic=has_critic(parameters[ROLE]),
            discount=self.discount,
            weight=self.weight if self.value == "lagrangian" else 0.0,
            temperature=self.temperature,
            avoid_penalty=self.avoid_penalty,
        )

    def cost_bound(self) -> Bound | None:
        """Return the cost budget as the entry states it."""
        return self.cost_budget

    def needs_buffered_stream(self) -> bool:
        """Return True where an answer may still be replaced once it is finished."""
        return replaces_answers(self.start, self.final_check)

    def summary(self) -> str:
        """Return one plain sentence on what the step does with these settings."""
        return (
            f"draws {self.candidates} candidates per block of {self.block_tokens} tokens, keeps the best {self.keep} "
            f"by {self.critic} with {budget_words(self.cost_budget)}, {when_words(self.start)}"
        )
