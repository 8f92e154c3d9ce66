"""What happened to one row of one request: readings, verdict, dose, usage. Data, no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Action = Literal["allow", "annotate", "guide", "refuse"]
"""From least to most restrictive: `allow`, `annotate` (allow and mark), `guide`, `refuse`."""

ACTION_ORDER: tuple[Action, ...] = ("allow", "annotate", "guide", "refuse")

Cause = Literal[
    "rule",
    "default",
    "unrecognised_prompt",
    "non_finite",
    "budget",
    "answer_reading",
    "no_candidate",
    "critic_failed",
    "revoked",
]
"""Why the intended action is what it is.

`answer_reading`: what was read while the answer was written.
`no_candidate`: a search found no answer within the cost budget.
`critic_failed`: a cost model or critic failed, so that no answer could be judged.
`revoked`: an artifact of the plan was revoked, or a list of revocations is too old to rely on; nothing was read.
"""

SearchOutcome = Literal[
    "kept", "found", "no_candidate", "prompt", "forward_tokens", "latency", "memory", "non_finite", "critic_failed"
]
"""How a search for one row ended.

`kept`: the plain answer is within the cost budget and was not touched.
`found`: all that the search kept had ended.
`no_candidate`: no answer is within the cost budget.
`prompt`: the prompt alone is not within the cost budget, so no answer was written.
`forward_tokens`, `latency`, `memory`: the limit of the budget that ended it.
`non_finite`: no candidate could be judged, because numbers were not finite.
`critic_failed`: a cost model or critic failed.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """One bound that a score was compared with."""

    rule: str
    bound: Literal["at_least", "below"]
    value: float
    """The float32 value that the score was compared with."""
    fpr: str | None = None
    """The calibrated false-positive rate that `value` came from, as written in the policy."""
    place: str | None = None
    """Where the comparison stands in the condition of the rule, for example `any.1.not`; None for a rule of one
    comparison. Two bounds at one place are the ends of one interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One number that a detector or a gate read from the model."""

    source: str
    """Detector id, `<step id>/block <n>` for a gate of a guidance step, or the step id for reads of an answer."""
    score: float | None
    """Float32 score; None when it was not finite."""
    thresholds: tuple[Threshold, ...] = ()
    token: int | None = None
    """How many generated tokens the model had read when this was read, 0 at the end of a prefilled answer; None for
    what was read at the prompt. Of all reads of an answer the one that reached the threshold is kept, or the highest."""
    tolerance: float = 0.0
    """Score tolerance: the score counts as any number this near to it; 0.0 where it is compared as it is."""
    near: bool = False
    """Whether the score lies within the tolerance of a threshold, so that the comparison went to the stricter side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dose:
    """What one guidance step did to one row."""

    step: str
    method: str
    open_blocks: tuple[int, ...]
    """Blocks whose gate was open for this row."""
    coefficient: str
    """Decimal string, multiples of the artifact's calibrated strength."""
    positions: int
    """Token positions that were changed in this row, counted where the change is made, summed over open blocks."""
    expected_positions: int
    """The same number derived from the returned sequence alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchReport:
    """What one search did for one row."""

    step: str
    """Id of the guidance entry; of the fallback where one was tried last."""
    method: str
    outcome: SearchOutcome
    cost: float | None
    """What the returned answer costs, in the cost model's unit; None where nothing was found."""
    cost_budget: float
    """d, float32: an answer is within the budget while it costs less."""
    cost_budget_fpr: str | None
    """The share of benign answers over the budget that `cost_budget` came from; None for a raw one."""
    plain_cost: float | None
    """What the answer without a search costs; None where none was written, or nothing of it could be judged."""
    kept_tokens: int
    """Tokens of the answer without a search that the returned answer begins with."""
    candidates: int
    """N in effect at the end."""
    candidates_drawn: int
    retries: int
    halvings: int
    """How often N was halved because there was no memory for so many."""
    forward_tokens: int
    """Token positions that went through the model for the search, fallbacks included."""
    late_ms: int
    """By how many milliseconds the search passed its time limit; a block that is under way is not interrupted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one returned sequence, padding not counted."""

    prompt_tokens: int
    generated_tokens: int
    """Tokens that were generated for it. With beams, one per beam and step, kept or not, spread over the returned
    sequences of a prompt."""
    extra_forward_tokens: int
    """Forward tokens beyond those of the same unguided request without a cache of an earlier turn."""
    cached_tokens: int = 0
    """Prompt tokens whose states came from the cache of an earlier turn, and did not go through the model again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The complete account of one row: `readings`, their `thresholds` with places, and tolerances reproduce `intended`."""

    request: str
    row: int
    mode: Literal["enforce", "monitor", "off"]
    readings: tuple[Reading, ...]
    rules: tuple[str, ...]
    """Ids of the rules that matched for some score within the tolerances, in document order."""
    cause: Cause
    intended: Action
    applied: Action
    doses: tuple[Dose, ...]
    usage: Usage
    search: SearchReport | None = None
    """None where no search was asked for."""
    template_cut: bool = False
    """True when the refusal template did not fit into `max_new_tokens` and was cut at a word."""

    @property
    def near(self) -> bool:
        """Whether any score lies within its tolerance of a threshold."""
        return any(reading.near for reading in self.readings)
