"""Settings of a guardian: a second model judges what is asked and what is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from steerguard.methods.search_parts import SearchParts
from steerguard.methods.search_settings import (
    PROMPT_METHODS,
    ROLE,
    TEXT_METHODS,
    CostBudget,
    budget_words,
    cost_needs,
    search_features,
    search_footprint,
)
from steerguard.methods.section import ArtifactReferenceText
from steerguard.methods.spec import ArtifactNeed, ArtifactParameters, Footprint, GuidanceSpec

if TYPE_CHECKING:
    from steerguard.methods.bounds import Bound

Checked = Literal["input", "output"]
"""What a guardian judges.

`input`: the prompt alone, before the first token.
`output`: prompt and finished answer.
"""


@final
class GuardianSpec(GuidanceSpec):
    """Let a second, small model judge the prompt and the finished answer, and refuse what it finds harmful.

    Idea: a model that was trained to judge texts sees harm that the generator's own states do not show. It chooses
    among nothing and changes nothing: an answer is given as it is, or refused.

    Formula: refuse the row when the cost of the prompt alone, or that of prompt and answer, is at least the cost
    budget d.

    Cost: no extra forward token of the generator; the guardian reads the prompt once before the first token, and prompt
    and answer once at the end.

    Fails when: the guardian is wrong or knows the kind of harm less than the generator does; the same model judges the
    result later and finds it harmless; a long answer is judged in windows, and none of them is harmful by itself.

    Reference: small language models as guardians, arXiv 2405.19795; there the small model also writes the refusal.
    """

    method: Literal["guardian"]
    """Which method this entry configures: `guardian`."""
    critic: ArtifactReferenceText
    """The guardian: an artifact family of type `cost_model` that reads texts, and a version range; one of the method
    `guardian_logits` where the `input` is checked."""
    check: Annotated[
        tuple[Checked, ...],
        Field(min_length=1, max_length=2, json_schema_extra={"x-cost": "one pass of the guardian for each"}),
    ] = ("input", "output")
    """What is judged: `output`, or `input` and `output`."""
    cost_budget: CostBudget = None
    """d: `{value: cost}` or `{fpr: rate}`, the share of benign answers that are not within it; left out, the threshold
    that the artifact states."""

    @field_validator("check")
    @classmethod
    def _judges_answers(cls, check: tuple[Checked, ...]) -> tuple[Checked, ...]:
        if "output" not in check or len(set(check)) < len(check):
            kind = "check_output"
            message = "`check` names `output`, and each entry once; a detector judges prompts alone"
            raise PydanticCustomError(kind, message)
        return check

    def artifact_needs(self) -> tuple[ArtifactNeed, ...]:
        """Return the one need: a cost model that reads texts, and prompts without an answer where these are judged."""
        if "input" in self.check:
            return cost_needs(self.critic, methods=PROMPT_METHODS, otherwise="write `check: [output]`")
        return cost_needs(self.critic, methods=TEXT_METHODS)

    def features(self) -> frozenset[str]:
        """Return the engine features."""
        return search_features("cost_model", *(f"check.{name}" for name in self.check))

    def footprint(self, parameters: ArtifactParameters) -> Footprint:
        """Return an empty one: nothing is read or changed in the generator.

        Raises:
            ArtifactFormatError: the artifact's `blocks` are malformed.
        """
        return search_footprint(parameters[ROLE])

    def search(self, parameters: ArtifactParameters) -> SearchParts:
        """Return a search that has no candidate but the plain answer."""
        del parameters
        return SearchParts(
            candidates=1,
            block_tokens=None,
            keep=1,
            retries=0,
            start="lazy",
            final_check="cost_model",
            value="cost",
            tracks_safety=False,
            checks_prompt="input" in self.check,
        )

    def cost_bound(self) -> Bound | None:
        """Return the cost budget as the entry states it."""
        return self.cost_budget

    def needs_buffered_stream(self) -> bool:
        """Return True: a finished answer may still be refused."""
        return True

    def summary(self) -> str:
        """Return one plain sentence on what the step does with these settings."""
        what = "the prompt and the finished answer" if "input" in self.check else "the finished answer"
        return f"judges {what} by {self.critic} with {budget_words(self.cost_budget)}, and refuses beyond it"
