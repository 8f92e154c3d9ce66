"""`steerguard audit report`: a page and a document on what the guard did, and on what of it can be relied on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from steerguard.cli.audit_answer import USAGE, write_file
from steerguard.cli.audit_options import LogPath, PinnedCheckpoints, PinnedKeys, pins_of
from steerguard.cli.audit_reading import Since, Until, exit_code, read, when
from steerguard.cli.reporting import reported
from steerguard.cli.visible import ascii_json, say

Page = Annotated[Path | None, typer.Option("--html", help="Write the page to this file.", show_default=False)]
Figures = Annotated[
    Path | None,
    typer.Option(
        "--json",
        help="Write the figures to this file, or print them for `-`. Printed without --html.",
        show_default=False,
    ),
]
Framework = Annotated[
    Literal["eu-ai-act", "iso-42001", "nist-ai-rmf", "soc2", "gdpr", "all"],
    typer.Option(help="Whose requirements the fields and commands are held against."),
]


def report(
    path: LogPath,
    *,
    since: Since = None,
    until: Until = None,
    html: Page = None,
    as_json: Figures = None,
    framework: Framework = "all",
    keys: PinnedKeys = None,
    checkpoints: PinnedCheckpoints = None,
) -> None:
    """Report what the guard did: volume, actions, scores, overhead, changes, errors.

    Exit status as for `verify`. Only records that verify count. The page is one file that loads nothing.
    """
    with reported(USAGE):
        from steerguard.audit.reading.selection import Selection
        from steerguard.audit.reporting.figures import Figures
        from steerguard.audit.reporting.report import page_of, report_on

        figures = Figures(Selection(since=when(since), until=when(until)))
        checked = read(path, pins_of(keys, checkpoints), figures.add)
        document = report_on(
            checked,
            figures,
            generated=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
            framework=None if framework == "all" else framework,
        )
        printed = str(as_json) == "-" or (as_json is None and html is None)
        text = ascii_json(document, indent=2)
        if printed:
            typer.echo(text)
        elif as_json is not None:
            _write(as_json, f"{text}\n")
        if html is not None:
            _write(html, page_of(document))
    raise typer.Exit(exit_code(checked, misfits=figures.totals.misfits))


def _write(file: Path, text: str) -> None:
    write_file(file, text.encode("utf-8"))
    say(f"Wrote {file}", err=True)
