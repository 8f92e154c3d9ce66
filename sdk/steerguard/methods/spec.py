"""The contract of a guidance method: what it declares before any tensor exists."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerguard.methods.section import Identifier, Section

if TYPE_CHECKING:
    from steerguard.methods.bounds import Bound
    from steerguard.methods.search_parts import SearchParts

SEARCHES = "search.candidates"
"""Feature that every method that searches needs, and no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactNeed:
    """One artifact that a step cannot do without."""

    role: str
    """What the artifact is to the method, for example `vectors`."""
    reference: str
    """Family and version range as written in the policy, for example `inferaligner@^1`."""
    types: tuple[str, ...]
    """Artifact types of which the manifest must state one, for example `steering_vectors`."""
    methods: tuple[str, ...]
    """Methods of which the manifest must state one: tensors of another method mean something else."""
    otherwise: str = ""
    """Where a setting of the entry narrows `methods`: what to write there so that other methods will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Where a step touches the model, known from the settings and the artifact parameters alone."""

    steered_blocks: tuple[int, ...]
    """Decoder blocks whose input or output the step changes, in increasing order."""
    read_blocks: tuple[int, ...]
    """Decoder blocks that the step's own gates read."""
    strength: str
    """Decimal string: what coefficient 1.0 multiplies the artifact's vectors by."""
    positions: str | None
    """Token positions that are changed: the name of a position rule, or `first_steps`; None where the schedule says it."""
    schedule: str = "constant"
    """Which vector a position gets: `constant`, `by_phase` or `by_step`."""
    steps: int | None = None
    """How many generated tokens have a vector of their own; `by_step` only."""
    first_steps: int | None = None
    """How many generated tokens are changed; with the positions `first_steps`, and only with them."""
    modality_tokens: str = "include"
    """`exclude` leaves columns alone that stand for images, sounds or videos."""
    operator: str = "add"
    """What is done there: `add`, `ablate`, `clamp` or `affine`; all but `add` have the schedule `constant`."""
    points: tuple[str, ...] = ("resid_post",)
    """Where in each steered block: `resid_pre` is its input, `resid_post` its output."""
    rank: int | None = None
    """Rank of the map; `affine` only."""
    answer_blocks: tuple[int, ...] = ()
    """Decoder blocks that the step reads at generated tokens, in increasing order."""
    kept_reads: int = 0
    """How many earlier reads of its answer a row keeps."""


ArtifactParameters = Mapping[str, Mapping[str, Any]]
"""Manifest `params` by role."""


class GuidanceSpec(Section, ABC):
    """One entry of the `guidance` list: a method, its artifacts and its settings. Subclasses are final."""

    id: Identifier
    """Name by which rules and the fallback list refer to this entry; unique within the document."""
    method: str
    """Which method this entry configures; it decides which other fields are legal."""

    @abstractmethod
    def artifact_needs(self) -> tuple[ArtifactNeed, ...]:
        """Return the artifacts that must resolve and verify before the step can be bound."""

    @abstractmethod
    def features(self) -> frozenset[str]:
        """Return the engine features that the step needs, for example `operator.add`."""

    @abstractmethod
    def footprint(self, parameters: ArtifactParameters) -> Footprint | None:
        """Return where the step touches the residual stream, or None when it does not.

        Args:
            parameters: `params` of each resolved manifest, by role.
        """

    @abstractmethod
    def needs_buffered_stream(self) -> bool:
        """Return whether text may be released only once the whole answer is decided."""

    def search(self, parameters: ArtifactParameters) -> SearchParts | None:
        """Return what the step searches with, or None when it does not choose among candidates.

        Args:
            parameters: `params` of each resolved manifest, by role.
        """
        del parameters
        return None

    def cost_bound(self) -> Bound | None:
        """Return the cost budget of a search; None for that of its artifact, and for a step that does not search."""
        return None

    def opened_entries(self) -> tuple[str, ...]:
        """Return the ids of other guidance entries that the step may open while the answer is written."""
        return ()

    @abstractmethod
    def summary(self) -> str:
        """Return one plain sentence on what the step does with these settings."""
