"""`steerguard audit verify`: whether the logs are what was written, and how far the evidence reaches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from steerguard.cli.audit_options import (
    BROKEN,
    OK,
    UNANCHORED,
    USAGE,
    AsJson,
    LogPath,
    PinnedCheckpoints,
    PinnedKeys,
    pins_of,
)

if TYPE_CHECKING:
    from steerguard.audit.verify import DirectoryReport, LogReport, PrunedRange

DOCUMENT_VERSION: Final = 1
_CHECKED_NOTHING: Final = frozenset({"file", "segment"})


def verify(
    path: LogPath,
    *,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Also check the form and schema of every line, and all that a log says of itself."
        ),
    ] = False,
    anchored: Annotated[
        bool, typer.Option("--anchored", help="Exit with 3 when records are intact but rest on no pin.")
    ] = False,
    keys: PinnedKeys = None,
    checkpoints: PinnedCheckpoints = None,
    as_json: AsJson = False,
) -> None:
    """Check every record of every log against the hash chain, the tree and the signed checkpoints.

    Exit status: 0 intact, 1 broken or missing, 2 nothing to check, 3 only with --anchored: intact, but not anchored.
    """
    from steerguard.audit.verify import verify_path
    from steerguard.errors import SteerguardError

    try:
        report = verify_path(path, pins_of(keys, checkpoints), strict=strict)
    except SteerguardError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(USAGE) from error
    if not report.logs and not report.missing and not report.pruned:
        typer.echo(f"There is no audit log in {path}.", err=True)
        raise typer.Exit(USAGE)
    code = _exit_code(report, anchored=anchored)
    if as_json:
        typer.echo(json.dumps(document(report), indent=2))
    else:
        for line in _lines(report):
            typer.echo(line)
        if code == UNANCHORED:
            typer.echo(_not_anchored(report))
    raise typer.Exit(code)


def document(report: DirectoryReport) -> dict[str, Any]:
    """Return the report as a document for programs; `version` changes when a field changes its meaning."""
    logs = []
    for log in report.logs:
        fields = asdict(log)
        if log.first_bad is not None:
            fields["first_bad"]["reason"] = log.first_bad.reason
        logs.append(fields)
    return {
        "version": DOCUMENT_VERSION,
        "status": report.status,
        "anchored": report.anchored,
        "logs": logs,
        "missing": [asdict(one) for one in report.missing],
        "pruned": [asdict(one) for one in report.pruned],
        "warnings": list(report.warnings),
    }


def _exit_code(report: DirectoryReport, *, anchored: bool) -> int:
    if report.status == "broken":
        bad = [log.first_bad for log in report.logs]
        nothing = bad and all(one is not None and one.fault in _CHECKED_NOTHING and one.seq == 0 for one in bad)
        return USAGE if nothing and not report.missing else BROKEN
    return UNANCHORED if anchored and not report.anchored else OK


def _lines(report: DirectoryReport) -> Iterator[str]:
    for log in report.logs:
        yield from _log_lines(log)
    for missing in report.missing:
        yield f"{missing.log}: missing"
        yield f"  it is named by {missing.named_by}, and no record says that it was pruned"
    for pruned in report.pruned:
        yield f"{pruned.log}: pruned"
        yield f"  {_pruned(pruned)}"
    for warning in report.warnings:
        yield f"warning: {warning}"
    yield _summary(report)


def _log_lines(log: LogReport) -> Iterator[str]:
    state = (
        "in use" if log.in_use and not log.closed else "recovered" if log.recovered else "closed" if log.closed else ""
    )
    yield f"{log.log}: {log.status}, {_count(log.records, 'record')} verified" + (f", {state}" if state else "")
    bad = log.first_bad
    if bad is not None:
        where = "" if bad.file is None else f" in {bad.file}" + ("" if bad.line is None else f", line {bad.line}")
        yield f"  {_positions(bad.seq, bad.until)}{where}"
        yield f"  {bad.fault}: {bad.reason}"
    for first, last in log.gaps:
        yield f"  missing: {_positions(first, last)}"
    if log.torn_bytes:
        yield f"  {_count(log.torn_bytes, 'byte')} after the last newline"
    for pruned in log.pruned:
        yield f"  pruned: {_pruned(pruned)}"
    yield f"  {_evidence(log)}"
    for warning in log.warnings:
        yield f"  warning: {warning}"


def _not_anchored(report: DirectoryReport) -> str:
    if not all(log.pinned for log in report.logs):
        return "not anchored: pin the key of the checkpoints with --key, or give a copy of them with --checkpoint"
    return "not anchored: no pinned checkpoint covers the records that are listed as unanchored"


def _evidence(log: LogReport) -> str:
    checked = _count(log.checkpoints, "checkpoint") + " verified"
    pin = "a pinned one" if log.pinned else "one of the log's own key, which is not pinned"
    if log.anchored == 0:
        return f"{checked}; no record lies under {pin}"
    if log.unanchored == 0:
        return f"{checked}; all records lie under {pin}"
    return (
        f"{checked}; records up to {log.anchored - 1} lie under {pin}; unanchored after that: "
        f"{_count(log.unanchored, 'record')}, {_count(log.unanchored_bytes, 'byte')}, {log.unanchored_seconds:.1f} s"
    )


def _pruned(pruned: PrunedRange) -> str:
    return (
        f"segments {pruned.segments[0]} to {pruned.segments[1]}, {_positions(*pruned.records)}, "
        f"{_count(pruned.bytes, 'byte')}, from {pruned.first_t} to {pruned.last_t}; "
        f"says record {pruned.by_seq} of {pruned.by_log}"
    )


def _summary(report: DirectoryReport) -> str:
    records = sum(log.records for log in report.logs)
    broken = sum(log.status == "broken" for log in report.logs)
    unanchored = sum(log.unanchored for log in report.logs)
    parts = [
        f"{report.status}: {_count(len(report.logs), 'log')}, {_count(records, 'record')} verified",
        f"{broken} broken" if broken else "",
        f"{len(report.missing)} missing" if report.missing else "",
        f"{unanchored} unanchored" if unanchored else "",
        "" if all(log.pinned for log in report.logs) else "nothing pinned",
    ]
    return ", ".join(part for part in parts if part)


def _positions(first: int, last: int | None) -> str:
    if last is None:
        return f"record {first} or later"
    return f"record {first}" if first == last else f"records {first} to {last}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
