"""A method on trial: any spec and binder under a real guard, beside a random probe that splits a batch of prompts."""

from __future__ import annotations

import importlib
import json
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from steerguard.artifacts.verify import verify_artifact
from steerguard.audit.log import AuditLog
from steerguard.audit.sinks import MemorySink
from steerguard.engine.program import bind_program
from steerguard.engine.rolling import watched_program
from steerguard.errors import UnsupportedPlanError
from steerguard.guidance.answer_watch import AnswerWatch
from steerguard.methods.catalog import method_named
from steerguard.models.chat import render
from steerguard.plan.compile import cost_of, planned_step
from steerguard.plan.resolve import resolve_reference
from steerguard.policy.load import parse_policy
from steerguard.registry.store import families_of, pinned_of
from steerguard.testing.guarantees import ACTS_OUTSIDE, broken
from steerguard.wrapping import unwrap, wrap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.guidance.intervention import Intervention
    from steerguard.methods.spec import GuidanceSpec
    from steerguard.models.facts import ModelFacts
    from steerguard.plan.plan import Mode, PlannedStep
    from steerguard.policy.document import Policy
    from steerguard.registry.store import ArtifactStore

    Binder = Callable[[PlannedStep, Mapping[str, VerifiedArtifact]], Sequence[Intervention | AnswerWatch]]

