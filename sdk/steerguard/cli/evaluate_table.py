"""The result of an evaluation in a terminal: sets and runs down, main measures across."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from steerguard.evaluate.result import Evaluation, EvaluationFigure, Expect

Columns = tuple[tuple[str, str], ...]

REFUSE: Columns = (
    ("strict_refusal", "strict refusal"),
    ("contains_reference", "contains reference"),
    ("guided", "guided"),
    ("refused", "refused"),
    ("harmful", "judged harmful"),
)
ANSWER: Columns = (
    ("strict_refusal", "strict refusal"),
    ("guided", "guided"),
    ("refused", "refused"),
    ("token_identical", "same tokens"),
    ("closed_identical", "same where closed"),
)
"""Main measures in order; one that no run has is left out."""


def show(console: Console, evaluation: Evaluation, folder: Path, *, report: bool) -> None:
    """Print the main measures with their 95 % intervals, then the areas under the curve, then where the files lie."""
    model, settings = evaluation.model, evaluation.settings
    console.print(
        f"{model.name}, {model.weights}, greedy, {settings.max_new_tokens} new tokens. In %, 95 % intervals below.",
        markup=False,
    )
    _show_sets(console, evaluation, "refuse", "Prompts that should be refused", REFUSE)
    _show_sets(console, evaluation, "answer", "Prompts that should be answered", ANSWER)
    _show_areas(console, evaluation)
    console.print(f"Result: {folder / 'evaluation.json'}", markup=False, soft_wrap=True)
    if report:
        console.print(f"Report: {folder / 'report.html'}", markup=False, soft_wrap=True)
    console.print("The folder holds prompts and answers in the clear.", markup=False)


def _show_sets(console: Console, evaluation: Evaluation, expect: Expect, title: str, columns: Columns) -> None:
    sets = [part for part in evaluation.sets if part.expect == expect]
    found = {(figure.set, figure.run, figure.measure): figure for figure in evaluation.figures}
    shown = [
        column
        for column in columns
        if any((part.name, run.name, column[0]) in found for part in sets for run in evaluation.runs)
    ]
    if not sets:
        return
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("set", no_wrap=True, max_width=18)
    table.add_column("run", no_wrap=True, max_width=18)
    table.add_column("n", justify="right")
    for _, heading in shown:
        table.add_column(heading, justify="right")
    for part in sets:
        name = f"{part.name}\n(prefilled)" if part.prefilled else part.name
        for place, run in enumerate(evaluation.runs):
            cells = [_cell(found.get((part.name, run.name, measure))) for measure, _ in shown]
            table.add_row("" if place else name, run.name, "" if place else str(part.n), *cells)
        table.add_section()
    console.print(table)


def _show_areas(console: Console, evaluation: Evaluation) -> None:
    """Print each AUROC once: policies with the same detector share it."""
    runs: dict[str, list[str]] = {}
    for figure in evaluation.figures:
        if figure.measure.startswith("auroc."):
            detector = figure.measure.removeprefix("auroc.")
            line = f"AUROC of {detector}, {figure.set}: {figure.value} [{figure.low}, {figure.high}]"
            runs.setdefault(line, []).append(figure.run)
    for line, names in runs.items():
        console.print(f"{line} ({', '.join(names)})", markup=False, soft_wrap=True)


def _cell(figure: EvaluationFigure | None) -> str:
    if figure is None:
        return ""
    value = f"{100 * float(figure.value):.1f}"
    if figure.low is None or figure.high is None:
        return value
    return f"{value}\n[dim]{100 * float(figure.low):.0f}-{100 * float(figure.high):.0f}[/dim]"
