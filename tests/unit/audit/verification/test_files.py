"""Files that an attacker put there: a finding, never a crash, never a wait, never much memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.built_audit_logs import PINNED, Builder, events, log_id

from steerguard.audit.evidence.layout import checkpoints_name, log_at, segment_name
from steerguard.audit.verify import Pins, verify_directory, verify_path
from steerguard.errors import AuditVerificationError

MEMORY = """
import sys
from pathlib import Path
from steerguard.audit.verify import verify_directory
report = verify_directory(Path(sys.argv[1]))
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(report.logs[0].first_bad.fault, int(peak.split()[1]) // 1024)
"""


@pytest.fixture
def built():
    builder = Builder()
    events(builder, 6, every=4)
    builder.rotate()
    events(builder, 6, every=4)
    return builder.close()


def bad_of(directory):
    (log,) = verify_directory(directory, Pins(keys=(PINNED,))).logs
    return log.first_bad


@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "dangling link"])
@pytest.mark.parametrize("which", ["segment", "checkpoints"])
def test_what_is_no_regular_file_is_a_finding_and_is_neither_followed_nor_waited_for(tmp_path, built, kind, which):
    directory = tmp_path / "logs"
    directory.mkdir()
    built.write(directory)
    path = directory / (segment_name(built.log, 1) if which == "segment" else checkpoints_name(built.log))
    elsewhere = tmp_path / "elsewhere"
    if kind == "dangling link":
        path.unlink()
    else:
        path.rename(elsewhere)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(elsewhere)
    bad = bad_of(directory)
    assert bad.fault == "file"
    assert bad.file == path.name
    assert bad.seq == (built.segments[1] if which == "segment" else 0)


@pytest.mark.parametrize("size", [2**20 + 1, 3 * 2**20])
def test_a_line_of_more_than_a_megabyte_is_named(tmp_path, built, size):
    built.write(tmp_path)
    path = tmp_path / segment_name(built.log, 1)
    path.write_bytes(path.read_bytes() + b'{"a":"' + b"x" * size + b'"}\n')
    bad = bad_of(tmp_path)
    assert (bad.fault, bad.seq) == ("long", len(built.lines))


@pytest.mark.parametrize("which", ["segment", "checkpoints"])
def test_memory_does_not_grow_with_a_file(tmp_path, built, which):
    built.write(tmp_path)
    path = tmp_path / (segment_name(built.log, 0) if which == "segment" else checkpoints_name(built.log))
    with path.open("r+b") as file:
        file.truncate(8 * 2**30)
    if which == "checkpoints":
        path.write_bytes(b"".join(note for _, note in built.notes) + (b"a" * 99 + b"\n") * 500_000)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    found, megabytes = done.stdout.split()
    assert found == ("long" if which == "segment" else "note")
    assert int(megabytes) < 250


def test_many_good_checkpoints_are_read_one_by_one(tmp_path):
    builder = Builder()
    for _ in range(300):
        builder.event()
        builder.checkpoint()
    builder.close().write(tmp_path)
    (log,) = verify_directory(tmp_path).logs
    assert (log.status, log.checkpoints) == ("ok", 302)


def test_a_segment_that_is_repeated_under_another_number_is_named(tmp_path, built):
    built.write(tmp_path)
    (tmp_path / segment_name(built.log, 2)).write_bytes(built.content(1))
    assert bad_of(tmp_path).file == segment_name(built.log, 2)


def test_an_empty_segment_0_is_a_warning_and_no_checkpoints_file_is_not(tmp_path):
    log = log_id(0)
    (tmp_path / segment_name(log, 0)).write_bytes(b"")
    (tmp_path / checkpoints_name(log)).write_bytes(b"")
    (report,) = verify_directory(tmp_path).logs
    assert (report.status, report.records) == ("ok", 0)
    assert "empty" in report.warnings[0]
    (tmp_path / checkpoints_name(log)).unlink()
    assert bad_of(tmp_path).fault == "note_missing"


def test_a_file_of_a_log_stands_for_that_log_alone(tmp_path, built):
    built.write(tmp_path)
    other = Builder(1, previous=built.log)
    other.close().write(tmp_path)
    path = tmp_path / segment_name(other.built.log, 0)
    assert [log.log for log in verify_path(path).logs] == [other.built.log]
    assert log_at(path).log == other.built.log


def test_what_is_no_log_is_an_error(tmp_path):
    for name in ("absent.jsonl", segment_name(log_id(0), 0)):
        with pytest.raises(AuditVerificationError):
            verify_path(tmp_path / name)
    with pytest.raises(AuditVerificationError):
        verify_directory(tmp_path / "absent")


def test_no_file_stays_open(tmp_path, built):
    built.write(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        verify_directory(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
