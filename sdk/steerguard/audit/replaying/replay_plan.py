"""A policy compiled for the model of a record: from the artifacts that the record pins, without the model.

An artifact was loaded only where it fitted the model, so its manifest says what the model was as far as a plan asks:
decoder, blocks, width, tokenizer and chat template. The type of its weights is on the line.

A record says which artifacts its plan used, but not which detector read which. That is certain where only one of them can
be read by a detector of this type, or where the policy is the one of the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from steerguard.artifacts.probe_params import answer_reading
from steerguard.errors import SteerguardError
from steerguard.models.facts import ModelFacts
from steerguard.plan.compile import compile_plan
from steerguard.plan.resolve import resolve_artifacts

if TYPE_CHECKING:
    from steerguard.artifacts.manifest import ArtifactManifest
    from steerguard.plan.plan import Plan, PlannedDetector
    from steerguard.policy.document import Policy
    from steerguard.registry.store import ArtifactStore

MAX_MODELS: Final = 64
"""Compiled plans that are kept; more distinct models than that are compiled again when they come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedModel:
    """What one record says of the model and of the artifacts that were loaded for it."""

    name: str
    architecture: str
    dtype: str
    artifacts: tuple[tuple[str, str | None], ...]
    """Digest of each artifact, and its type where an `artifact.load` record of the log said it."""
    policy: str
    """Digest of the policy that the record was made under."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a policy becomes on the model of a record."""

    plan: Plan | None
    """None where the policy could not be compiled."""
    reason: str = ""
    """Why nothing can be decided; empty when it can."""
    unsure: Mapping[str, str] | None = None
    """By detector, why its readings in the record are not, or not surely, those of the plan's artifact."""
    same_policy: bool = False
    """Whether the record was made under this very policy."""


class Targets:
    """Compiles one policy for the models of records, each once.

    Args:
        policy: the policy that decides anew.
        store: where artifacts come from.
    """

    def __init__(self, policy: Policy, store: ArtifactStore) -> None:
        self._policy = policy
        self._store = store
        self.of = lru_cache(maxsize=MAX_MODELS)(self._target)
        """The target for one recorded model."""

    def _target(self, model: RecordedModel) -> Target:
        try:
            manifests = self._manifests(model)
            facts = _facts(model, manifests)
            plan = compile_plan(self._policy, facts, resolve_artifacts(self._policy, facts, self._store))
        except SteerguardError as error:
            return Target(
                plan=None, reason=f"the policy does not compile for its model ({error.code}: {error.summary})"
            )
        same = plan.policy_digest == model.policy
        found = {one.id: _doubt(one, model, manifests, same=same) for one in plan.detectors}
        return Target(plan=plan, unsure={name: why for name, why in found.items() if why}, same_policy=same)

    def _manifests(self, model: RecordedModel) -> dict[str, ArtifactManifest]:
        """Return the manifests of the record's artifacts that the store has, by digest."""
        wanted = {digest for digest, _ in model.artifacts}
        entries = [entry for entry in self._store.entries() if entry.digest in wanted]
        return {entry.digest: self._store.pin(entry).manifest for entry in entries}


def _facts(model: RecordedModel, manifests: Mapping[str, ArtifactManifest]) -> ModelFacts:
    """Return what a plan must know of the model; the sizes are 0 where no artifact of the record is known.

    A policy that needs artifacts then finds none that fits; one that needs none asks for no size.
    """
    base = next((manifest.base for manifest in manifests.values()), None)
    return ModelFacts(
        architecture=model.architecture,
        decoder="" if base is None else base.decoder,
        num_blocks=0 if base is None else base.num_blocks,
        hidden_size=0 if base is None else base.hidden_size,
        vocab_size=0 if base is None else base.vocab_size,
        modalities=("text",),
        dtype=model.dtype,
        tokenizer_sha256=None if base is None else base.tokenizer_sha256,
        chat_template_sha256=None if base is None else base.chat_template_sha256,
        name=model.name,
    )


def _doubt(
    detector: PlannedDetector, model: RecordedModel, manifests: Mapping[str, ArtifactManifest], *, same: bool
) -> str:
    """Return why a reading under the detector's name may be another's; empty where it is surely its own."""
    if detector.artifact.digest not in {digest for digest, _ in model.artifacts}:
        return f"the record lacks the artifact of detector `{detector.id}`, {detector.artifact.reference}"
    if same:
        return ""
    for digest, kind in model.artifacts:
        if digest == detector.artifact.digest or (kind is not None and kind != "probe"):
            continue
        manifest = manifests.get(digest)
        if manifest is None or _readable(manifest, detector.type):
            return f"the record does not say which of its artifacts the detector `{detector.id}` read"
    return ""


def _readable(manifest: ArtifactManifest, detector_type: str) -> bool:
    return manifest.type == "probe" and manifest.method == detector_type and answer_reading(manifest) is None