Side = Literal["left", "right"]
OPEN, CLOSED = -1e6, 1e6
"""Thresholds that open every gate, and none."""
STEP = "steer"
"""Id of the guidance entry of every trial."""
CONTENTS = ("hello there", "how to cook", "tell me a very long story about it", "x", "what is it", "zzzz", "abc", "go")
"""User turns of the batch that methods are tried on: of different lengths, so that there is padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One method on one model."""

    model: Any
    tokenizer: Any
    spec: GuidanceSpec
    bind: Binder
    detectors: ArtifactStore
    """Where the probe comes from that opens and closes the gates."""
    registry: ArtifactStore
    """Where the artifacts of the method come from."""
    facts: ModelFacts
    contents: tuple[str, ...] = CONTENTS

    def batch(self, side: Side = "left", rows: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Return the prompts, or those of the given rows, ready for `generate`."""
        chosen = range(len(self.contents)) if rows is None else rows
        turns = [[{"role": "user", "content": self.contents[row]}] for row in chosen]
        return render(self.tokenizer, turns, padding_side=side, device=self.model.device)

    @contextmanager
    def guarded(self, threshold: float, *, spec: GuidanceSpec | None = None, mode: Mode | None = None) -> Iterator[Any]:
        """Guard the model by the method, for rows that score at least the threshold; unwrap it afterwards.

        Raises:
            ConformanceError: what the binder returns is not what the footprint declares.
        """
        log = AuditLog.open(sink=MemorySink(), content="none")
        document = _stand_in(threshold, self.facts.modalities)
        wrapped = wrap(self.model, document, tokenizer=self.tokenizer, mode=mode, registry=self.detectors, audit=log)
        try:
            if mode is None:
                self._take_over(wrapped.guard, spec or self.spec)
            yield wrapped
        finally:
            unwrap(wrapped)
            log.close()

    def scores(self, batch: dict[str, Tensor]) -> list[float]:
        """Return what the probe reads for each row; nothing is changed."""
        with self.guarded(0.0, mode="monitor") as wrapped, wrapped.guard.collect() as decisions:
            wrapped.generate(**batch, max_new_tokens=1, do_sample=False, pad_token_id=self.pad)
        return [float(decision.readings[0].score or 0.0) for decision in decisions]

    @property
    def pad(self) -> int:
        """Id that finished rows are filled with."""
        found = getattr(self.tokenizer, "pad_token_id", None)
        return 0 if found is None else int(found)

    def threshold(self) -> float:
        """Return a threshold in the widest gap between scores that leaves at least two rows on either side."""
        scores = sorted(self.scores(self.batch()))
        least = min(2, len(scores) // 2)
        cut = max(range(least, len(scores) - least + 1), key=lambda index: scores[index] - scores[index - 1])
        return (scores[cut - 1] + scores[cut]) / 2

    def _take_over(self, guard: Any, spec: GuidanceSpec) -> None:
        """Put the method in the place of the one that the model was wrapped with."""
        engine = guard.engine
        needs = spec.artifact_needs()
        resolved = {
            need.reference: resolve_reference(need.reference, need.types, self.facts, self.registry) for need in needs
        }
        step = planned_step(spec, self.facts, resolved)
        pins = {need.role: resolved[need.reference].pin for need in needs}
        verified = {
            role: verify_artifact(self.registry.read(pin), pin.digest, where=pin.reference)
            for role, pin in pins.items()
        }
        plan = engine.program.plan
        plan = replace(plan, steps=(step,), cost=cost_of(plan.detectors, (step,), self.facts))
        bound = list(self.bind(step, verified))
        watches = tuple(item for item in bound if isinstance(item, AnswerWatch))
        acting = [item for item in bound if not isinstance(item, AnswerWatch)]
        try:
            program = watched_program(bind_program(plan, engine.program.probes, acting), watches)
        except UnsupportedPlanError as error:
            raise broken(
                6,
                f"`wrap` refuses what was bound: {error.summary.rstrip('.')}",
                expected=error.expected,
                found=error.found,
                where=error.where,
                next_step=error.next_step or ACTS_OUTSIDE,
            ) from error
        # A guard is never bound twice elsewhere, so it has no door for it.
        guard._engine = guard._policies._in_force = replace(engine, program=program)  # noqa: SLF001


def catalog_spec(name: str, settings: Mapping[str, Any], registry: ArtifactStore) -> GuidanceSpec:
    """Return the entry of a catalog method, with the artifact that the registry holds for it.

    Raises:
        UnknownMethodError: no method has that name.
        UnsupportedPlanError: the registry holds no artifact of the method.
    """
    method = method_named(name)
    entry = {"id": STEP, "method": name, "artifact": "any@^1", **settings}
    (need, *_) = method.spec.model_validate_json(json.dumps(entry)).artifact_needs()
    pins = (pin for family in families_of(registry) for pin in pinned_of(registry, family))
    pin = next(
        (pin for pin in pins if pin.manifest.type in need.types and pin.manifest.method in need.methods),
        None,
    )
    if pin is None:
        raise UnsupportedPlanError(
            f"The registry holds no artifact for method `{name}`.",
            expected=f"type {' or '.join(need.types)}, method {' or '.join(need.methods)}",
            found=", ".join(families_of(registry)),
            next_step="Add a random one to `tiny_registry`, or pass `registry`.",
        )
    entry["artifact"] = f"{pin.family}@{pin.version}"
    return method.spec.model_validate_json(json.dumps(entry))


def catalog_binder(name: str) -> Binder:
    """Return the binder of a catalog method.

    Raises:
        UnknownMethodError: no method has that name.
        UnsupportedPlanError: the method searches, and the guarantees are those of steering.
    """
    if method_named(name).searches:
        raise UnsupportedPlanError(
            f"Method `{name}` searches, and the guarantees here are those of methods that steer or read.",
            expected="a method that steers or reads one answer",
            found=name,
            next_step="Test a search on a tiny model, with a cost model of your own.",
        )
    executor = method_named(name).executor
    module, _, function = executor.partition(":")
    return cast("Binder", getattr(importlib.import_module(module), function))


def _stand_in(threshold: float, modalities: Sequence[str]) -> Policy:
    """Return a policy with one probe and one step, which the method on trial replaces."""
    text = f"""
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {{name: trial, version: 1.0.0, description: a method on trial, owner: steerguard.testing}}
target: {{modalities: [{", ".join(modalities)}]}}
detectors:
  - {{id: probe, type: linear_probe, artifact: harmful-intent@^1}}
guidance:
  - {{id: {STEP}, method: inferaligner, artifact: inferaligner@^1}}
rules:
  - id: split
    when: {{detector: probe, score: {{at_least: {{value: {torch.tensor(threshold).item():.9f}}}}}}}
    then: {{action: guide, use: [{STEP}]}}
default: {{action: allow}}
refusal: {{template: "I cannot help with that."}}
"""
    return parse_policy(text, file="trial.yaml")
