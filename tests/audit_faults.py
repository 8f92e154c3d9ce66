"""A guarded tiny model that counts what it releases, faults of the medium under its log, and what must hold after them."""

from __future__ import annotations

import os
import resource
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tests.guarded_models import CONTENTS, answers, guarded, policy, prompts, shared_model, splitting_threshold

from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.keys import ContentKey
from steerguard.audit.records.record import bypass_event
from steerguard.audit.settings import CheckpointSettings
from steerguard.audit.verify import verify_directory
from steerguard.errors import AuditSinkError
from steerguard.signing.keys import SigningKey
from steerguard.testing import MemorySink

KEY = ContentKey(bytes(range(32)))
SIGNER = SigningKey(bytes([5]) * 32)
TOKENS = 5


class Answer(NamedTuple):
    """One answer that left the guard."""

    request: str
    row: int
    tokens: tuple[int, ...]


class Keeper:
    """A streamer that keeps what it gets, and calls a function before the n-th token of the answers."""

    def __init__(self, act=None, at=1):
        self.columns = []
        self.ends = 0
        self._act, self._at = act, at

    def put(self, value):
        if self._act is not None and len(self.columns) == self._at:
            self._act()
        self.columns.append(value.tolist())

    def end(self):
        self.ends += 1


class Service:
    """Asks a guarded model and keeps what it released; a refusal for want of a record must release nothing.

    Args:
        model: under a guard whose `on_decision` appends to `called`.
        called: decisions that the callback got.
    """

    def __init__(self, model, called):
        self.model, self.called = model, called
        self.released: list[Answer] = []
        self.errors: list[AuditSinkError] = []

    @property
    def guard(self):
        return self.model.guard

    def ask(self, rows=2, **named: Any):
        """Generate; return the error that no record could be written, or None when the answers were released."""
        batch = prompts(rows)
        settings = {"max_new_tokens": TOKENS, "do_sample": False, **named}
        with self.guard.collect() as reports:
            try:
                tokens = self.model.generate(**batch, **settings)
            except AuditSinkError as error:
                assert reports == [], "decisions of a call without records were reported"
                require_clear(error)
                self.errors.append(error)
                return error
        assert len(reports) == rows
        found = answers(tokens, batch["input_ids"].shape[1])
        self.released += [
            Answer(report.request, report.row, tuple(ids)) for report, ids in zip(reports, found, strict=True)
        ]
        return None

    def must_answer(self, rows=2, **named):
        error = self.ask(rows, **named)
        assert error is None, error

    def must_refuse(self, rows=2, **named):
        before = len(self.called)
        error = self.ask(rows, **named)
        assert error is not None, "an answer was released without a record"
        assert len(self.called) == before, "the callback got a decision without a record"
        return error

    def exhaust(self):
        """Write small records until nothing fits: a full disk still has the rest of a file's last page."""
        for _ in range(100):
            try:
                self.guard.audit.record(bypass_event("unguided", "full"))
            except AuditSinkError as error:
                require_clear(error)
                return
        raise AssertionError("the disk is not full")

    def require_accounted(self, *folders: Path):
        """Every log verifies, and the answers on record for finished requests are those that were released."""
        require_accounted(self.released, *folders)
        assert Counter((one.request, one.row) for one in self.called) == Counter(
            (one.request, one.row) for one in self.released
        )


@contextmanager
def service(audit, *, document=None, model=None, spare=None, **named):
    """The shared tiny model under a guard; rows of a batch differ in what is decided about them.

    Args:
        audit: its log.
        document: its policy.
        model: another model.
        spare: the log that its unwrapping is recorded in, which the caller closes.
        named: as for `steerguard.wrap`.
    """
    called: list[Any] = []
    chosen = document or policy(splitting_threshold(), "refuse")
    with guarded(model or shared_model(), chosen, audit=audit, on_decision=called.append, **named) as wrapped:
        try:
            yield Service(wrapped, called)
        finally:
            # Unwrapping is recorded too, and the log of a test may be broken or closed by now.
            wrapped.guard.use_audit(spare or AuditLog.open(sink=MemorySink(), key=KEY))


def opened(folder, *, checkpoints=None, **named):
    """A log of tagged content."""
    named = {"key": KEY, **named}
    return AuditLog.open(folder, checkpoints=checkpoints or CheckpointSettings(signer=SIGNER), **named)


def require_clear(error):
    """The error says everything that it must, and nothing of a prompt."""
    assert type(error) is AuditSinkError
    for name in ("summary", "expected", "found", "where", "next_step"):
        assert getattr(error, name), f"no {name} in: {error}"
    said = "\n".join([str(error), *getattr(error, "__notes__", ())])
    assert not any(text in said for text in CONTENTS if len(text) > len("abc def")), said


def records_of(*folders):
    """All records of the logs of some folders, which must verify strictly."""
    records: list[dict[str, Any]] = []
    for folder in folders:
        report = verify_directory(folder, strict=True, on_record=records.append)
        assert report.status == "ok", report
        assert not report.missing, report.missing
    return records


def require_accounted(released, *folders):
    records = records_of(*folders)
    finished = {record["req"] for record in records if record["type"] == "guard.request"}
    recorded = [
        ((record["req"], record["row"]), record["content"]["out"])
        for record in records
        if record["type"] == "guard.decision" and record["content"]["out"] is not None and record["req"] in finished
    ]
    assert len(recorded) == len(released), "released answers and records of answers differ in number"
    assert dict(recorded) == {(one.request, one.row): KEY.tag_tokens(one.tokens) for one in released}
    return records


class SizeLimit:
    """No file of this process may grow beyond a limit (EFBIG), as on a full disk; for a process of its own."""

    of_process = True
    """Whether a forked child must begin it for itself."""

    def __init__(self, folder: Path):
        self.folder = folder

    def begin(self, room=None):
        """Let no file grow beyond `room` bytes more than the largest file of the folder; or let none grow at all."""
        limit = 0
        if room is not None:
            limit = room + max((path.stat().st_size for path in self.folder.rglob("*") if path.is_file()), default=0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def end(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class FullDisk:
    """A small file system that is filled to its last page and entry (ENOSPC)."""

    of_process = False

    def __init__(self, folder: Path):
        self.folder = folder
        self._filler = folder / "filler"

    def begin(self, room=None):
        """Leave `room` bytes in whole pages, and what the last page of each file has; or leave no name free either."""
        self._filler.mkdir(exist_ok=True)
        with self._filler.joinpath("bytes").open("ab", buffering=0) as file:
            free = os.statvfs(self.folder)
            left = free.f_bavail * free.f_frsize - (room or 0)
            if left > 0:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), left)
        if room is not None:
            return
        for number in range(os.statvfs(self.folder).f_ffree):
            self._filler.joinpath(f"{number}").touch()

    def end(self):
        if self._filler.exists():
            for path in self._filler.iterdir():
                path.unlink()
            self._filler.rmdir()


torch.set_num_threads(1)
