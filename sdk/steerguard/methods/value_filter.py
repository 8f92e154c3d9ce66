"""Settings of value-filtered decoding: a token is passed over when the answer with it costs too much."""

from __future__ import annotations

from typing import Literal, final

from steerguard.methods.bounds import Bound
from steerguard.methods.search_parts import SearchParts
from steerguard.methods.search_settings import (
    ROLE,
    Candidates,
    FinalCheckRule,
    StartRule,
    budget_words,
    cost_needs,
    replaces_answers,
    search_features,
    search_footprint,
    when_words,
)
from steerguard.methods.section import ArtifactReferenceText
from steerguard.methods.spec import ArtifactNeed, ArtifactParameters, Footprint, GuidanceSpec


@final
class ValueFilterSpec(GuidanceSpec):
    """Go through the most likely next tokens, and take the first with which the answer stays under a threshold.

    Idea: an answer that is fine is left alone, token by token, and only tokens that lead out of what is safe are passed
    over. So one threshold bounds how often a benign answer is changed at all, and it acts on greedy answers too.

    Formula, at each token: of the `candidates` most likely tokens the likeliest with `C(x, y + token) < threshold`;
    without any, the cheapest. With `threshold: {fpr: x}` the threshold is the split-conformal quantile of benign
    answers' highest cost on the way, so a benign greedy answer drawn like those of the calibration is changed with a
    probability of at most x. Under `lazy` only the cost at the end decides whether an answer is changed at all.

    Cost, in forward tokens: at most `candidates` for each token of the answer, and one more where the search begins
    within a plain answer. A cost model of texts reads the answer once more for each of them.

    Fails when: the likeliest tokens all lead to harm, and then `final_check: cost_model` refuses the row; the cost of a
    few tokens says little about where they lead; benign answers differ from those of the calibration; under `always` a
    sampled answer becomes a greedy one.

    Reference: after value-filtered decoding, arXiv 2605.14746, section 3, and appendix D for the conformal threshold.
    There tokens are sampled from those that pass the filter; here the likeliest is taken, and only `candidates` tokens
    are tried. `lazy` is ours.
    """

    method: Literal["value_filter"]
    """Which method this entry configures: `value_filter`."""
    critic: ArtifactReferenceText
    """What says what an answer costs: an artifact family of type `cost_model` or `critic`, and a version range. Of a
    critic the cost model alone is used."""
    threshold: Bound
    """Cost from which on a token is passed over: `{value: cost}`, or `{fpr: rate}`, the bound on the share of benign
    answers that are changed; a rate with `start: always` needs an artifact calibrated on the highest cost of each
    answer on its way."""
    candidates: Candidates = 8
    """How many of the most likely tokens are tried."""
    start: StartRule = "lazy"
    """When the filter begins: `lazy` (only once the plain answer is not under the threshold) or `always`."""
    final_check: FinalCheckRule = "cost_model"
    """What the finished answer is checked with before it is released: `cost_model` or `none`."""

    def artifact_needs(self) -> tuple[ArtifactNeed, ...]:
        """Return the one need: a cost model, or a critic, which brings its cost model along."""
        return cost_needs(self.critic)

    def features(self) -> frozenset[str]:
        """Return the engine features; the final check needs a cost model as well."""
        return search_features(self.final_check, "search.blocks", "search.top_tokens", "critic.safety_state")

    def footprint(self, parameters: ArtifactParameters) -> Footprint:
        """Return the blocks that the cost model reads; nothing is changed.

        Raises:
            ArtifactFormatError: the artifact's `blocks` are malformed.
        """
        return search_footprint(parameters[ROLE])

    def search(self, parameters: ArtifactParameters) -> SearchParts:
        """Return a search over single tokens, the most likely ones."""
        del parameters
        return SearchParts(
            candidates=self.candidates,
            block_tokens=1,
            keep=1,
            retries=0,
            start=self.start,
            final_check=self.final_check,
            value="likelihood",
            tracks_safety=True,
            draw="top",
        )

    def cost_bound(self) -> Bound:
        """Return the threshold, which is the cost budget of the search."""
        return self.threshold

    def needs_buffered_stream(self) -> bool:
        """Return True where an answer may still be replaced once it is finished."""
        return replaces_answers(self.start, self.final_check)

    def summary(self) -> str:
        """Return one plain sentence on what the step does with these settings."""
        return (
            f"tries the {self.candidates} most likely tokens and takes the first with which {self.critic} stays under "
            f"{budget_words(self.threshold)}, {when_words(self.start)}"
        )
