"""Settings of best-of-N: whole answers are drawn, and the best one is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from steerguard.methods.search_parts import SearchParts, Value
from steerguard.methods.search_settings import (
    ROLE,
    Candidates,
    CostBudget,
    FinalCheckRule,
    StartRule,
    Temperature,
    Weight,
    budget_words,
    cost_needs,
    search_features,
    search_footprint,
    when_words,
)
from steerguard.methods.section import ArtifactReferenceText
from steerguard.methods.spec import ArtifactNeed, ArtifactParameters, Footprint, GuidanceSpec

if TYPE_CHECKING:
    from steerguard.methods.bounds import Bound

Rule = Literal["plain", "lagrangian", "augmented"]
"""Which of the answers is the best.

`plain`: the cheapest.
`lagrangian`: the one with the highest mean log-probability, less `weight` times its cost.
`augmented`: the most likely one within the cost budget; without any, the cheapest.
"""

_VALUES: dict[Rule, Value] = {"plain": "cost", "lagrangian": "lagrangian", "augmented": "likelihood"}


@final
class BestOfNSpec(GuidanceSpec):
    """Draw several whole answers, and give the best one by a cost model.

    Idea: the simplest search there is, and the baseline of every other one. It looks at finished answers only, so it
    finds a harmless one only where the model is likely enough to write it from the first token on.

    Formula, over N answers y with cost C and mean log-probability l: `plain` gives `argmin C(y)`, `lagrangian`
    `argmax l(y) - weight C(y)`, `augmented` `argmax l(y)` among the answers with `C(y) < d`, else `argmin C(y)`.

    Cost, in forward tokens: `candidates` for each token of the answer.

    Fails when: the model hardly ever writes a harmless answer to this prompt; many answers are drawn and the cheapest
    is the one that the cost model misjudges; a short, empty or cut answer costs little.

    Reference: best-of-N as compared with in InferenceGuard, arXiv 2502.01208, table 2, with a task cost of ours: minus
    the mean log-probability of the answer's tokens, where the paper has a reward model.
    """

    method: Literal["best_of_n"]
    """Which method this entry configures: `best_of_n`."""
    critic: ArtifactReferenceText
    """What says what an answer costs: an artifact family of type `cost_model` or `critic`, and a version range. Of a
    critic the cost model alone is used."""
    candidates: Candidates = 8
    """N: how many answers are drawn."""
    rule: Rule = "plain"
    """Which answer is the best: `plain` (the cheapest), `lagrangian` (likelihood less `weight` times cost) or
    `augmented` (the most likely one within the cost budget)."""
    weight: Weight = 5.0
    """lambda of `rule: lagrangian`: how much one unit of cost weighs against the mean log-probability of a token."""
    start: StartRule = "lazy"
    """When answers are drawn: `lazy` (only once the plain answer is not within the cost budget) or `always`."""
    final_check: FinalCheckRule = "cost_model"
    """What the best answer is checked with before it is released: `cost_model` or `none`."""
    cost_budget: CostBudget = None
    """d: `{value: cost}` or `{fpr: rate}`, the share of benign answers that are not within it; left out, the threshold
    that the artifact states."""
    temperature: Temperature = 0.7
    """Temperature at which answers are drawn where the call itself is greedy."""

    def artifact_needs(self) -> tuple[ArtifactNeed, ...]:
        """Return the one need: a cost model, or a critic, which brings its cost model along."""
        return cost_needs(self.critic)

    def features(self) -> frozenset[str]:
        """Return the engine features; the final check needs a cost model as well."""
        return search_features(self.final_check)

    def footprint(self, parameters: ArtifactParameters) -> Footprint:
        """Return the blocks that the cost model reads; nothing is changed.

        Raises:
            ArtifactFormatError: the artifact's `blocks` are malformed.
        """
        return search_footprint(parameters[ROLE])

    def search(self, parameters: ArtifactParameters) -> SearchParts:
        """Return a search of one block, the whole answer."""
        del parameters
        return SearchParts(
            candidates=self.candidates,
            block_tokens=None,
            keep=1,
            retries=0,
            start=self.start,
            final_check=self.final_check,
            value=_VALUES[self.rule],
            tracks_safety=self.rule == "augmented",
            weight=self.weight if self.rule == "lagrangian" else 0.0,
            temperature=self.temperature,
        )

    def cost_bound(self) -> Bound | None:
        """Return the cost budget as the entry states it."""
        return self.cost_budget

    def needs_buffered_stream(self) -> bool:
        """Return True: which answer is given is known only once all are finished."""
        return True

    def summary(self) -> str:
        """Return one plain sentence on what the step does with these settings."""
        best = {
            "plain": "the cheapest",
            "lagrangian": f"the likeliest, less {self.weight:g} times its cost,",
            "augmented": "the likeliest one within the budget",
        }[self.rule]
        return (
            f"draws {self.candidates} answers and gives {best} by {self.critic} with "
            f"{budget_words(self.cost_budget)}, {when_words(self.start)}"
        )
