"""What methods that search share: the types of their settings, the cost model that they need, and what it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from steerguard.errors import ArtifactFormatError
from steerguard.methods.bounds import Bound, CalibratedBound, RawBound
from steerguard.methods.search_parts import FinalCheck, Start
from steerguard.methods.spec import SEARCHES, ArtifactNeed, Footprint

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_CANDIDATES = 512
ROLE = "critic"
"""Role of the artifact that says what an answer costs; it may be a cost model, or a critic with its cost model."""
STATE_METHODS = ("response_states", "safety_value")
"""Methods of artifacts that read the generator's own states."""
TEXT_METHODS = ("sequence_classifier", "guardian_logits", "embedding_head")
"""Methods of artifacts that read prompt and answer as texts."""
PROMPT_METHODS = ("guardian_logits",)
"""Methods of artifacts that judge a prompt without an answer too."""

Candidates = Annotated[
    int,
    Field(
        ge=1,
        le=MOST_CANDIDATES,
        json_schema_extra={"x-unit": "candidates per block", "x-cost": "forward tokens grow in proportion"},
    ),
]
"""How many continuations are drawn for each block."""

BlockTokens = Annotated[
    int,
    Field(
        ge=1,
        le=512,
        json_schema_extra={"x-unit": "tokens", "x-cost": "shorter blocks mean more critic and cost-model calls"},
    ),
]
"""Tokens between two choices."""

StartRule = Annotated[Start, Field(json_schema_extra={"x-cost": "`lazy` costs one check when the answer is fine"})]
"""When the search begins."""

FinalCheckRule = Annotated[
    FinalCheck,
    Field(json_schema_extra={"x-cost": "one cost of the finished answer; a text model reads all of it once more"}),
]
"""What the finished answer is checked with before it is released."""

Temperature = Annotated[float, Field(gt=0.0, le=5.0, json_schema_extra={"x-unit": "temperature", "x-cost": "none"})]
"""Temperature at which candidates are drawn where the call itself is greedy."""

Weight = Annotated[
    float,
    Field(ge=0.0, le=1e6, json_schema_extra={"x-unit": "nats per token, for each unit of cost", "x-cost": "none"}),
]
"""lambda: how much one unit of cost weighs against the mean log-probability of a token."""

CostBudget = Annotated[
    Bound | None,
    Field(json_schema_extra={"x-unit": "the cost model's own unit, or a share of benign answers", "x-cost": "none"}),
]
"""Cost at which an answer is no longer within the budget."""


def cost_needs(
    reference: str, *, methods: tuple[str, ...] = STATE_METHODS + TEXT_METHODS, otherwise: str = ""
) -> tuple[ArtifactNeed, ...]:
    """Return the one need of a search: what says what an answer costs, a cost model or a critic with its cost model.

    Args:
        reference: as the policy writes it.
        methods: methods of cost models that the search can work with.
        otherwise: what to write in the entry so that more of them will do.
    """
    types = ("cost_model", "critic") if "safety_value" in methods else ("cost_model",)
    return (ArtifactNeed(role=ROLE, reference=reference, types=types, methods=methods, otherwise=otherwise),)


def search_features(final_check: FinalCheck, *more: str) -> frozenset[str]:
    """Return the engine features of a search.

    Args:
        final_check: what the finished answer is checked with.
        more: what this method needs beyond drawing candidates.
    """
    checks = ("check.cost_model",) if final_check == "cost_model" else ()
    return frozenset({SEARCHES, *checks, *more})


def search_footprint(params: Mapping[str, Any]) -> Footprint:
    """Return where a search touches the model: it reads the blocks of its cost model, and changes none.

    Args:
        params: of the artifact's manifest; a cost model of texts states no blocks.

    Raises:
        ArtifactFormatError: `blocks` is no list of different decoder blocks, or is missing where answers' states are
            read.
    """
    blocks = params.get("blocks", ())
    whole = isinstance(blocks, list | tuple) and all(type(block) is int and block >= 0 for block in blocks)
    if not whole or len(set(blocks)) != len(blocks) or (params.get("read") == "answer" and not blocks):
        raise ArtifactFormatError(
            "The artifact's parameter `blocks` is not what a cost model may state.",
            expected="a list of decoder blocks, each once",
            found=repr(blocks)[:80],
            where="manifest.json: params.blocks",
            next_step="Rebuild the artifact with `steerguard build`.",
        )
    return Footprint(
        steered_blocks=(), read_blocks=(), strength="1.0", positions=None, answer_blocks=tuple(sorted(blocks))
    )


def has_critic(params: Mapping[str, Any]) -> bool:
    """Return whether an artifact brings a critic along with its cost model."""
    return "critic" in params


def replaces_answers(start: Start, final_check: FinalCheck) -> bool:
    """Return whether a finished answer may still be replaced, so that nothing of it may be released before."""
    return final_check == "cost_model" or start == "lazy"


def when_words(start: Start) -> str:
    """Return in words when a search begins."""
    return "from the first token" if start == "always" else "once the plain answer is not within its cost budget"


def budget_words(bound: RawBound | CalibratedBound | None) -> str:
    """Return in words what a cost budget is."""
    if bound is None:
        return "the artifact's own cost budget"
    if isinstance(bound, CalibratedBound):
        return f"a cost budget that {bound.fpr * 100:g}% of benign answers reach"
    return f"a cost budget of {bound.value}"
