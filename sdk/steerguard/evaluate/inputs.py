"""What is evaluated on what, and everything that must be settled before the first answer."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from steerguard.build.weight_types import weights_digest
from steerguard.canonical import digest
from steerguard.evaluate.answering import EncodedSet
from steerguard.evaluate.guarding import check_policies, described_run, guarded
from steerguard.evaluate.memory import memory_for
from steerguard.evaluate.prompt_files import PromptSet
from steerguard.evaluate.recording import Judge
from steerguard.evaluate.result import UNGUIDED, EvaluatedModel, EvaluatedRun, EvaluationSettings
from steerguard.evaluate.run_settings import require_same, store_settings, stored_settings
from steerguard.evaluate.speed import SpeedMeter
from steerguard.evaluate.throughput import find_batch_size
from steerguard.methods.bounds import decimal_text
from steerguard.models.inspect import inspect_model
from steerguard.policy.document import Policy
from steerguard.registry.lockfile import Lockfile
from steerguard.registry.store import ArtifactStore
from steerguard.trust.document import TrustPolicy
from steerguard.version import __version__

PERPLEXITY_MODELS = (UNGUIDED,)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationInputs:
    """What to evaluate, and how."""

    model_name: str
    """What the result calls the model."""
    sets: tuple[PromptSet, ...]
    """At least one; names differ."""
    policies: tuple[Policy, ...]
    max_new_tokens: int = 32
    batch_size: int | None = None
    """Most rows per batch; None measures which size answers fastest."""
    references: tuple[str, ...] = ()
    """Refusal sentences that answers are compared with; empty takes the policies' refusal templates."""
    judge: Judge | None = None
    perplexity: bool = False
    """Whether the model without guidance rates every answer."""
    registry: ArtifactStore | Path | str | None = None
    """Where artifacts come from, as for `wrap`; None is the embedded registry."""
    trust: TrustPolicy | None = None
    """Whose signatures count; needed for registries on the Hub."""
    lock: Lockfile | None = None
    """What artifacts are pinned to; needed for registries on the Hub in mode `enforce`."""
    seed: int = 0
    """Of the bootstrap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A settled evaluation."""

    model: EvaluatedModel
    settings: EvaluationSettings
    runs: tuple[EvaluatedRun, ...]
    """Without guidance first."""
    detectors: Mapping[str, tuple[str, ...]]
    """By run, the ids of the policy's detectors."""
    references: tuple[str, ...]
    sets: Mapping[str, EncodedSet]


def prepare(
    model: Any,
    tokenizer: Any,
    inputs: EvaluationInputs,
    folder: Path,
    *,
    speed: SpeedMeter,
    note: Callable[[str], None],
    begun: bool,
) -> Prepared:
    """Check that everything fits together, settle the batch size, and compare with what the folder was begun with.

    Every policy is bound once before anything is answered, so that one that does not fit is known in the first seconds.

    Args:
        model: the model without guidance.
        tokenizer: its tokenizer or processor.
        inputs: what to evaluate.
        folder: of the evaluation; it is locked.
        speed: takes what the search of the batch size measured.
        note: is told what is being done.
        begun: whether rows are recorded; before that another batch size may be asked for.

    Raises:
        SteerguardError: a policy does not fit the model, or the folder was begun with other settings.
    """
    check_policies(inputs.policies)
    note("checking policies and artifacts")
    runs = [EvaluatedRun(name=UNGUIDED)]
    detectors: dict[str, tuple[str, ...]] = {UNGUIDED: ()}
    templates: list[str] = []
    for policy in inputs.policies:
        with guarded(model, policy, tokenizer, inputs.registry, trust=inputs.trust, lock=inputs.lock) as wrapped:
            plan = wrapped.guard.plan
        runs.append(described_run(plan))
        detectors[plan.policy_name] = tuple(detector.id for detector in plan.detectors)
        templates.append(plan.refusal_template)
    references = inputs.references or tuple(dict.fromkeys(templates))
    note("encoding prompts")
    sets = {prompts.name: EncodedSet.of(prompts, tokenizer) for prompts in inputs.sets}
    stored = stored_settings(folder)
    if stored is not None:
        # Arithmetic may depend on the number of threads, so every start takes that of the first.
        torch.set_num_threads(stored["threads"])
    batch_size = inputs.batch_size or (stored or {}).get("batch_size")
    if batch_size is None:
        note("measuring which batch size answers fastest")
        with memory_for(1, folder, begun=False):
            batch_size = _measured_size(model, tokenizer, inputs, sets, speed)
    libraries = ("torch", "transformers", "numpy", *(("scikit-learn",) if inputs.judge is not None else ()))
    described = _described_model(model, tokenizer, inputs.model_name)
    settings = EvaluationSettings(
        max_new_tokens=inputs.max_new_tokens,
        batch_size=batch_size,
        threads=torch.get_num_threads(),
        decoding="greedy",
        seed=inputs.seed,
        judge=None if inputs.judge is None else inputs.judge.identity,
        judge_threshold=None if inputs.judge is None else decimal_text(float(inputs.judge.threshold)),
        references_sha256=digest(list(references)),
        perplexity_models=PERPLEXITY_MODELS if inputs.perplexity else (),
    )
    asked = {
        **settings.model_dump(mode="json"),
        "device": model.device.type,
        "device_name": _device_name(model.device),
        "model": {**described.model_dump(mode="json"), "weights_digest": weights_digest(model)},
        "policies": {run.name: run.model_dump(mode="json") for run in runs if run.name != UNGUIDED},
        "runs": [run.name for run in runs],
        "set_order": list(sets),
        "sets": {name: encoded.prompts.described().model_dump(mode="json") for name, encoded in sets.items()},
        "versions": {"steerguard": __version__, **{name: version(name) for name in libraries}},
    }
    if stored is not None:
        require_same(folder, stored if begun else {**stored, "batch_size": batch_size}, asked)
    if stored is None or stored["batch_size"] != batch_size:
        store_settings(folder, asked)
    return Prepared(
        model=described, settings=settings, runs=tuple(runs), detectors=detectors, references=references, sets=sets
    )


def _measured_size(
    model: Any, tokenizer: Any, inputs: EvaluationInputs, sets: Mapping[str, EncodedSet], speed: SpeedMeter
) -> int:
    start = time.perf_counter()
    size, trials = find_batch_size(model, tokenizer, [encoded.ids for encoded in sets.values()], inputs.max_new_tokens)
    speed.searched(
        time.perf_counter() - start,
        [{"size": trial.size, "tokens_per_second": round(trial.tokens_per_second, 2)} for trial in trials],
    )
    return size


def _device_name(device: torch.device) -> str:
    """Return what the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except (OSError, UnicodeDecodeError):
        names = []
    return next(iter(names), "") or platform.processor() or platform.machine()


def _described_model(model: Any, tokenizer: Any, name: str) -> EvaluatedModel:
    facts = inspect_model(model, tokenizer)
    return EvaluatedModel(
        name=name,
        architecture=facts.architecture,
        num_blocks=facts.num_blocks,
        hidden_size=facts.hidden_size,
        weights=facts.dtype,
        tokenizer_sha256=facts.tokenizer_sha256 or "",
    )
