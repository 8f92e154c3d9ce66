"""When a rule matches and what follows: conditions on detector scores, and outcomes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from steerguard.decision import Action
from steerguard.methods.section import Identifier, Section
from steerguard.policy.numbers import decimal_text


class RawBound(Section):
    """A bound on the score itself."""

    value: Annotated[float, Field(ge=-1e6, le=1e6, json_schema_extra={"x-unit": "the detector's own score"})]
    """The score that is compared with, in the detector's own unit; it changes meaning with the artifact version."""

    @property
    def fpr(self) -> None:
        """None: a raw bound has no calibrated rate."""
        return


class CalibratedBound(Section):
    """A bound stated as a false-positive rate and resolved from the artifact's calibration."""

    fpr: Annotated[
        float,
        Field(gt=0.0, lt=1.0, json_schema_extra={"x-unit": "share of benign prompts at or above the bound"}),
    ]
    """Calibrated false-positive rate; the smallest one possible is 1/(n + 1) for n benign calibration prompts."""

    @property
    def value(self) -> None:
        """None: the artifact's calibration decides."""
        return

    @property
    def fpr_text(self) -> str:
        """The rate as a decimal string, for example `0.02`."""
        return decimal_text(self.fpr)


def _kind_of_bound(bound: Any) -> str | None:
    if isinstance(bound, RawBound):
        return "value"
    if isinstance(bound, CalibratedBound):
        return "fpr"
    if not isinstance(bound, dict):
        return None
    return next((name for name in ("fpr", "value") if name in bound), None)


Bound = Annotated[
    Annotated[RawBound, Tag("value")] | Annotated[CalibratedBound, Tag("fpr")],
    Discriminator(_kind_of_bound),
]
"""`{value: x}` or `{fpr: x}`."""


class ScoreRange(Section):
    """An interval of scores; at least one end is stated."""

    at_least: Bound | None = None
    """The rule matches scores at or above this bound; left out: no lower end."""
    below: Bound | None = None
    """The rule matches scores strictly below this bound; left out: no upper end."""


class ScoreCondition(Section):
    """True for a row whose score lies in the interval."""

    detector: Identifier
    """Id of the detector whose score is compared."""
    score: ScoreRange
    """Interval in which the score must lie."""


class AlwaysCondition(Section):
    """True for every row."""

    always: Literal[True]
    """Write `true`: the rule matches whatever the scores are."""

    @property
    def detector(self) -> None:
        """None: no score is read."""
        return

    @property
    def score(self) -> None:
        """None: no score is read."""
        return


def _kind_of_condition(condition: Any) -> str:
    if isinstance(condition, AlwaysCondition) or (isinstance(condition, dict) and "always" in condition):
        return "always"
    return "score"


Condition = Annotated[
    Annotated[AlwaysCondition, Tag("always")] | Annotated[ScoreCondition, Tag("score")],
    Discriminator(_kind_of_condition),
]
"""`{always: true}`, or `{detector: id, score: {at_least: bound, below: bound}}` with one end or both."""


class Outcome(Section):
    """What is to happen."""

    action: Action
    """`allow`, `annotate` (allow and mark), `guide` or `refuse`, from least to most restrictive."""
    use: tuple[Identifier, ...] = ()
    """Ids of the guidance entries to use; needed with `guide`, forbidden with every other action."""


class Rule(Section):
    """One rule. All rules are evaluated, the most restrictive outcome wins, and their order never matters."""

    id: Identifier
    """Name of the rule in decisions and in the audit log; unique within the document."""
    when: Condition
    """When the rule matches: `{always: true}`, or a detector and an interval of its scores."""
    then: Outcome
    """What happens when the rule matches and no matching rule is more restrictive."""
