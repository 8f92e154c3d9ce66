"""Vetting an artifact on a model: static checks, the suite, the verdict. Nothing is written here and nothing is signed."""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from steerguard.artifacts.vetting import (
    VettedModel,
    VettingEnvironment,
)
from steerguard.build.weight_types import weights_digest
from steerguard.errors import EvaluationError
from steerguard.evaluate.guarding import guarded
from steerguard.evaluate.inputs import EvaluationInputs
from steerguard.evaluate.journal import read_rows
from steerguard.evaluate.progress import Progress, SilentProgress
from steerguard.evaluate.prompt_files import PromptSet
from steerguard.evaluate.result import UNGUIDED
from steerguard.evaluate.rows import EvaluatedRow
from steerguard.evaluate.run import evaluate
from steerguard.models.facts import ModelFacts
from steerguard.models.inspect import inspect_model
from steerguard.policy.document import Policy
from steerguard.registry.store import ArtifactStore
from steerguard.version import __version__
from steerguard.vetting.figures import MeasuredFigure, overhead_figure, set_figures
from steerguard.vetting.load_suite import LoadedSuite, policy_for, read_set
from steerguard.vetting.overlay import Overlay, VettedArtifact, require_used
from steerguard.vetting.static_checks import StaticFindings, static_checks
from steerguard.vetting.suite import SuiteCase, SuiteSet
from steerguard.vetting.timing import timed_pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class VettingJob:
    """What to vet, and how."""

    artifact: VettedArtifact
    suite: LoadedSuite
    base: ArtifactStore
    """Where the other artifacts of the suite's policies come from."""
    model_name: str
    """What the record calls the model."""
    level: int
    """1: static checks only; 2: the suite as well; 3: the same, run independently of the publisher."""
    sets: tuple[str, ...] | None = None
    """Names of the suite's sets to measure on, the one of its overhead among them; None is every set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vetted:
    """What was found."""

    level: int
    static: StaticFindings
    figures: tuple[MeasuredFigure, ...]
    """Empty where a static check failed."""
    case: SuiteCase | None
    environment: VettingEnvironment
    policy: Policy | None


def vet(job: VettingJob, model: Any, tokenizer: Any, *, progress: Progress | None = None) -> Vetted:
    """Carry out the checks and the suite.

    A failed static check ends it: an artifact that is damaged or bound to another model is not run.

    Args:
        job: what to vet, and how.
        model: plain, not wrapped; it is plain again at the end.
        tokenizer: its tokenizer, with a chat template.
        progress: is told how far it is.

    Raises:
        EvaluationError: the suite has no policy for the artifact, its prompts differ, or its policy does not use the
            artifact.
        SteerguardError: as `steerguard.wrap`.
    """
    told = progress or SilentProgress()
    facts = inspect_model(model, tokenizer)
    # Before anything that takes minutes: a suite that cannot judge this artifact.
    case = job.suite.suite.case_for(job.artifact.manifest) if job.level >= 2 else None
    policy = None if case is None else policy_for(case, job.artifact.manifest, where=str(job.suite.path))
    sets = () if case is None else tuple(read_set(job.suite, one) for one in _asked(job))
    told.note("static checks")
    static = static_checks(job.artifact, model, tokenizer, facts)
    figures: tuple[MeasuredFigure, ...] = ()
    if policy is not None and static.passed:
        figures = _figures(job, policy, sets, model, tokenizer, told)
    return Vetted(
        level=job.level if static.passed else min(job.level, 1),
        static=static,
        figures=figures,
        case=case,
        environment=_environment(job, model, facts, static),
        policy=policy,
    )


def _figures(
    job: VettingJob, policy: Policy, sets: Sequence[PromptSet], model: Any, tokenizer: Any, told: Progress
) -> tuple[MeasuredFigure, ...]:
    suite, registry = job.suite.suite, Overlay(job.base, job.artifact)
    with guarded(model, policy, tokenizer, registry) as wrapped:
        require_used(wrapped.guard.plan, job.artifact.digest, job.artifact.manifest.reference)
    inputs = EvaluationInputs(
        model_name=job.model_name,
        sets=tuple(sets),
        policies=(policy,),
        max_new_tokens=suite.settings.max_new_tokens,
        batch_size=suite.settings.batch_size,
        perplexity=True,
        registry=registry,
        seed=suite.settings.seed,
    )
    # The rows hold prompts and answers in the clear, so they go when the figures are made.
    with tempfile.TemporaryDirectory(prefix="steerguard-vet-") as work:
        folder = Path(work) / "evaluation"
        evaluate(model, tokenizer, inputs, folder, report=False, progress=told)
        rows = list(read_rows(folder))
    figures = [
        figure
        for one in _asked(job)
        for figure in set_figures(
            one.expect,
            _of(rows, policy.metadata.name, one.name),
            _of(rows, UNGUIDED, one.name),
            seed=suite.settings.seed,
        )
    ]
    told.note("comparing seconds")
    timed = suite.overhead
    pairs = timed_pairs(
        model,
        tokenizer,
        policy,
        registry,
        {prompts.name: prompts for prompts in sets}[timed.set],
        rows=timed.rows,
        rounds=timed.rounds,
        max_new_tokens=suite.settings.max_new_tokens,
    )
    return (*figures, overhead_figure(timed.set, pairs, seed=suite.settings.seed))


def _asked(job: VettingJob) -> tuple[SuiteSet, ...]:
    return tuple(one for one in job.suite.suite.sets if job.sets is None or one.name in job.sets)


def _of(rows: Sequence[EvaluatedRow], run: str, name: str) -> list[EvaluatedRow]:
    return sorted((row for row in rows if row.run == run and row.set == name), key=lambda row: row.index)


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _environment(job: VettingJob, model: Any, facts: ModelFacts, static: StaticFindings) -> VettingEnvironment:
    if facts.tokenizer_sha256 is None:
        raise EvaluationError(
            "Vetting needs the model's tokenizer.", expected="a tokenizer with a chat template", found="none"
        )
    return VettingEnvironment(
        sdk=__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=version("transformers"),
        platform=f"{sys.platform} {platform.machine()}, {_device(model.device)}",
        threads=torch.get_num_threads(),
        model=VettedModel(
            repo=job.model_name,
            weights=facts.dtype,
            weights_digest=weights_digest(model),
            tokenizer_sha256=facts.tokenizer_sha256,
            fingerprint_distance=static.fingerprint_distance,
        ),
    )
