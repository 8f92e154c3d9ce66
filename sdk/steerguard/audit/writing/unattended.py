"""The end of a log that nobody closed: its owner was collected, or the interpreter exits."""

from __future__ import annotations

import contextlib
import os

import structlog

from steerguard.audit.writing.writer import ChainWriter


def close_unattended(writer: ChainWriter, process: int) -> None:
    """Close a log whose owner is gone.

    Args:
        writer: of the log.
        process: id of the process that opened it; a forked child leaves the log to its parent.
    """
    if os.getpid() != process:
        return
    try:
        _close(writer)
    except BaseException:
        # An interrupt: it comes once, and nobody else would let go of the lock.
        _close(writer)
        raise


def _close(writer: ChainWriter) -> None:
    """Close a log; its own thread may have collected it while it holds the log's lock."""
    if not writer.close_in_background(lambda: _close_reporting(writer)):
        _close_reporting(writer)


def _close_reporting(writer: ChainWriter) -> None:
    """Close a log: at collection and at exit nobody can catch an error, so it is only reported."""
    try:
        writer.close()
    except Exception as error:  # noqa: BLE001 - a caller's sink can raise anything, and a finalizer must not
        # The host's logger may be gone already when the interpreter exits.
        with contextlib.suppress(Exception):
            structlog.get_logger("steerguard").warning(
                "audit_log_not_closed", log=writer.log_id, error=type(error).__name__
            )
