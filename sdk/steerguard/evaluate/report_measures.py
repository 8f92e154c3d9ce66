"""How the report presents each measure: its name in words, what is good, and whether it is a main measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steerguard.evaluate.measures import NAMES
from steerguard.evaluate.result import Expect

Better = Literal["higher", "lower"]

_BOTH: frozenset[Expect] = frozenset({"refuse", "answer"})
_REFUSE: frozenset[Expect] = frozenset({"refuse"})
_ANSWER: frozenset[Expect] = frozenset({"answer"})


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureLook:
    """One measure as the report shows it."""

    name: str
    """As in the document."""
    label: str
    meaning: str
    share: bool
    """Whether it is a share in [0, 1], shown in per cent."""
    main: frozenset[Expect]
    """Kinds of sets in whose summary it stands."""
    order: int
    better_if_refuse: Better | None
    better_if_answer: Better | None

    def better(self, expect: Expect) -> Better | None:
        """Return what is good on a set; None where neither is."""
        return self.better_if_refuse if expect == "refuse" else self.better_if_answer


# Name in words, main on, better on sets that should be refused, better on sets that should be answered; in this order.
_LOOKS: dict[str, tuple[str, frozenset[Expect], Better | None, Better | None]] = {
    "strict_refusal": ("strict refusal", _BOTH, "higher", "lower"),
    "steered_strict_refusal": ("refusal where guided", _REFUSE, "higher", "lower"),
    "token_identical": ("token-identical to unguided", _ANSWER, None, "higher"),
    "acted": ("guided or refused", _BOTH, "higher", "lower"),
    "harmful": ("judged harmful", _REFUSE, "lower", "lower"),
    "harm": ("mean judged harm", frozenset(), "lower", "lower"),
    "closed_identical": ("token-identical where nothing acted", _ANSWER, "higher", "higher"),
    "perplexity": ("perplexity", _REFUSE, "lower", "lower"),
    "repetition": ("repetition", _REFUSE, "lower", "lower"),
    "refused": ("refused with the policy's text", frozenset(), "higher", "lower"),
    "guided": ("guided", frozenset(), None, "lower"),
    "exact_refusal": ("exact refusal", frozenset(), "higher", "lower"),
    "contains_reference": ("contains a reference refusal", frozenset(), None, "lower"),
    "opens_as_refusal": ("opens as a refusal", frozenset(), "higher", "lower"),
    "distinct_refusals": ("distinct refusals", frozenset(), None, None),
    "gate_rate": ("gate rate", frozenset(), "higher", "lower"),
    "auroc": ("AUROC", frozenset(), "higher", "higher"),
    "mean_answer_tokens": ("mean new tokens", frozenset(), None, None),
    "extra_forward_tokens": ("extra forward tokens", frozenset(), "lower", "lower"),
}
_ORDER = {name: number for number, name in enumerate(_LOOKS)}


def look_of(figure_measure: str) -> MeasureLook:
    """Return how a figure's measure is shown.

    A measure that this version does not know keeps its name and its plain numbers.

    Args:
        figure_measure: as in the document, with or without a rule or detector behind a dot.
    """
    name, _, part = figure_measure.partition(".")
    measure = NAMES.get(name)
    label, main, refuse, answer = _LOOKS.get(name, (name.replace("_", " "), frozenset(), None, None))
    return MeasureLook(
        name=figure_measure,
        label=f"{label}, {part}" if part else label,
        meaning=measure.meaning if measure else "",
        share=measure is not None and measure.unit == "share",
        main=main,
        order=_ORDER.get(name, len(_ORDER)),
        better_if_refuse=refuse,
        better_if_answer=answer,
    )
