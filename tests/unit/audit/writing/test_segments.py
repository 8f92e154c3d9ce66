from __future__ import annotations

import fcntl
import hashlib
import os
import shutil

import pytest

from steerguard.audit.sinks import SettlingSink
from steerguard.audit.writing.segments import Segments
from steerguard.errors import AuditSinkError

LOG = "20260101T000000Z-0123456789abcdef"


@pytest.fixture
def segments(tmp_path):
    made = Segments.create(tmp_path, LOG)
    yield made
    made.close()


def mode(path):
    return path.stat().st_mode & 0o777


def test_lines_go_to_the_current_segment_and_closed_ones_are_read_only(tmp_path, segments):
    assert isinstance(segments, SettlingSink)
    segments.write(b"one")
    first = segments.path
    assert segments.digest == hashlib.sha256(b"one\n").hexdigest()
    segments.advance()
    assert (segments.number, segments.size) == (1, 0)
    segments.write(b"two")
    segments.retire()
    segments.retire()
    assert (first.read_bytes(), mode(first), mode(segments.path)) == (b"one\n", 0o400, 0o600)
    segments.finish()
    assert mode(tmp_path / f"{LOG}.000001.jsonl") == 0o400


def test_a_segment_that_cannot_be_made_leaves_the_current_one(segments, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        with pytest.raises(AuditSinkError, match="No space left"):
            segments.advance()
    segments.write(b"still here")
    assert segments.number == 0
    segments.advance()
    assert segments.number == 1


def test_a_segment_that_an_interrupted_attempt_made_is_taken_over(tmp_path, segments):
    (tmp_path / f"{LOG}.000001.jsonl").touch(mode=0o600)
    segments.advance()
    segments.write(b"line")
    assert segments.path.read_bytes() == b"line\n"


def test_a_segment_that_holds_something_is_not_taken_over(tmp_path, segments):
    (tmp_path / f"{LOG}.000001.jsonl").write_bytes(b"foreign")
    with pytest.raises(AuditSinkError, match="holds 7 bytes"):
        segments.advance()
    assert segments.number == 0


def test_a_removed_file_is_noticed_where_writing_to_it_succeeds(tmp_path, segments):
    segments.write(b"line")
    duplicate = segments.duplicate()
    shutil.rmtree(tmp_path)
    segments.write(b"line")
    with pytest.raises(AuditSinkError, match="removed"):
        segments.sync_duplicate(duplicate)
    os.close(duplicate)
    with pytest.raises(AuditSinkError, match="removed"):
        segments.sync()
    with pytest.raises(AuditSinkError, match="earlier failure"):
        segments.write(b"line")


def test_the_background_opens_the_segment_by_itself_so_that_a_failed_write_is_told_to_both(segments):
    own, other = segments._row.current.descriptor, segments.duplicate()
    try:
        assert os.path.sameopenfile(own, other)
        fcntl.fcntl(other, fcntl.F_SETFL, fcntl.fcntl(other, fcntl.F_GETFL) | os.O_NONBLOCK)
        fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) & ~os.O_NONBLOCK)
        assert fcntl.fcntl(other, fcntl.F_GETFL) & os.O_NONBLOCK, "both descriptors are of one opening"
    finally:
        os.close(other)


def test_a_segment_that_was_moved_is_not_opened_again(tmp_path, segments):
    segments.path.rename(tmp_path / "moved")
    with pytest.raises(OSError):  # noqa: PT011 - of any kind: the caller syncs under its lock instead
        segments.duplicate()
    segments.path.write_bytes(b"")
    with pytest.raises(OSError, match="another took its place"):
        segments.duplicate()
