"""`steerguard audit tail`: the newest records, and those that follow."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from steerguard.cli.audit_answer import BROKEN, OK, USAGE, refuse
from steerguard.cli.audit_lines import json_line, one_line
from steerguard.cli.audit_options import AsLines, LogPath
from steerguard.cli.audit_reading import Types
from steerguard.cli.reporting import reported
from steerguard.cli.visible import say

if TYPE_CHECKING:
    from steerguard.audit.reading.tail import TailItem

POLL_SECONDS: Final = 0.25


def tail(
    path: LogPath,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written, until Ctrl-C.")] = False,
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="At most so many records, the newest.")] = 10,
    types: Types = None,
    as_lines: AsLines = False,
) -> None:
    """Show the newest records of all logs WITHOUT verifying them: `audit verify` does that.

    Each line is checked against the one before it, as far as it was read. Exit status: 0, 1 after a break, 2 nothing to read.
    """
    printer = _Printer(as_lines=as_lines)
    try:
        with reported(USAGE):
            _run(path, printer, follow=follow, count=last, types=types)
    except KeyboardInterrupt:
        typer.echo(err=True)
    raise typer.Exit(BROKEN if printer.breaks else OK)


def _run(path: Path, printer: _Printer, *, follow: bool, count: int, types: list[str] | None) -> None:
    from steerguard.audit.evidence.layout import log_at, logs_in
    from steerguard.audit.reading.selection import event_types
    from steerguard.audit.reading.tail import Tail

    named = event_types(types) if types else None

    def admits(record: dict[str, Any]) -> bool:
        return named is None or record.get("type") in named

    reader = Tail(path, admits)
    if not follow and not (logs_in(path) if path.is_dir() else (log_at(path),)):
        refuse(f"There is no audit log in {path}.")
    typer.echo("tail does not verify what it shows: `steerguard audit verify` does.", err=True)
    printer.print(reader.newest(count))
    while follow:
        time.sleep(POLL_SECONDS)
        printer.print(reader.poll())


class _Printer:
    def __init__(self, *, as_lines: bool) -> None:
        self.breaks = 0
        self._as_lines = as_lines

    def print(self, items: Iterable[TailItem]) -> None:
        from steerguard.audit.reading.selection import fits
        from steerguard.audit.reading.tail import TailBreak

        for item in items:
            if isinstance(item, TailBreak):
                self.breaks += 1
                say(f"warning: {item.segment}: {item.reason}", err=True)
            elif self._as_lines:
                typer.echo(json_line(item.record))
            else:
                typer.echo(one_line(item.record, fits=fits(item.record)))
