"""Proofs of inclusion for records of a log: each record with its audit path to a signed checkpoint.

A proof needs no verified log: the path leads from the record's own line to the tree hash that was signed, so it holds
whatever was done to other lines. The lines are read twice, once to find the records and the newest checkpoint that agrees
with the log, once for the paths; memory does not grow with the log. Pruned segments are not needed: the tree goes on from
the peaks of the first `log.rotate` that is left, and the signed tree hash tells whether these are right.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import orjson

from steerguard.audit.evidence.layout import FINISHED_MODE, LogFiles, log_at, logs_in
from steerguard.audit.evidence.tree import inclusion_paths, root_from_path
from steerguard.audit.proving.proof import Proof
from steerguard.audit.proving.prove_survey import WRITTEN_OTHERWISE, Survey, heads_of, lines_of, parsed
from steerguard.audit.reading.selection import Selection
from steerguard.audit.settings import CheckpointSettings
from steerguard.audit.verification.pins import Pins
from steerguard.errors import AuditVerificationError, UnanchoredRecordError


@dataclass(frozen=True, slots=True)
class Proved:
    """Proofs, and what was wrong with the logs beside them."""

    proofs: tuple[Proof, ...]
    warnings: tuple[str, ...]


def prove_record(path: Path, log: str, seq: int, pins: Pins = Pins()) -> Proved:  # noqa: B008 - immutable
    """Prove one record.

    Args:
        path: a directory of logs, or any file of the log.
        log: id of the log.
        seq: number of the record, from 0.
        pins: with keys, only a checkpoint that one of them signed counts; else one by a key that the log itself names.
            Checkpoints that were kept elsewhere count beside those of the directory.

    Raises:
        UnanchoredRecordError: no checkpoint covers the record yet.
        AuditVerificationError: there is no such record, the log is unreadable, or disagrees with its checkpoints.
    """
    found = [_prove(files, _Wanted(seq=seq), pins) for files in _logs(path) if files.log == log]
    proved = [one for one in found if one.proofs]
    if not proved:
        raise _not_found(f"log {log}, record {seq}", found)
    return proved[0]


def prove_request(path: Path, request: str, pins: Pins = Pins()) -> Proved:  # noqa: B008 - immutable
    """Prove every record of a request that the logs hold: by the guard's id, or the host's `request_id`.

    Args:
        path: a directory of logs, or any file of one log.
        request: the id.
        pins: as for `prove_record`.

    Raises:
        UnanchoredRecordError: no checkpoint covers one of the records yet.
        AuditVerificationError: there is none, a log is unreadable, or disagrees with its checkpoints.
    """
    found = [_prove(files, _Wanted(request=request), pins) for files in _logs(path)]
    proofs = tuple(proof for one in found for proof in one.proofs)
    if not proofs:
        raise _not_found(f"request {request[:128]!a}", found)
    return Proved(proofs, tuple(warning for one in found for warning in one.warnings))


@dataclass(frozen=True, slots=True)
class _Wanted:
    seq: int | None = None
    request: str | None = None

    @property
    def needle(self) -> bytes:
        """What the line of a record of the request holds somewhere."""
        return b"" if self.request is None else orjson.dumps(self.request)[1:-1]

    def is_at(self, position: int, line: bytes, needle: bytes) -> bool:
        if self.request is None:
            return position == self.seq
        return needle in line and Selection(request=self.request).admits(parsed(line))


def _prove(files: LogFiles, wanted: _Wanted, pins: Pins, *, again: bool = True) -> Proved:
    survey = Survey()
    with ExitStack() as stack:
        heads = heads_of(stack, files, pins, survey)
        needle = wanted.needle
        head = next(heads, None)
        for line in lines_of(files, survey):
            size = survey.frontier.size
            if wanted.is_at(size, line, needle):
                survey.hits.append((size, line))
            survey.add(line)
            while head is not None and head.head.size <= size + 1:
                if head.head.size == size + 1:
                    survey.reach(head, pins)
                head = next(heads, None)
    if head is not None:
        if again and files.segments != log_at(files.paths[0]).segments:
            return _prove(log_at(files.paths[0]), wanted, pins, again=False)
        survey.note(f"the log ends before the {head.head.size} records that were signed")
    warnings = tuple(f"{files.log}: {fault}" for fault in survey.faults)
    if wanted.seq is not None and wanted.seq < survey.first:
        warnings = (*warnings, f"{files.log}: records 0 to {survey.first - 1} were pruned")
    return Proved(_proofs(files, survey, pins, warnings), warnings)


def _proofs(files: LogFiles, survey: Survey, pins: Pins, warnings: tuple[str, ...]) -> tuple[Proof, ...]:
    if not survey.hits:
        return ()
    for seq, line in survey.hits:
        _require_record(files.log, seq, line)
    last = survey.hits[-1][0]
    if survey.newest is None or survey.newest[0].head.size <= last:
        raise _uncovered(files, survey, pins, last)
    signed, key = survey.newest
    size = signed.head.size
    leaves = (sha256(b"\x00" + line).digest() for line in lines_of(files, Survey()))
    indices = [seq for seq, _ in survey.hits]
    try:
        paths = inclusion_paths(indices, size, leaves, first=survey.first, peaks=survey.peaks)
    except ValueError:
        paths = []
    proofs = []
    for (seq, line), path in zip(survey.hits, paths, strict=False):
        if root_from_path(sha256(b"\x00" + line).digest(), seq, size, path) == signed.head.root:
            proofs.append(Proof.of(seq, line, signed.note.content, path, key.text))
    if len(proofs) < len(indices):
        raise AuditVerificationError(
            "The log changed while it was read.",
            where=files.log,
            found="; ".join(warnings) or None,
            next_step=WRITTEN_OTHERWISE,
        )
    return tuple(proofs)


def _require_record(log: str, seq: int, line: bytes) -> None:
    record = parsed(line)
    if (record.get("log"), record.get("seq")) != (log, seq) or not (line.isascii() and line.decode().isprintable()):
        raise AuditVerificationError(
            "A line of the log is not the record that belongs there.",
            where=f"{log}, record {seq}",
            next_step=WRITTEN_OTHERWISE,
        )


def _uncovered(files: LogFiles, survey: Survey, pins: Pins, seq: int) -> AuditVerificationError:
    where = f"{files.log}, record {seq}"
    if survey.faults:
        return AuditVerificationError(
            "No checkpoint over the record agrees with the log.",
            where=where,
            found="; ".join(survey.faults),
            next_step=WRITTEN_OTHERWISE,
        )
    if survey.agreed > seq:
        return AuditVerificationError(
            "No checkpoint over the record is signed by a key that counts.",
            where=where,
            expected="a signature by "
            + (" or ".join(f"{key.name}+{key.hash}" for key in pins.keys or survey.named) or "a pinned key"),
            found=", ".join(sorted(survey.signers)),
            next_step="Pin a key that signed it, if you trust it: `--key`.",
        )
    settings = CheckpointSettings()
    checkpoints = files.checkpoints
    finished = checkpoints is None or checkpoints.stat().st_mode & 0o777 == FINISHED_MODE
    return UnanchoredRecordError(
        "The record is not covered by a checkpoint yet, so it cannot be proven.",
        where=where,
        expected=f"a checkpoint over more than {seq} records",
        found=f"the newest is over {survey.agreed} records" if survey.agreed else "no checkpoint",
        next_step="The log is finished, so none will follow: rely on the receipt of the record."
        if finished
        else f"A process that writes the log signs it after {settings.every_records} records or {settings.every_seconds:g} "
        "seconds, unless it was opened with other settings, and when it rotates or closes it: try again then. If the "
        "process died, the next AuditLog.open in this directory signs the log.",
    )


def _not_found(what: str, found: list[Proved]) -> AuditVerificationError:
    return AuditVerificationError(
        "There is no such record.",
        where=what,
        found="; ".join(warning for one in found for warning in one.warnings) or None,
        next_step="Give the id as the log has it, and the directory that holds the log: `steerguard audit query` finds it.",
    )


def _logs(path: Path) -> tuple[LogFiles, ...]:
    return logs_in(path) if path.is_dir() else (log_at(path),)
