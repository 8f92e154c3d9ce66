"""A certificate measured: every prompt once under the policy, every answer judged, one bound. Resumable at every batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from steerguard.build.weight_types import weights_digest
from steerguard.canonical import digest
from steerguard.errors import EvaluationError
from steerguard.evaluate.answering import Answerer, EncodedSet
from steerguard.evaluate.batches import BatchJob, batch_jobs, length_batches
from steerguard.evaluate.certificate_document import (
    Certificate,
    CertifiedArtifact,
    CertifiedDecoding,
    CertifiedModel,
    CertifiedPolicy,
    CertifiedSet,
    CertifiedSubject,
    Independence,
    JudgeFacts,
    ViolationRate,
    rate_text,
    upper_bound_text,
)
from steerguard.evaluate.certificate_inputs import CertificateInputs, CertifiedPrompts, MeasuredJudge
from steerguard.evaluate.guarding import guarded
from steerguard.evaluate.independence import JudgeFiles, check_independence
from steerguard.evaluate.journal import Journal
from steerguard.evaluate.memory import memory_for
from steerguard.evaluate.progress import Progress, SilentProgress
from steerguard.evaluate.recording import RowMaker
from steerguard.evaluate.rows import EvaluatedRow
from steerguard.evaluate.run_settings import prepare_folder, require_same, store_settings, stored_settings
from steerguard.evaluate.training_texts import own_training_texts
from steerguard.plan.plan import Plan
from steerguard.plan.resolve import artifact_needs, resolve_artifacts
from steerguard.sourcing import open_sources
from steerguard.version import __version__


def certify(
    model: Any,
    tokenizer: Any,
    inputs: CertificateInputs,
    folder: Path,
    *,
    created: str,
    progress: Progress | None = None,
) -> Certificate:
    """Answer every prompt once under the policy, judge every answer, and return the statement.

    A folder that holds the same measurement, unfinished, is continued behind its last whole batch. Whatever fails
    raises: there is no certificate of a part.

    Args:
        model: the model without guidance; it is wrapped and unwrapped, and is plain again at the end.
        tokenizer: its tokenizer or processor.
        inputs: what to certify.
        folder: where rows are kept; it holds prompts and answers in the clear.
        created: time of the statement, `YYYY-MM-DDTHH:MM:SSZ`.
        progress: is told how far it is.

    Raises:
        EvaluationError: the policy does not act, judge or prompts were training data of what is measured, a judged
            probability is none, or the folder was begun with other settings.
        SteerguardError: the policy does not fit the model.
    """
    told = progress or SilentProgress()
    weights = weights_digest(model)
    prepare_folder(folder)
    with (
        Journal(folder) as journal,
        guarded(model, inputs.policy, tokenizer, inputs.registry, trust=inputs.trust, lock=inputs.lock) as wrapped,
    ):
        plan: Plan = wrapped.guard.plan
        told.note("checking policy, judge and prompts")
        independence = _independence(plan, inputs)
        encoded = {one.prompts.name: EncodedSet.of(one.prompts, tokenizer) for one in inputs.sets}
        _settle(folder, plan, weights, inputs, begun=not journal.empty, device=model.device.type)
        batches = {name: length_batches(one.lengths, inputs.batch_size) for name, one in encoded.items()}
        jobs = batch_jobs([plan.policy_name], batches)
        rows = journal.resume(jobs)
        answerer = Answerer(wrapped, tokenizer, inputs.max_new_tokens, inputs.decoding)
        units = [sum(len(encoded[job.set].ids[index]) + inputs.max_new_tokens for index in job.indices) for job in jobs]
        done = _whole_jobs(jobs, len(rows))
        told.start(sum(units), sum(units[:done]))
        for number in range(done, len(jobs)):
            rows += _answer(answerer, jobs[number], number, encoded[jobs[number].set], inputs, journal)
            told.advance(units[number], f"{plan.policy_name} · {jobs[number].set}")
    return Certificate(
        subject=_subject(plan, weights, inputs.model_name),
        predicate=_statement(rows, inputs, independence, device=model.device.type),
        created=created,
    )


def _independence(plan: Plan, inputs: CertificateInputs) -> Independence:
    if plan.mode != "enforce":
        raise EvaluationError(
            "Only a policy that acts can be certified.",
            where=f"mode of policy `{plan.policy_name}`",
            expected="enforce",
            found=plan.mode,
            next_step="Set mode: enforce.",
        )
    sourcing = open_sources(
        inputs.registry, trust=inputs.trust, lock=inputs.lock, references=artifact_needs(inputs.policy)
    )
    found = resolve_artifacts(inputs.policy, plan.model, sourcing.sources)
    pins = {artifact.pin.digest: artifact.pin for artifact in found.values()}
    absent = [artifact.reference for artifact in plan.artifacts if artifact.digest not in pins]
    if absent:
        raise EvaluationError(
            "The registry changed while a certificate was begun.",
            expected=", ".join(absent),
            found="another version",
            next_step="Run the same command again.",
        )
    manifests = [pins[artifact.digest].manifest for artifact in plan.artifacts]
    return check_independence(manifests, inputs.judge_files, [one.asked for one in inputs.sets], own_training_texts)


def _settle(folder: Path, plan: Plan, weights: str, inputs: CertificateInputs, *, begun: bool, device: str) -> None:
    """Write down what the rows are made with, or compare with what they were begun with."""
    asked = {
        "kind": "certificate",
        "plan": plan.digest,
        "model": {"name": inputs.model_name, "weights_digest": weights, "device": device},
        "sets": {one.prompts.name: one.prompts.described().model_dump(mode="json") for one in inputs.sets},
        "judge": {"identity": inputs.judge.identity, "threshold": f"{inputs.judge.threshold:.6f}"},
        "max_new_tokens": inputs.max_new_tokens,
        "temperature": inputs.temperature,
        "batch_size": inputs.batch_size,
        "seed": inputs.seed,
        "threads": torch.get_num_threads(),
        "versions": {"steerguard": __version__, **{name: version(name) for name in ("torch", "transformers")}},
    }
    stored = stored_settings(folder)
    if stored is not None and begun:
        require_same(folder, stored, asked)
    else:
        store_settings(folder, asked)


def _answer(
    answerer: Answerer, job: BatchJob, number: int, encoded: EncodedSet, inputs: CertificateInputs, journal: Journal
) -> list[EvaluatedRow]:
    with memory_for(len(job.indices), journal.path.parent, begun=not journal.empty), torch.random.fork_rng():
        # A seed of its own for each batch, so that a measurement that goes on draws what it would have drawn.
        torch.manual_seed(inputs.seed * 1_000_003 + number)
        batch = answerer.answer([encoded.ids[index] for index in job.indices], guarded=True)
        rows = RowMaker(inputs.judge, None, ()).rows(job, encoded.prompts, batch, ())
    if batch.decisions is None or len(batch.decisions) != len(job.indices):
        raise EvaluationError(
            "The guard made another number of decisions than there are answers.",
            where=f"set `{job.set}`",
            expected=len(job.indices),
            found=len(batch.decisions or ()),
        )
    modes = sorted({decision.mode for decision in batch.decisions} - {"enforce"})
    if modes:
        raise EvaluationError(
            "The guard did not act while a certificate was measured.", expected="mode enforce", found=", ".join(modes)
        )
    for row in rows:
        if row.harm is None or not 0.0 <= float(row.harm) <= 1.0:
            raise EvaluationError(
                "The judge gave an answer no probability.",
                where=f"set `{row.set}`, prompt {row.index}",
                expected="a number from 0 to 1",
                found=row.harm or "nothing",
            )
    journal.append(rows)
    return rows


def _statement(
    rows: Sequence[EvaluatedRow], inputs: CertificateInputs, independence: Independence, *, device: str
) -> ViolationRate:
    bad = {(row.set, row.index) for row in rows if float(row.harm or math.nan) >= inputs.judge.threshold}
    refused = {(row.set, row.index) for row in rows if row.applied == "refuse"}
    n = sum(len(one.prompts) for one in inputs.sets)
    if len({(row.set, row.index) for row in rows}) != n or len(rows) != n:
        raise EvaluationError(
            "Not every prompt has one answer.", expected=f"{n} answers", found=f"{len(rows)}", where="the journal"
        )
    ordered = sorted(rows, key=lambda row: (row.set, row.index))
    return ViolationRate(
        n=n,
        violations=len(bad),
        refusals=len(refused),
        violations_among_refusals=len(bad & refused),
        rate=rate_text(len(bad), n),
        confidence=inputs.confidence,
        upper_bound=upper_bound_text(len(bad), n, inputs.confidence),
        sets=tuple(_described(one, bad, refused) for one in inputs.sets),
        judge=_judge_facts(inputs.judge, inputs.judge_files),
        decoding=CertifiedDecoding(
            mode="greedy" if inputs.temperature is None else "sampling",
            temperature=inputs.temperature,
            max_new_tokens=inputs.max_new_tokens,
            batch_size=inputs.batch_size,
            threads=torch.get_num_threads(),
            device=device,
            seed=inputs.seed,
        ),
        answers_sha256=digest([[row.set, row.index, row.token_ids_sha256, row.harm] for row in ordered]),
        independence=independence,
    )


def _described(one: CertifiedPrompts, bad: set[tuple[str, int]], refused: set[tuple[str, int]]) -> CertifiedSet:
    described = one.prompts.described()
    return CertifiedSet(
        name=described.name,
        n=described.n,
        repeated=one.repeated,
        sha256=described.sha256,
        file_sha256=one.file_sha256,
        prefilled=described.prefilled,
        violations=sum(name == described.name for name, _ in bad),
        refusals=sum(name == described.name for name, _ in refused),
    )


def _judge_facts(judge: MeasuredJudge, files: JudgeFiles) -> JudgeFacts:
    quality = judge.quality
    flagged = quality.harmless_flagged
    return JudgeFacts(
        identity=judge.identity,
        threshold=f"{judge.threshold:.6f}",
        rows=files.rows,
        labelled_sha256=files.labelled_sha256,
        harmless_sha256=files.harmless_sha256,
        labelled_n=quality.n,
        auroc=f"{quality.auroc:.6f}",
        auroc_beginning=f"{quality.auroc_beginning:.6f}",
        balanced_accuracy=f"{quality.balanced_accuracy:.6f}",
        balanced_accuracy_beginning=f"{quality.balanced_accuracy_beginning:.6f}",
        harmless_flagged=None if flagged is None else f"{flagged:.6f}",
    )


def _subject(plan: Plan, weights: str, name: str) -> CertifiedSubject:
    facts = plan.model
    return CertifiedSubject(
        model=CertifiedModel(
            name=name,
            architecture=facts.architecture,
            decoder=facts.decoder,
            num_blocks=facts.num_blocks,
            hidden_size=facts.hidden_size,
            weights=facts.dtype,
            weights_digest=weights,
            tokenizer_sha256=facts.tokenizer_sha256,
            chat_template_sha256=facts.chat_template_sha256,
        ),
        policy=CertifiedPolicy(
            name=plan.policy_name,
            version=plan.policy_version,
            digest=plan.policy_digest,
            plan_digest=plan.digest,
            mode="enforce",
        ),
        artifacts=tuple(
            CertifiedArtifact(reference=artifact.reference, type=artifact.type, digest=artifact.digest)
            for artifact in plan.artifacts
        ),
    )


def _whole_jobs(jobs: Sequence[BatchJob], rows: int) -> int:
    """Return how many whole jobs so many rows are."""
    done = 0
    while rows > 0:
        rows -= len(jobs[done].indices)
        done += 1
    return done
