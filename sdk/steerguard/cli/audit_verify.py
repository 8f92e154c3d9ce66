"""`steerguard audit verify`: whether the logs are what was written, and how far the evidence reaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerguard.cli.audit_answer import OK, UNANCHORED, USAGE, code_of, print_document, require_logs
from steerguard.cli.audit_options import AsJson, LogPath, PinnedCheckpoints, PinnedKeys, pins_of
from steerguard.cli.reporting import reported
from steerguard.cli.visible import say

if TYPE_CHECKING:
    from steerguard.audit.verify import DirectoryReport, LogReport, PrunedRange


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
        bool,
        typer.Option("--anchored", help="Exit with 3 when a log is intact, but its records or its end rest on no pin."),
    ] = False,
    keys: PinnedKeys = None,
    checkpoints: PinnedCheckpoints = None,
    as_json: AsJson = False,
) -> None:
    """Check every record of every log against the hash chain, the tree and the signed checkpoints.

    Exit status: 0 intact, 1 broken or missing, 2 nothing to check, 3 only with --anchored: intact, but not anchored.
    """
    from steerguard.audit.verify import verify_path

    with reported(USAGE):
        report = verify_path(path, pins_of(keys, checkpoints), strict=strict)
    require_logs(report, path)
    code = code_of(report)
    if code == OK and anchored and not report.anchored:
        code = UNANCHORED
    if as_json:
        print_document(document(report))
    else:
        for line in _lines(report):
            say(line)
        if code == UNANCHORED:
            say(_not_anchored(report))
    raise typer.Exit(code)


def document(report: DirectoryReport) -> dict[str, Any]:
    """Return the report as a document for programs."""
    logs = []
    for log in report.logs:
        fields = asdict(log)
        if log.first_bad is not None:
            fields["first_bad"]["reason"] = log.first_bad.reason
        logs.append(fields)
    return {
        "status": report.status,
        "anchored": report.anchored,
        "logs": logs,
        "missing": [asdict(one) for one in report.missing],
        "pruned": [asdict(one) for one in report.pruned],
        "warnings": list(report.warnings),
    }


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
    unanchored = [log for log in report.logs if log.unanchored]
    if unanchored and all(log.as_found for log in unanchored):
        return "not anchored: only recovery vouches for the records that are as found; give checkpoints that were kept elsewhere with --checkpoint"
    if unanchored:
        return "not anchored: no pinned checkpoint covers the records that are listed as unanchored"
    if not all(log.rests_on_pins for log in report.logs):
        return "not anchored: a log does not end with log.close, so what followed may have been cut off with its checkpoints"
    return "not anchored: no pinned checkpoint covers a record of what was pruned"


def _evidence(log: LogReport) -> str:
    checked = _count(log.checkpoints, "checkpoint") + " verified"
    pin = "a pinned one" if log.pinned else "one of the log's own key, which is not pinned"
    if log.anchored == 0 and not log.as_found:
        return f"{checked}; no record lies under {pin}"
    if log.unanchored == 0:
        return f"{checked}; all records lie under {pin}"
    if log.as_found:
        pin += " that was signed before recovery"
    covered = f"records up to {log.anchored - 1} lie" if log.anchored else "no record lies"
    found = f" ({log.as_found:,} as found)" if log.as_found else ""
    return (
        f"{checked}; {covered} under {pin}; unanchored after that: "
        f"{_count(log.unanchored, 'record')}{found}, {_count(log.unanchored_bytes, 'byte')}, {log.unanchored_seconds:.1f} s"
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
