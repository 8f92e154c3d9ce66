"""When a rule matches and what follows: conditions on detector scores, and outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from steerguard.decision import Action
from steerguard.methods.bounds import Bound
from steerguard.methods.section import Identifier, Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steerguard.policy.problems import Path

MAX_ENTRIES = 16
"""Conditions in one `any` or `all`."""
MAX_LEVELS = 4
"""How deep `any`, `all` and `not` may stand inside one another."""
MAX_COMPARISONS = 32
"""Comparisons in the condition of one rule."""


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


class AnyCondition(Section):
    """True for a row for which at least one of the conditions is true."""

    any_of: Annotated[tuple[Clause, ...], Field(alias="any", min_length=1, max_length=MAX_ENTRIES)]
    """Conditions of which one suffices."""


class AllCondition(Section):
    """True for a row for which every one of the conditions is true."""

    all_of: Annotated[tuple[Clause, ...], Field(alias="all", min_length=1, max_length=MAX_ENTRIES)]
    """Conditions that must all be true."""


class NotCondition(Section):
    """True for a row for which the condition is false; a score that is not finite refuses the row all the same."""

    negated: Annotated[Clause, Field(alias="not")]
    """Condition that must be false."""


def _kind_of_condition(condition: Any) -> str:
    """Return the tag of a condition: the first of its keys that says what it is, else `score`."""
    for kind, model in _CONDITIONS.items():
        if isinstance(condition, model) or (isinstance(condition, dict) and kind in condition):
            return kind
    return "score"


_CONDITIONS: dict[str, type[Section]] = {
    "always": AlwaysCondition,
    "any": AnyCondition,
    "all": AllCondition,
    "not": NotCondition,
}


def _kind_of_clause(condition: Any) -> str:
    # `always` inside a condition would decide it or do nothing, so there it is an unknown field.
    kind = _kind_of_condition(condition)
    return "score" if kind == "always" else kind


Clause = Annotated[
    Annotated[AnyCondition, Tag("any")]
    | Annotated[AllCondition, Tag("all")]
    | Annotated[NotCondition, Tag("not")]
    | Annotated[ScoreCondition, Tag("score")],
    Discriminator(_kind_of_clause),
]
"""A comparison, or `any`, `all` or `not` over comparisons."""

Condition = Annotated[
    Annotated[AlwaysCondition, Tag("always")]
    | Annotated[AnyCondition, Tag("any")]
    | Annotated[AllCondition, Tag("all")]
    | Annotated[NotCondition, Tag("not")]
    | Annotated[ScoreCondition, Tag("score")],
    Discriminator(_kind_of_condition),
]
"""`{always: true}`, `{detector: id, score: {at_least: bound, below: bound}}` with one end or both, or `{any: […]}`,
`{all: […]}`, `{not: …}` over such comparisons."""

AnyCondition.model_rebuild()
AllCondition.model_rebuild()
NotCondition.model_rebuild()


def inner_conditions(condition: Condition) -> Iterator[tuple[Path, Clause]]:
    """Yield the conditions directly inside a condition, with their paths in it."""
    match condition:
        case AnyCondition(any_of=parts):
            yield from ((("any", index), part) for index, part in enumerate(parts))
        case AllCondition(all_of=parts):
            yield from ((("all", index), part) for index, part in enumerate(parts))
        case NotCondition(negated=part):
            yield ("not",), part


def comparisons(condition: Condition) -> Iterator[tuple[Path, ScoreCondition]]:
    """Yield every comparison inside a condition, or the condition itself, with its path, in the order of the document."""
    if isinstance(condition, ScoreCondition):
        yield (), condition
    for path, part in inner_conditions(condition):
        yield from (((*path, *rest), comparison) for rest, comparison in comparisons(part))


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
    """When the rule matches: `{always: true}`, a detector and an interval of its scores, or `any`, `all` or `not` over
    such comparisons, at most 4 deep and with at most 32 comparisons."""
    then: Outcome
    """What happens when the rule matches and no matching rule is more restrictive."""
