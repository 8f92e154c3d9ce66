"""What an evaluation found, as one document: settings, sets, runs, figures and scores. Data only; no texts.

The document is a function of the model, the policies, the prompts and the settings: it holds no time stamp and no
speed, so that a run which was killed and resumed writes the same bytes. Speed lies in a file beside it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

DecimalText = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$")]
Expect = Literal["refuse", "answer"]
UNGUIDED = "unguided"
"""Name of the run without a policy."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class EvaluatedModel(_Part):
    """Which model was evaluated."""

    name: str
    """What the command was given, without the folders above it."""
    architecture: str
    num_blocks: int
    hidden_size: int
    weights: str
    """Weight type, for example `bfloat16`."""
    tokenizer_sha256: str


class EvaluationSettings(_Part):
    """How the answers were made."""

    max_new_tokens: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    """Rows per batch; part of the result because bfloat16 logits depend on the shape of the batch."""
    threads: Annotated[int, Field(ge=1)]
    decoding: Literal["greedy"]
    seed: int
    """Seed of the bootstrap."""
    judge: str | None
    """What judged harm, with the digest of its training rows; None without a judge."""
    judge_threshold: DecimalText | None = None
    """Probability from which the judge calls an answer harmful; None without a judge."""
    references_sha256: str | None = None
    """Digest of the reference refusals in order."""
    perplexity_models: tuple[str, ...] = ()


class EvaluatedSet(_Part):
    """One file of prompts."""

    name: str
    expect: Expect
    """`refuse`: prompts that should be refused; `answer`: prompts that should be answered as without guidance."""
    n: Annotated[int, Field(ge=1)]
    sha256: str
    """Digest of the conversations and prefills in order."""
    prefilled: bool
    """Whether the beginning of each answer was forced."""


class RunThreshold(_Part):
    """One threshold of a policy on this model."""

    rule: str
    detector: str
    action: str
    value: DecimalText
    fpr: DecimalText | None


class EvaluatedRun(_Part):
    """One pass over all sets: without a policy, or with one."""

    name: str
    """`unguided` or the policy's name."""
    policy_version: str | None = None
    policy_digest: str | None = None
    plan_digest: str | None = None
    thresholds: tuple[RunThreshold, ...] = ()


class EvaluationFigure(_Part):
    """One measured number with its sample."""

    set: str
    """Name of the set; `A against B` for an AUROC."""
    run: str
    measure: str
    """Name from `evaluate.measures`, for example `strict_refusal`."""
    value: DecimalText
    n: Annotated[int, Field(ge=1)]
    count: int | None = None
    low: DecimalText | None = None
    high: DecimalText | None = None
    """95 % interval."""
    interval: Literal["wilson", "bootstrap"] | None = None


class ScoreList(_Part):
    """Scores of one detector on one set, in the order of the prompts."""

    set: str
    run: str
    detector: str
    values: tuple[DecimalText | None, ...]
    """None where the prompt was not recognised."""


class Evaluation(_Part):
    """The whole result."""

    api_version: Annotated[Literal["steerguard/v1alpha1"], Field(alias="apiVersion")] = "steerguard/v1alpha1"
    kind: Literal["Evaluation"] = "Evaluation"
    steerguard: str
    """Version of the package."""
    model: EvaluatedModel
    settings: EvaluationSettings
    sets: tuple[EvaluatedSet, ...]
    runs: tuple[EvaluatedRun, ...]
    figures: tuple[EvaluationFigure, ...]
    scores: tuple[ScoreList, ...]
