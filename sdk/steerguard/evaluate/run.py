"""An evaluation from prompts to figures: without guidance first, then under each policy, resumable at every batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from steerguard.canonical import canonical_bytes
from steerguard.evaluate.answering import Answerer, EncodedSet
from steerguard.evaluate.batches import BatchJob, batch_jobs, length_batches
from steerguard.evaluate.durable import write_whole
from steerguard.evaluate.figures import FigureSettings, all_figures, all_scores
from steerguard.evaluate.guarding import guarded, require_planned
from steerguard.evaluate.inputs import EvaluationInputs, Prepared, prepare
from steerguard.evaluate.journal import Journal
from steerguard.evaluate.memory import memory_for
from steerguard.evaluate.progress import Progress, SilentProgress
from steerguard.evaluate.recording import PlainPasses, RowMaker
from steerguard.evaluate.result import UNGUIDED, Evaluation
from steerguard.evaluate.rows import EvaluatedRow
from steerguard.evaluate.run_settings import prepare_folder
from steerguard.evaluate.speed import SpeedMeter
from steerguard.policy.document import Policy
from steerguard.version import __version__

Renderer = Callable[[Evaluation, Iterable[EvaluatedRow]], str]

RESULT_FILE = "evaluation.json"
REPORT_FILE = "report.html"


def evaluate(
    model: Any,
    tokenizer: Any,
    inputs: EvaluationInputs,
    folder: Path,
    *,
    report: bool = True,
    progress: Progress | None = None,
) -> Evaluation:
    """Answer every prompt without guidance and under each policy, and write figures, rows and report into a folder.

    A folder that holds the same evaluation, unfinished, is continued behind its last whole batch.

    Args:
        model: the model without guidance; it is wrapped and unwrapped, and is plain again at the end.
        tokenizer: its tokenizer or processor.
        inputs: what to evaluate.
        folder: where everything goes; it holds prompts and answers in the clear.
        report: whether to write `report.html`.
        progress: is told how far it is.

    Raises:
        SteerguardError: a policy does not fit the model, or the folder holds another evaluation.
    """
    told = progress or SilentProgress()
    # Loaded now: a report that cannot be written must not be found out after hours of answering.
    render = _renderer() if report else None
    prepare_folder(folder)
    with Journal(folder) as journal:
        speed = SpeedMeter(folder)
        prepared = prepare(model, tokenizer, inputs, folder, speed=speed, note=told.note, begun=not journal.empty)
        batches = {
            name: length_batches(encoded.lengths, prepared.settings.batch_size)
            for name, encoded in prepared.sets.items()
        }
        jobs = batch_jobs([run.name for run in prepared.runs], batches)
        rows = journal.resume(jobs)
        session = _Session(model, tokenizer, inputs, prepared, journal, speed, told)
        try:
            rows += session.answer(jobs, rows)
        finally:
            speed.write()
        told.note("computing figures")
        grouped = _grouped(rows)
        evaluation = _evaluation(prepared, inputs, grouped)
        _write_results(folder, evaluation, grouped, render)
    return evaluation


class _Session:
    """One start of an evaluation."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        inputs: EvaluationInputs,
        prepared: Prepared,
        journal: Journal,
        speed: SpeedMeter,
        progress: Progress,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._inputs = inputs
        self._prepared = prepared
        self._journal = journal
        self._speed = speed
        self._progress = progress
        self._answerer = Answerer(model, tokenizer, prepared.settings.max_new_tokens)

    def answer(self, jobs: Sequence[BatchJob], known: Sequence[EvaluatedRow]) -> list[EvaluatedRow]:
        """Answer and record what is not recorded yet; return the new rows."""
        left = list(jobs[_recorded(jobs, len(known)) :])
        units = {job: self._units(job) for job in jobs}
        total = sum(units.values())
        self._progress.start(total, total - sum(units[job] for job in left))
        policies = {policy.metadata.name: policy for policy in self._inputs.policies}
        planned = {run.name: run.plan_digest for run in self._prepared.runs}
        makers = RowMaker(self._inputs.judge, self._plain_passes(), known)
        rows: list[EvaluatedRow] = []
        for run, of_run in groupby(left, key=lambda job: job.run):
            with ExitStack() as stack:
                if run != UNGUIDED:
                    wrapped = stack.enter_context(self._guarded(policies[run]))
                    require_planned(wrapped.guard.plan, planned[run])
                for job in of_run:
                    rows += self._answer_batch(job, makers)
                    self._progress.advance(units[job], f"{run} · {job.set}")
        return rows

    def _guarded(self, policy: Policy) -> AbstractContextManager[Any]:
        given = self._inputs
        return guarded(self._model, policy, self._tokenizer, given.registry, trust=given.trust, lock=given.lock)

    def _answer_batch(self, job: BatchJob, makers: RowMaker) -> list[EvaluatedRow]:
        start = time.perf_counter()
        encoded = self._prepared.sets[job.set]
        with memory_for(len(job.indices), self._journal.path.parent, begun=not self._journal.empty):
            batch = self._answerer.answer([encoded.ids[index] for index in job.indices], guarded=job.run != UNGUIDED)
            rows = makers.rows(job, encoded.prompts, batch, self._prepared.detectors[job.run])
        self._journal.append(rows)
        self._speed.add(
            job.run,
            job.set,
            rows=len(rows),
            tokens=sum(map(len, batch.ids)),
            generate_seconds=batch.generate_seconds,
            seconds=time.perf_counter() - start,
        )
        return rows

    def _units(self, job: BatchJob) -> int:
        encoded: EncodedSet = self._prepared.sets[job.set]
        longest = max(len(encoded.ids[index]) for index in job.indices)
        return len(job.indices) * (longest + self._prepared.settings.max_new_tokens)

    def _plain_passes(self) -> PlainPasses | None:
        if not self._inputs.perplexity:
            return None
        from steerguard.evaluate.perplexity import answer_perplexity  # noqa: PLC0415  needed only when asked for

        size = self._prepared.settings.batch_size
        return PlainPasses(
            model=UNGUIDED,
            perplexity=lambda chats, prefills, ids: answer_perplexity(
                self._model, self._tokenizer, chats, prefills, ids, batch_size=size
            ),
            permission=self._plain_permission,
            without_end=self._answerer.without_end,
        )

    def _plain_permission(self) -> AbstractContextManager[object]:
        guard = getattr(self._model, "guard", None)
        return (
            nullcontext() if guard is None else guard.unguided("perplexity of answers under the model without guidance")
        )


