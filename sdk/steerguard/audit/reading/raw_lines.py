"""The lines of logs, byte by byte, in step with the verification of the same files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from steerguard.audit.evidence.layout import LogFiles, log_at, logs_in
from steerguard.audit.records.chain import leaf_hash
from steerguard.audit.verification.files import LineReader, open_regular
from steerguard.errors import AuditVerificationError


class RawLines:
    """Hands out the line of each record that verification hands over; use it as a context manager.

    The files are read a second time. Each line is checked against the hash that verification saw: by the `prev` of the
    next record, and at the end of a log by the hash of its last verified record. So what it handed out is what verified,
    once `confirm` was called for every log.

    Args:
        path: what is being verified: a directory of logs, or a file of one log.

    Raises:
        AuditVerificationError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        logs = logs_in(path) if path.is_dir() else (log_at(path),)
        self._files = {files.log: files for files in logs}
        self._open = ExitStack()
        self._log: str | None = None
        self._lines: Iterator[bytes] = iter(())
        self._hash: str | None = None
        self._heads: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    def take(self, record: Mapping[str, Any]) -> bytes:
        """Return the line of the next verified record, with its newline.

        Raises:
            AuditVerificationError: the file is not as it was when it was verified.
        """
        log: str = record["log"]
        if log != self._log:
            self._open.close()
            self._log, self._lines, self._hash = log, self._lines_of(self._files.get(log)), None
        if self._hash is not None and record["prev"] != self._hash:
            raise _changed(log)
        line = next(self._lines, None)
        if line is None:
            raise _changed(log)
        self._hash = self._heads[log] = leaf_hash(line)
        return line + b"\n"

    def confirm(self, log: str, head: str) -> None:
        """Compare the last line that was handed out of a log with the hash of its last verified record.

        Raises:
            AuditVerificationError: the file is not as it was when it was verified.
        """
        if self._heads.get(log, head) != head:
            raise _changed(log)

    def _lines_of(self, files: LogFiles | None) -> Iterator[bytes]:
        for _, path in () if files is None else files.segments:
            file = self._open.enter_context(open_regular(path))
            for block in LineReader(file).blocks():
                yield from block
            self._open.close()


def _changed(log: str) -> AuditVerificationError:
    return AuditVerificationError(
        "An audit log changed while it was read.",
        where=log,
        expected="the lines that were verified",
        next_step="Export it again; find out who writes to it besides its owner.",
    )
