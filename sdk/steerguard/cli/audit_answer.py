"""How the commands of `steerguard audit` answer: exit codes, refusals, documents for programs, and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer

from steerguard.cli.visible import ascii_json, say

if TYPE_CHECKING:
    from steerguard.audit.verification.report import DirectoryReport

OK: Final = 0
BROKEN: Final = 1
"""A log is broken or missing; of commands that change something, they failed."""
USAGE: Final = 2
"""Nothing to check, or it cannot be read."""
UNANCHORED: Final = 3
"""Only with `--anchored`: intact, but something rests on no pin."""

DOCUMENT_VERSION: Final = 1
"""`version` of the documents that `--json` prints; another one when a field of any of them changes its meaning."""

_UNREAD: Final = frozenset({"file", "segment"})
"""Faults of a log of which nothing could be read."""


def refuse(text: str) -> NoReturn:
    """Say what is wrong with what was asked for, and leave with exit code 2."""
    say(text, err=True)
    raise typer.Exit(USAGE)


def require_logs(report: DirectoryReport, path: Path) -> None:
    """Leave with exit code 2 where verification found no log and no trace of one."""
    if not report.logs and not report.missing and not report.pruned:
        refuse(f"There is no audit log in {path}.")


def code_of(report: DirectoryReport) -> int:
    """Return the exit code for what verification found: 0, 1, or 2 where nothing could be read."""
    if report.status != "broken":
        return OK
    faults = [log.first_bad for log in report.logs]
    unread = faults and all(one is not None and one.fault in _UNREAD and one.seq == 0 for one in faults)
    return USAGE if unread and not report.missing else BROKEN


def print_document(document: Mapping[str, Any]) -> None:
    """Print the document of a command, with its version, as JSON in printable ASCII."""
    typer.echo(ascii_json({"version": DOCUMENT_VERSION, **document}, indent=2))


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, with mode 0600.

    Raises:
        AuditError: it cannot be written, is not a regular file, or has the name of a file of a log.
    """
    from steerguard.audit.reading.whole_file import whole_file

    with whole_file(path) as file:
        file.write(content)