def _recorded(jobs: Sequence[BatchJob], rows: int) -> int:
    """Return how many whole jobs so many rows are."""
    done = 0
    while rows > 0:
        rows -= len(jobs[done].indices)
        done += 1
    return done


def _grouped(rows: Sequence[EvaluatedRow]) -> dict[tuple[str, str], list[EvaluatedRow]]:
    """Return the rows by run and set, in the order of the prompts."""
    groups: dict[tuple[str, str], list[EvaluatedRow]] = {}
    for row in rows:
        groups.setdefault((row.run, row.set), []).append(row)
    return {key: sorted(group, key=lambda row: row.index) for key, group in groups.items()}


def _evaluation(
    prepared: Prepared, inputs: EvaluationInputs, rows: Mapping[tuple[str, str], Sequence[EvaluatedRow]]
) -> Evaluation:
    sets = tuple(encoded.prompts.described() for encoded in prepared.sets.values())
    settings = FigureSettings(
        references=prepared.references,
        judge_threshold=None if inputs.judge is None else float(inputs.judge.threshold),
        seed=prepared.settings.seed,
    )
    return Evaluation(
        steerguard=__version__,
        model=prepared.model,
        settings=prepared.settings,
        sets=sets,
        runs=prepared.runs,
        figures=all_figures(rows, prepared.runs, sets, settings),
        scores=all_scores(rows, prepared.runs, sets),
    )


def evaluation_bytes(evaluation: Evaluation) -> bytes:
    """Return the canonical form of the result, as `evaluation.json` holds it."""
    return canonical_bytes(evaluation.model_dump(mode="json", by_alias=True)) + b"\n"


def _renderer() -> Renderer:
    """Return what draws the report.

    Raises:
        SteerguardError: a package of the extra `eval` is not installed.
    """
    from steerguard.evaluate.plots import needs_extra  # noqa: PLC0415  needed only when a report is written
    from steerguard.evaluate.report import render_report  # noqa: PLC0415  as above

    for package in ("jinja2", "matplotlib"):
        if find_spec(package) is None:
            raise needs_extra(package)
    return render_report


def _write_results(
    folder: Path,
    evaluation: Evaluation,
    rows: Mapping[tuple[str, str], Sequence[EvaluatedRow]],
    render: Renderer | None,
) -> None:
    if render is not None:
        page = render(evaluation, (row for group in rows.values() for row in group))
        write_whole(folder / REPORT_FILE, page.encode("utf-8"))
    # Last, so that a folder with a result is a finished one.
    write_whole(folder / RESULT_FILE, evaluation_bytes(evaluation))
