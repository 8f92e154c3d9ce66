"""`steerguard audit stats`: what the records come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from steerguard.cli.audit_answer import USAGE, print_document
from steerguard.cli.audit_options import AsJson, LogPath, PinnedCheckpoints, PinnedKeys, pins_of
from steerguard.cli.audit_reading import Since, Until, exit_code, read, when
from steerguard.cli.audit_table import print_table
from steerguard.cli.reporting import reported
from steerguard.cli.visible import say

By = Annotated[
    Literal["day", "policy", "model", "tenant", "rule"] | None,
    typer.Option(help="Also a line for each of these.", show_default=False),
]

_COUNTED = (
    ("types", "records"),
    ("outcomes", "decisions, intended → applied"),
    ("causes", "decisions by cause"),
    ("rules", "decisions by matched rule"),
    ("modes", "decisions by mode"),
    ("policies", "decisions by policy"),
    ("models", "decisions by model"),
    ("budgets", "decisions by budget"),
    ("budget_exceeded", "limits reached"),
    ("bypasses", "bypasses"),
    ("errors", "errors"),
    ("error_stages", "errors by stage"),
    ("row_errors", "decisions with an error"),
    ("rejections", "policies and artifacts not taken"),
    ("revocations", "revocations"),
    ("calls", "requests by call"),
)
"""Key in the document, and the heading."""


def stats(
    path: LogPath,
    *,
    since: Since = None,
    until: Until = None,
    by: By = None,
    as_json: AsJson = False,
    keys: PinnedKeys = None,
    checkpoints: PinnedCheckpoints = None,
) -> None:
    """Count what verified: actions, causes, rules, scores, cost, bypasses and errors.

    Exit status as for `verify`. Shares come with 95 % Wilson intervals. Quantiles are off by at most one per cent.
    """
    with reported(USAGE):
        from steerguard.audit.reading.selection import Selection
        from steerguard.audit.reading.stats import Totals

        chosen = Selection(since=when(since), until=when(until))
        totals = Totals(by)

        def count(record: dict[str, Any]) -> None:
            if chosen.admits(record):
                totals.add(record)

        report = read(path, pins_of(keys, checkpoints), count)
    document = totals.document()
    if as_json:
        print_document(document)
    else:
        _print(document)
    raise typer.Exit(exit_code(report, misfits=totals.misfits))


def _print(document: Mapping[str, Any]) -> None:
    typer.echo(
        f"{document['records']} records"
        + (f", {document['first_t']} to {document['last_t']}" if document["records"] else "")
    )
    typer.echo(
        f"{document['decisions']} decisions: {_share(document['refused'])} refused, {_share(document['guided'])} guided"
    )
    typer.echo(
        f"tokens: {document['prompt_tokens']} of prompts, {document['generated_tokens']} generated, "
        f"{document['extra_forward_tokens']['total']:.0f} extra forward tokens"
    )
    if document["announced"]:
        typer.echo(f"{document['announced']} more were recorded before a streamed answer; the complete records count")
    if document["torn_bytes"]:
        typer.echo(f"{document['torn_bytes']} bytes were set aside by recovery")
    for key, heading in _COUNTED:
        if document[key]:
            typer.echo(f"{heading}:")
            for name, number in document[key].items():
                say(f"  {number:>9}  {name}")
    _print_quantiles(document)
    if document.get("groups"):
        _print_groups(document)


def _print_quantiles(document: Mapping[str, Any]) -> None:
    rows = {
        **{f"score {source}": scores for source, scores in document["scores"].items()},
        "extra forward tokens of a decision": document["extra_forward_tokens"],
        "duration of a request, ms": _in_ms(document["duration_us"]),
        "of that the guard's, ms": _in_ms(document["guard_us"]),
    }
    quantiles = ("least", "median", "p95", "p99", "greatest")
    cells = [
        (name, str(numbers["count"]), *(f"{numbers[key]:.4g}" for key in quantiles))
        for name, numbers in rows.items()
        if numbers["count"]
    ]
    if cells:
        print_table(("", "count", *quantiles), cells, numbers=True)
        typer.echo(f"Median, p95 and p99 are off by at most {document['quantile_error']:.0%} of themselves.")


def _print_groups(document: Mapping[str, Any]) -> None:
    headings = ("decisions", "refused", "guided", "extra tokens", "requests", "p95 ms", "bypasses", "errors")
    rows = [
        (
            name,
            str(group["decisions"]),
            _share(group["refused"]),
            _share(group["guided"]),
            f"{group['extra_forward_tokens']['total']:.0f}",
            str(group["duration_us"]["count"]),
            "-" if (p95 := _in_ms(group["duration_us"])["p95"]) is None else f"{p95:.4g}",
            str(sum(group["bypasses"].values())),
            str(sum(group["errors"].values())),
        )
        for name, group in document["groups"].items()
    ]
    print_table((document["by"], *headings), rows, numbers=True)


def _share(share: Mapping[str, Any]) -> str:
    if not share["of"]:
        return "0"
    return f"{share['count']} ({share['share']:.1%}, 95 % {share['low']:.1%} to {share['high']:.1%})"


def _in_ms(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value / 1000 if isinstance(value, int | float) and key != "count" else value
        for key, value in numbers.items()
    }
