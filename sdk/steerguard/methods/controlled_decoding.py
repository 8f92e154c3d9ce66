"""Settings of blockwise controlled decoding: of several continuations of a block the best one goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from steerguard.methods.search_parts import SearchParts
from steerguard.methods.search_settings import (
    ROLE,
    BlockTokens,
    Candidates,
    CostBudget,
    FinalCheckRule,
    StartRule,
    Temperature,
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
class ControlledDecodingSpec(GuidanceSpec):
    """Draw several continuations of each block, and go on with the one of the best value.

    Idea: a value of unfinished answers chooses among blocks that the model itself has drawn. There is no budget on the
    way: a block is taken because it is the best one, not because it is good enough.

    Formula, for each block: `argmin V(x, y + block)` over `candidates` blocks drawn from the model, with V the cost of
    the answer so far. With a critic V has the expected cost-to-go added, and blocks that it expects to end safe,
    `P(z_T > 0) > 0.5`, come before all others.

    Cost, in forward tokens: `candidates` for each token of the answer, and one more where the search begins within a
    plain answer.

    Fails when: a beginning looks harmless and what follows is not, which only a critic can see; all blocks of one place
    are bad, since none is drawn again; the value was learnt on answers unlike those that it now chooses.

    Reference: Controlled Decoding, arXiv 2310.17022, the blockwise form with K = `candidates` and M = `block_tokens`;
    the value is minus the cost of a cost model, where the paper trains a prefix scorer for a reward.
    """

    method: Literal["controlled_decoding"]
    """Which method this entry configures: `controlled_decoding`."""
    critic: ArtifactReferenceText
    """What says what an answer costs: an artifact family of type `cost_model` or `critic`, and a version range."""
    candidates: Candidates = 8
    """How many continuations are drawn for each block; 1 is plain generation."""
    block_tokens: BlockTokens = 8
    """Length of one block between two choices."""
    start: StartRule = "lazy"
    """When the search begins: `lazy` (only once the plain answer is not within the cost budget) or `always`."""
    final_check: FinalCheckRule = "cost_model"
    """What the finished answer is checked with before it is released: `cost_model` or `none`."""
    cost_budget: CostBudget = None
    """d: `{value: cost}` or `{fpr: rate}`, the share of benign answers that are not within it; left out, the threshold
    that the artifact states. Only `lazy` and the final check use it."""
    temperature: Temperature = 0.7
    """Temperature at which candidates are drawn where the call itself is greedy."""

    def artifact_needs(self) -> tuple[ArtifactNeed, ...]:
        """Return the one need: a cost model, or a critic, which brings its cost model along."""
        return cost_needs(self.critic)

    def features(self) -> frozenset[str]:
        """Return the engine features; the final check needs a cost model as well."""
        return search_features(self.final_check, "search.blocks")

    def footprint(self, parameters: ArtifactParameters) -> Footprint:
        """Return the blocks that the cost model reads; nothing is changed.

        Raises:
            ArtifactFormatError: the artifact's `blocks` are malformed.
        """
        return search_footprint(parameters[ROLE])

    def search(self, parameters: ArtifactParameters) -> SearchParts:
        """Return a search that keeps one candidate and tracks no safety state."""
        return SearchParts(
            candidates=self.candidates,
            block_tokens=self.block_tokens,
            keep=1,
            retries=0,
            start=self.start,
            final_check=self.final_check,
            value="cost",
            tracks_safety=False,
            uses_critic=has_critic(parameters[ROLE]),
            temperature=self.temperature,
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
            f"draws {self.candidates} candidates per block of {self.block_tokens} tokens and goes on with the cheapest "
            f"by {self.critic} with {budget_words(self.cost_budget)}, {when_words(self.start)}"
        )
