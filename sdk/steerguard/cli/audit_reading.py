"""What the commands that read verified records share: the filters, the reading, and what is said of a broken log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerguard.cli.audit_answer import BROKEN, code_of, require_logs
from steerguard.cli.visible import say

if TYPE_CHECKING:
    from steerguard.audit.reading.selection import Selection
    from steerguard.audit.verification.pins import Pins
    from steerguard.audit.verification.report import DirectoryReport

Request = Annotated[
    str | None,
    typer.Option("--request", help="Only of this request; the host's request_id does too.", show_default=False),
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        help="Only this event type, `log.*` for several, `all` for every one. May be repeated.",
        show_default=False,
    ),
]
Action = Annotated[str | None, typer.Option(help="Only decisions with this applied action.", show_default=False)]
Intended = Annotated[str | None, typer.Option(help="Only decisions with this intended action.", show_default=False)]
Cause = Annotated[str | None, typer.Option(help="Only decisions with this cause.", show_default=False)]
Rule = Annotated[str | None, typer.Option(help="Only decisions that this rule matched.", show_default=False)]
Policy = Annotated[str | None, typer.Option(help="Only under the policy of this name.", show_default=False)]
Tenant = Annotated[str | None, typer.Option(help="Only of this tenant.", show_default=False)]
Log = Annotated[str | None, typer.Option(help="Only of the log with this id.", show_default=False)]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN",
        help="Not before: 2026-11-23T14:00:00Z, a date (from its beginning, UTC), or how long ago, `24h` or `7d`.",
        show_default=False,
    ),
]
Until = Annotated[str | None, typer.Option(metavar="WHEN", help="Before this time, as --since.", show_default=False)]


def when(text: str | None) -> str | None:
    """Return a time as records write it; None stays None.

    Raises:
        AuditError: the text is no time.
    """
    from steerguard.audit.reading.selection import moment

    return None if text is None else moment(text, now=datetime.now(UTC))


def read(path: Path, pins: Pins, on_record: Callable[[dict[str, Any]], None]) -> DirectoryReport:
    """Verify the logs at the path and hand over what verifies; call it within `reported`.

    Raises:
        AuditVerificationError: it cannot be read.
    """
    from steerguard.audit.verify import verify_path

    report = verify_path(path, pins, on_record=on_record)
    require_logs(report, path)
    return report


def exit_code(report: DirectoryReport, *, misfits: int = 0) -> int:
    """Name every broken or missing log and what rests on no pin on the error stream, and return the exit code.

    Args:
        report: what verification found.
        misfits: records that verified but do not fit the schema of their type; `verify --strict` says where.
    """
    for log in report.logs:
        bad = log.first_bad
        if bad is not None:
            place = "" if bad.line is None else f"{bad.file} line {bad.line} "
            say(f"{log.log}: broken, {log.records} records verified; {place}(record {bad.seq}): {bad.reason}", err=True)
    for missing in report.missing:
        say(f"{missing.log}: missing; it is named by {missing.named_by}", err=True)
    unanchored = [log for log in report.logs if log.pinned and log.unanchored]
    if unanchored:
        say(
            f"records that no pinned checkpoint covers: {sum(log.unanchored for log in unanchored)}, in "
            f"{len(unanchored)} of {len(report.logs)} logs; see `steerguard audit verify`.",
            err=True,
        )
    if misfits:
        say(
            f"records that do not fit the schema of their type: {misfits}; see `steerguard audit verify --strict`.",
            err=True,
        )
    return BROKEN if misfits else code_of(report)


def point_out_last(report: DirectoryReport, shown: Sequence[tuple[str, int]]) -> None:
    """Say of each shown record that is the last of its log that neither a following one nor a checkpoint confirms it."""
    for log in report.logs:
        # The end of a broken log is said with the break.
        open_end = log.status == "ok" and not log.closed and log.unanchored > 0
        if open_end and (log.log, log.size - 1) in shown:
            say(
                f"{log.log}: warning: record {log.size - 1} is the last one and is confirmed neither by a following one "
                f"nor by a checkpoint; its hash is {log.head}",
                err=True,
            )


def selection(
    *,
    request: str | None,
    types: frozenset[str] | None,
    action: str | None,
    intended: str | None,
    cause: str | None,
    rule: str | None,
    policy: str | None,
    tenant: str | None,
    log: str | None,
    since: str | None,
    until: str | None,
) -> Selection:
    """Return what the options ask for.

    Raises:
        AuditError: a time is no time, or no decision can have such an action or cause.
    """
    from typing import get_args

    from steerguard.audit.reading.selection import Selection
    from steerguard.decision import Action as ActionName
    from steerguard.decision import Cause as CauseName
    from steerguard.errors import AuditError

    for name, allowed in ((action, ActionName), (intended, ActionName), (cause, CauseName)):
        if name is not None and name not in get_args(allowed):
            raise AuditError(
                "No decision has this action or cause.",
                expected=f"one of {', '.join(get_args(allowed))}",
                found=ascii(name[:60]),
            )
    return Selection(
        request=request,
        types=types,
        action=action,
        intended=intended,
        cause=cause,
        rule=rule,
        policy=policy,
        tenant=tenant,
        log=log,
        since=when(since),
        until=when(until),
    )
