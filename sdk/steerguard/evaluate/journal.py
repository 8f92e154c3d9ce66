"""The journal of an evaluation: one line per answered prompt, appended batch by batch, read back after a kill."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from steerguard.canonical import canonical_bytes
from steerguard.errors import EvaluationError
from steerguard.evaluate.batches import BatchJob
from steerguard.evaluate.durable import sync_folder
from steerguard.evaluate.rows import EvaluatedRow

ROWS_FILE = "rows.jsonl"


class Journal:
    """An open journal; one process at a time.

    Args:
        folder: an existing folder.

    Raises:
        EvaluationError: another process writes to it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ROWS_FILE
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise EvaluationError(
                "Another evaluation is writing to this folder.",
                where=folder,
                next_step="Wait until it ends, or choose another folder.",
            ) from error
        sync_folder(folder)

    def __enter__(self) -> Self:
        """Return the journal."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file and let other processes have it."""
        os.close(self._descriptor)

    @property
    def empty(self) -> bool:
        """Whether no row is recorded as a whole, so that nothing depends on the batches yet."""
        with self.path.open("rb") as file:
            return not file.readline().endswith(b"\n")

    def resume(self, jobs: Sequence[BatchJob]) -> list[EvaluatedRow]:
        """Return the rows of the batches that are there as a whole, and cut off everything behind them.

        Args:
            jobs: all work in the order in which it is recorded.

        Returns:
            Rows of the first batches of `jobs`, in the order of the journal.
        """
        rows: list[EvaluatedRow] = []
        kept = 0
        lines = _whole_lines(self.path.read_bytes())
        for job in jobs:
            batch = [next(lines, None) for _ in job.indices]
            found = [row for row in map(_parsed, batch) if row is not None]
            if [(row.run, row.set, row.index) for row in found] != [(job.run, job.set, i) for i in job.indices]:
                break
            rows += found
            kept += sum(len(line) for line in batch if line is not None)
        os.ftruncate(self._descriptor, kept)
        os.fsync(self._descriptor)
        return rows

    def append(self, rows: Sequence[EvaluatedRow]) -> None:
        """Record one batch; it is on the medium when this returns.

        Raises:
            EvaluationError: the medium does not take it; what was written in part is cut off by the next start.
        """
        content = memoryview(b"".join(canonical_bytes(row.model_dump(mode="json")) + b"\n" for row in rows))
        try:
            while content:
                content = content[os.write(self._descriptor, content) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise EvaluationError(
                "A batch of answers cannot be recorded.",
                where=self.path,
                found=error.strerror or type(error).__name__,
                next_step="Free some space and run the same command again: it goes on behind the last whole batch.",
            ) from error


def read_rows(folder: Path) -> Iterator[EvaluatedRow]:
    """Yield the rows of a finished evaluation, run by run, set by set, in the order of the prompts.

    Raises:
        EvaluationError: the journal is missing or a line of it is no row.
    """
    path = folder / ROWS_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EvaluationError("The journal of the evaluation cannot be read.", where=path) from error
    groups: dict[tuple[str, str], list[EvaluatedRow]] = {}
    for number, line in enumerate(_whole_lines(content), start=1):
        row = _parsed(line)
        if row is None:
            raise EvaluationError("A line of the journal is no row.", where=f"{path}, line {number}")
        groups.setdefault((row.run, row.set), []).append(row)
    for rows in groups.values():
        yield from sorted(rows, key=lambda row: row.index)


def _whole_lines(content: bytes) -> Iterator[bytes]:
    """Yield the lines with their ends; a torn last line is left out."""
    start = 0
    while (end := content.find(b"\n", start)) >= 0:
        yield content[start : end + 1]
        start = end + 1


def _parsed(line: bytes | None) -> EvaluatedRow | None:
    if line is None:
        return None
    try:
        return EvaluatedRow.model_validate_json(line)
    except ValidationError:
        return None
