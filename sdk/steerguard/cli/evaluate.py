"""`steerguard evaluate`: policies on prompt files, against the model without guidance. Loads torch only when it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerguard.cli.artifact_sources import LockOption, artifact_sources
from steerguard.cli.model_option import ModelOption
from steerguard.cli.registry_source import RegistryOption, TrustOption
from steerguard.errors import EvaluationError, SteerguardError
from steerguard.models.names import PACKAGED

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from steerguard.evaluate.inputs import EvaluationInputs
    from steerguard.evaluate.recording import Judge
    from steerguard.evaluate.result import Evaluation

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells expect it."""
_SPEC = "[NAME=]PATH[#COLUMN][+PREFILL_COLUMN][[START:STOP]]"

_Policies = Annotated[list[str], typer.Option("--policy", help="Shipped policy or file; may be repeated.")]
_Harmful = Annotated[
    list[str] | None, typer.Option("--harmful", metavar="SPEC", help=f"Prompts that should be refused: {_SPEC}.")
]
_Benign = Annotated[
    list[str] | None,
    typer.Option("--benign", metavar="SPEC", help="Prompts that should be answered; written likewise."),
]
_Out = Annotated[Path, typer.Option("--out", help="Folder for the result; an unfinished one is continued.")]
_Tokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Most new tokens per answer.")]
_Batch = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Most rows per batch; measured by default.", show_default=False),
]
_Type = Annotated[str, typer.Option("--dtype", help="Type of the weights: bfloat16, float16 or float32.")]
_References = Annotated[
    Path | None, typer.Option("--references", help="Refusal sentences to compare with, one per line.")
]
_Judge = Annotated[Path | None, typer.Option("--judge", help="Labelled answers that a harm judge is trained on.")]
_Harmless = Annotated[
    Path | None, typer.Option("--judge-harmless", help="Harmless answers of this model that the judge learns as well.")
]
_Perplexity = Annotated[bool, typer.Option("--perplexity", help="Rate every answer under the model without guidance.")]
_NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report.html.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")]


def evaluate(
    model: ModelOption,
    policy: _Policies,
    out: _Out,
    harmful: _Harmful = None,
    benign: _Benign = None,
    max_new_tokens: _Tokens = 32,
    batch_size: _Batch = None,
    dtype: _Type = "bfloat16",
    registry: RegistryOption = None,
    trust: TrustOption = None,
    lock: LockOption = None,
    references: _References = None,
    judge: _Judge = None,
    judge_harmless: _Harmless = None,
    *,
    perplexity: _Perplexity = False,
    no_report: _NoReport = False,
    as_json: _Json = False,
) -> None:
    """Answer every prompt without guidance and under each policy; write figures, rows and a report into a folder.

    A killed evaluation goes on where it stopped when the same command is run again.
    The folder holds prompts and answers in the clear.
    """
    from rich.console import Console

    try:
        parts = {**_read(policy, harmful or [], benign or [], references), **artifact_sources(registry, trust, lock)}
        trained = _judge(judge, judge_harmless)
        # From here on torch is loaded; what is wrong with a file was said before.
        from steerguard.evaluate.inputs import EvaluationInputs

        inputs = EvaluationInputs(
            model_name=model if model == PACKAGED else Path(model).resolve().name,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            judge=trained,
            perplexity=perplexity,
            **parts,
        )
        evaluation = _run(inputs, model, dtype, out, report=not no_report)
    except SteerguardError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo(f"Stopped. What is answered is kept in {out}: run the same command again to go on.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        from steerguard.evaluate.run import evaluation_bytes

        typer.echo(evaluation_bytes(evaluation), nl=False)
        return
    from steerguard.cli.evaluate_table import show

    show(Console(highlight=False), evaluation, out, report=not no_report)


def _read(policies: list[str], harmful: list[str], benign: list[str], references: Path | None) -> dict[str, Any]:
    """Read policies, prompts and references, by field of `EvaluationInputs`."""
    from steerguard.evaluate.prompt_files import read_prompts
    from steerguard.evaluate.prompt_spec import parse_specs
    from steerguard.evaluate.references import read_references
    from steerguard.policy.load import load_policy

    refused, answered = parse_specs(harmful, benign)
    return {
        "sets": (
            *(read_prompts(spec, "refuse") for spec in refused),
            *(read_prompts(spec, "answer") for spec in answered),
        ),
        "policies": tuple(load_policy(name) for name in policies),
        "references": () if references is None else read_references(references),
    }


def _judge(path: Path | None, harmless: Path | None) -> Judge | None:
    if path is None:
        if harmless is None:
            return None
        raise EvaluationError(
            "Harmless answers alone train no judge.", where="--judge-harmless", expected="--judge FILE beside it"
        )
    from steerguard.evaluate.judge import train_judge

    return train_judge(path, harmless_answers=harmless)


def _run(inputs: EvaluationInputs, model: str, dtype: str, out: Path, *, report: bool) -> Evaluation:
    with progress_bar() as told:
        told.note("loading the model")
        from steerguard.evaluate.run import evaluate as run_evaluation
        from steerguard.models.loading import load_named_model

        loaded, tokenizer = load_named_model(model, dtype)
        return run_evaluation(loaded, tokenizer, inputs, out, report=report, progress=told)


@contextmanager
def progress_bar() -> Iterator[Bar]:
    """Show one bar inside the block, on the error stream. All that is printed there goes to it: standard output holds the result."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False),
        transient=True,
    )
    # Loggers write to standard output unless the app says otherwise.
    with redirect_stdout(sys.stderr), bars:
        yield Bar(bars)


class Bar:
    """Shows an evaluation as one bar; the time left counts token positions."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID = bars.add_task("", total=None)

    def note(self, text: str) -> None:
        """Show what is being done."""
        self._bars.update(self._task, description=text)

    def start(self, total: int, done: int) -> None:
        """Begin to count; what was done before does not count as speed."""
        self._bars.reset(self._task, total=total, completed=done)

    def advance(self, units: int, text: str) -> None:
        """Move the bar."""
        self._bars.update(self._task, advance=units, description=text)
