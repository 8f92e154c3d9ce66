"""The plan: a policy resolved against one model. Frozen, serialisable, with a digest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from steerguard.canonical import digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steerguard.artifacts.probe_params import Over
    from steerguard.decision import Action
    from steerguard.methods.search_parts import SearchParts
    from steerguard.methods.spec import GuidanceSpec
    from steerguard.models.facts import ModelFacts
    from steerguard.plan.cost import CostFormula
    from steerguard.policy.limits import ContentRecord, Strategy
    from steerguard.policy.rules import PlannedBound, PlannedRule

Mode = Literal["enforce", "monitor", "off"]
"""`enforce`: act. `monitor`: detect and record, change nothing. `off`: record that guidance is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedArtifact:
    """One artifact, pinned by digest."""

    family: str
    variant: str
    version: str
    digest: str
    type: str

    @property
    def reference(self) -> str:
        """`family/variant@version`."""
        return f"{self.family}/{self.variant}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCalibration:
    """Where the thresholds of one detector come from, when they are rates."""

    origin: Literal["artifact", "attestation"]
    """`artifact`: its own `calibration.json`; `attestation`: the file that the policy names."""
    digest: str
    """`sha256:<hex>` over the bytes of that file."""
    n: int
    """Number of benign scores."""

    @property
    def words(self) -> str:
        """What it is, for people."""
        whose = "the artifact's own calibration" if self.origin == "artifact" else "the policy's calibration"
        return f"{whose} on {self.n} benign prompts, {self.digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDetector:
    """One detector and the parts that it reads."""

    id: str
    type: str
    artifact: PinnedArtifact
    blocks: tuple[int, ...]
    """Block of each part."""
    over: tuple[Over, ...]
    """Which hidden state of its block each part reads: `end` of the generation prompt, or `prompt_mean`."""
    calibration: PlannedCalibration | None = None
    """None when every threshold is a raw score."""
    tolerance: float = 0.0
    """Score tolerance: how far rounding may move a score, in units of the score, at least 0.0; see `score_tolerance.py`.
    0.0 for a reader whose score no rule compares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """One guidance entry of the policy with everything that its executor needs."""

    id: str
    method: str
    spec: GuidanceSpec
    artifacts: Mapping[str, PinnedArtifact]
    """By role."""
    blocks: tuple[int, ...]
    """Steered decoder blocks."""
    read_blocks: tuple[int, ...]
    """Blocks that the step's own gates read."""
    positions: str | None
    """Token positions of a constant vector; None where the schedule says which vector each position gets."""
    schedule: str
    """`constant`, `by_phase` or `by_step`."""
    schedule_steps: int | None
    """How many generated tokens have a vector of their own; `by_step` only."""
    coefficient: str
    strength: str
    first_steps: int | None = None
    """How many generated tokens are changed; with the positions `first_steps` only."""
    modality_tokens: str = "include"
    """`exclude` leaves columns alone that stand for images, sounds or videos."""
    operator: str = "add"
    """What is done: `add`, `ablate`, `clamp` or `affine`."""
    points: tuple[str, ...] = ("resid_post",)
    """Where in each steered block: `resid_pre` is its input, `resid_post` its output."""
    rank: int | None = None
    """Rank of the map; `affine` only."""
    answer_blocks: tuple[int, ...] = ()
    """Decoder blocks that the step reads at generated tokens."""
    kept_reads: int = 0
    """How many earlier reads of its answer a row keeps."""
    threshold: PlannedBound | None = None
    """Score at which a step that reads answers acts."""
    search: SearchParts | None = None
    """What the step searches with; None for a step that does not choose among candidates."""
    cost_budget: PlannedBound | None = None
    """d of a search: an answer is within the budget while it costs less, in the cost model's unit."""
    held_bytes: int = 0
    """Bytes of the tensors of a search's cost model and critic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnrecognisedPrompt:
    """What happens to a prompt without an open assistant header."""

    action: Literal["refuse", "allow"]
    reason: str | None
    """Why the policy allows it; None when it refuses."""
    expires: str | None
    """Last day (`YYYY-MM-DD`, UTC) on which it is allowed; None when it refuses."""

    def on(self, today: str) -> Literal["refuse", "allow"]:
        """Return the action on a day: what has expired is refused again."""
        if self.expires is not None and today > self.expires:
            return "refuse"
        return self.action


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will happen on this model under this policy."""

    policy_name: str
    policy_version: str
    policy_digest: str
    mode: Mode
    model: ModelFacts
    detectors: tuple[PlannedDetector, ...]
    steps: tuple[PlannedStep, ...]
    rules: tuple[PlannedRule, ...]
    default_action: Action
    default_use: tuple[str, ...]
    unrecognised_prompt: UnrecognisedPrompt
    refusal_template: str
    audit_content: ContentRecord
    """What the audit log may hold of prompts and answers."""
    streaming: Strategy
    """When tokens of a streamed answer leave."""
    max_extra_memory_bytes: int | None
    max_extra_forward_tokens: int | None
    max_candidates: int
    """Candidates that may be alive at once."""
    max_added_latency_ms: int
    """Time that a search may add, looked at between blocks."""
    on_exceeded: Literal["refuse", "fallback"]
    """What happens to a row whose search reaches a limit."""
    fallback: tuple[str, ...]
    """Ids of the searches that are tried then, in this order."""
    cost: CostFormula

    @property
    def artifacts(self) -> tuple[PinnedArtifact, ...]:
        """Every artifact of the plan, detectors first, each once."""
        found = [detector.artifact for detector in self.detectors]
        found += [pin for step in self.steps for pin in step.artifacts.values()]
        return tuple(dict.fromkeys(found))

    @property
    def calibrations(self) -> dict[str, PlannedCalibration]:
        """The calibrations that thresholds come from, by detector id."""
        return {entry.id: entry.calibration for entry in self.detectors if entry.calibration is not None}

    @property
    def tolerances(self) -> dict[str, float]:
        """The score tolerances, by detector id."""
        return {entry.id: entry.tolerance for entry in self.detectors}

    def document(self) -> dict[str, Any]:
        """Return the plan as JSON data; numbers that are not integers are decimal strings."""
        data = asdict(self)
        data["steps"] = [
            {**entry, "spec": step.spec.model_dump(mode="json")}
            for entry, step in zip(data["steps"], self.steps, strict=True)
        ]
        plain = _without_floats(data)
        if not isinstance(plain, dict):  # pragma: no cover - a dict stays a dict
            raise TypeError
        return plain

    @property
    def digest(self) -> str:
        """`sha256:<hex>` over the canonical JSON of the plan; equal plans have equal digests in every process."""
        return digest(self.document())


def _without_floats(value: Any) -> Any:
    """Return JSON data with floats written as decimal strings and tuples as lists."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {str(key): _without_floats(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_floats(item) for item in value]
    return value
