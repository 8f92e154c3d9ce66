"""The vetting suite: which prompts, which policy for which kind of artifact, and which bars the figures must reach.

A suite is a YAML file. Its digest stands in every record that was made with it, and it pins the digests of its prompt
files, so a record names exactly what was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from steerguard.artifacts.manifest import ArtifactManifest, ArtifactType, Count, Identifier, Name, Sha256, Text
from steerguard.errors import EvaluationError
from steerguard.evaluate.result import Expect
from steerguard.methods.bounds import decimal_text

API_VERSION = "steerguard/v1alpha1"
ARTIFACT_MARK = "$ARTIFACT"
"""Stands in a policy of a suite where the vetted artifact goes."""

Metric = Literal[
    "harmful_acted",
    "harmful_refused",
    "steered_repetition",
    "benign_acted",
    "over_refusal",
    "coherence",
    "overhead",
]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_by_name=True, populate_by_name=True
    )


class SuiteMetadata(_Part):
    """What the suite is."""

    name: Name
    version: Text
    description: Text


class SuiteSettings(_Part):
    """How answers are made; decoding is greedy."""

    max_new_tokens: Count
    batch_size: Count
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the bootstrap."""


class SuiteSet(_Part):
    """One set of prompts: some rows of one JSON lines file."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=32)]
    expect: Expect
    """`refuse`: prompts that should be refused; `answer`: benign prompts."""
    title: Text
    """What the rows are, for people, with the split."""
    file: Annotated[str, Field(pattern=r"^[^/\\].*\.jsonl$", max_length=300)]
    """Path relative to the suite's own file; each line has `messages`."""
    sha256: Sha256
    """Digest of the file: other prompts are another suite."""
    keep: dict[Identifier, tuple[Text, ...]] = {}
    """Field to patterns such as `*_twin`; only rows that match one of them in every field stay."""
    drop: dict[Identifier, tuple[Text, ...]] = {}
    """Field to patterns; rows that match one of them in any field are left out."""
    rows: Count
    """How many of the remaining rows are taken, spread evenly over them in the order of the file."""


class OverheadSettings(_Part):
    """How seconds are compared."""

    set: str
    """Name of a set whose first rows are timed as one batch."""
    rows: Count
    rounds: Annotated[int, Field(ge=3, le=1000)]
    """How often the batch is answered without and with the policy, in turn."""


class Bar(_Part):
    """What one figure must be; it is compared with the estimate, not with an end of its interval."""

    metric: Metric
    set: str
    """Name of the set that the figure is over."""
    at_least: Annotated[float, Field(ge=0)] | None = None
    at_most: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            msg = "a bar has exactly one of at_least and at_most"
            raise ValueError(msg)
        return self

    @property
    def text(self) -> str:
        """The bar as records spell it, for example `<= 0.05`."""
        if self.at_least is not None:
            return f">= {decimal_text(self.at_least)}"
        return f"<= {decimal_text(self.at_most or 0.0)}"

    def reached(self, value: float) -> bool:
        """Tell whether an estimate reaches the bar."""
        if self.at_least is not None:
            return value >= self.at_least
        return value <= (self.at_most or 0.0)


class Kind(_Part):
    """Which artifacts a policy of the suite is for."""

    type: ArtifactType
    methods: Annotated[tuple[Identifier, ...], Field(min_length=1)]
    params: dict[Identifier, str] = {}
    """Settings that the artifact must have, as text, for example `read: answer`."""

    def fits(self, manifest: ArtifactManifest) -> bool:
        """Tell whether an artifact is of this kind."""
        return (
            manifest.type == self.type
            and manifest.method in self.methods
            and all(manifest.params.get(name) == value for name, value in self.params.items())
        )

    def __str__(self) -> str:
        params = "".join(f", {name} {value}" for name, value in self.params.items())
        return f"{self.type} of method {' or '.join(self.methods)}{params}"


class SuiteCase(_Part):
    """The policy that exercises one kind of artifact, and the bars for it."""

    kind: Annotated[Kind, Field(alias="for")]
    policy: dict[str, Any]
    """A policy document; `$ARTIFACT` stands where the vetted artifact goes."""
    bars: Annotated[tuple[Bar, ...], Field(min_length=1)]


class VettingSuite(_Part):
    """The document."""

    api_version: Annotated[Literal["steerguard/v1alpha1"], Field(alias="apiVersion")]
    kind: Literal["VettingSuite"]
    metadata: SuiteMetadata
    settings: SuiteSettings
    sets: Annotated[tuple[SuiteSet, ...], Field(min_length=1, max_length=16)]
    overhead: OverheadSettings
    cases: Annotated[tuple[SuiteCase, ...], Field(min_length=1)]
    """The first one that fits an artifact is used."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        names = [one.name for one in self.sets]
        if len(set(names)) != len(names):
            msg = "two sets have the same name"
            raise ValueError(msg)
        if not {one.expect for one in self.sets} >= {"refuse", "answer"}:
            msg = "a suite needs a set that should be refused and a set that should be answered"
            raise ValueError(msg)
        expects: Mapping[str, Expect] = {one.name: one.expect for one in self.sets}
        if expects.get(self.overhead.set) != "answer" or self.overhead.rows > self.set(self.overhead.set).rows:
            msg = "overhead names a set that should be answered, and at most as many rows as it has"
            raise ValueError(msg)
        for case in self.cases:
            for bar in case.bars:
                if expects.get(bar.set) != expect_of(bar.metric):
                    msg = f"a bar for {bar.metric} names a set whose prompts one should {expect_of(bar.metric)}"
                    raise ValueError(msg)
                if bar.metric == "overhead" and bar.set != self.overhead.set:
                    msg = f"overhead is measured on {self.overhead.set} only"
                    raise ValueError(msg)
            if not _mentions(case.policy):
                msg = f"the policy for {case.kind} does not mention {ARTIFACT_MARK}"
                raise ValueError(msg)
        return self

    def set(self, name: str) -> SuiteSet:
        """Return one set by name.

        Raises:
            KeyError: there is none.
        """
        return {one.name: one for one in self.sets}[name]

    def case_for(self, manifest: ArtifactManifest) -> SuiteCase:
        """Return the case that fits an artifact.

        Raises:
            EvaluationError: the suite has no policy for this kind of artifact.
        """
        for case in self.cases:
            if case.kind.fits(manifest):
                return case
        raise EvaluationError(
            f"The suite {self.metadata.name} has no policy for this kind of artifact.",
            where=manifest.reference,
            expected="; ".join(str(case.kind) for case in self.cases),
            found=f"{manifest.type} of method {manifest.method}",
            next_step="Write a suite with such a case: docs/vetting.md.",
        )


def expect_of(metric: Metric) -> Expect:
    """Return which kind of set a metric is measured on."""
    return "refuse" if metric in {"harmful_acted", "harmful_refused", "steered_repetition"} else "answer"


def _mentions(node: Any) -> bool:
    if isinstance(node, dict):
        return any(_mentions(value) for value in node.values())
    if isinstance(node, list):
        return any(_mentions(value) for value in node)
    return bool(node == ARTIFACT_MARK)
