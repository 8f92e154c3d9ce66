from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from steerguard.audit import copies
from steerguard.audit.copies import CallableCopy, CheckpointCopy, DirectoryCopy, StreamCopy
from steerguard.audit.evidence.checkpoint import TreeHead, sign_head, split_notes
from steerguard.errors import AuditSinkError
from steerguard.signing.keys import SigningKey

LOG = "20260101T000000Z-0123456789abcdef"


def note(size, *, root=b"\x01", signer=None):
    signer = signer or SigningKey(bytes(32))
    return sign_head(TreeHead(LOG, size, root * 32), [("example", signer)]).note.content


def notes_in(folder):
    return list(split_notes((folder / f"{LOG}.checkpoints").read_bytes()))


def test_every_copy_keeps_the_protocol(tmp_path):
    for copy in (DirectoryCopy(tmp_path), StreamCopy(io.StringIO()), CallableCopy(print)):
        assert isinstance(copy, CheckpointCopy)


def test_a_directory_holds_the_notes_as_the_log_does(tmp_path):
    folder = tmp_path / "mirror"
    copy = DirectoryCopy(folder)
    for size in (1, 2, 5):
        copy.publish(LOG, note(size))
    assert notes_in(folder) == [note(1), note(2), note(5)]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / f"{LOG}.checkpoints").stat().st_mode & 0o777 == 0o600


def test_the_same_note_again_changes_nothing(tmp_path):
    copy = DirectoryCopy(tmp_path)
    for _ in range(3):
        copy.publish(LOG, note(4))
    assert notes_in(tmp_path) == [note(4)]


@pytest.mark.parametrize("other", [note(3), note(4, root=b"\x02"), note(4, signer=SigningKey(bytes([1]) * 32))])
def test_a_copy_refuses_to_go_back_or_to_replace_a_note(tmp_path, other):
    copy = DirectoryCopy(tmp_path)
    copy.publish(LOG, note(4))
    with pytest.raises(AuditSinkError, match="ahead of the log"):
        copy.publish(LOG, other)
    assert notes_in(tmp_path) == [note(4)]


def test_what_an_earlier_attempt_wrote_in_part_is_cut_off(tmp_path):
    copy = DirectoryCopy(tmp_path)
    copy.publish(LOG, note(1))
    path = tmp_path / f"{LOG}.checkpoints"
    path.write_bytes(path.read_bytes() + note(2)[:40])
    copy.publish(LOG, note(2))
    assert notes_in(tmp_path) == [note(1), note(2)]


def test_a_damaged_copy_is_left_as_it_is(tmp_path):
    path = tmp_path / f"{LOG}.checkpoints"
    path.write_bytes(b"something\n\nelse\n\n")
    with pytest.raises(AuditSinkError, match="cannot be read"):
        DirectoryCopy(tmp_path).publish(LOG, note(1))
    assert path.read_bytes() == b"something\n\nelse\n\n"


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditSinkError, match="could not be copied"):
        DirectoryCopy(tmp_path / "file").publish(LOG, note(1))


def test_a_failed_sync_of_a_copy_is_an_error_and_the_next_attempt_syncs_again(tmp_path, monkeypatch):
    copy, calls, sync = DirectoryCopy(tmp_path), [], os.fdatasync

    def failing(descriptor):
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(AuditSinkError, match="Input/output error"):
        copy.publish(LOG, note(1))
    copy.publish(LOG, note(1))
    assert len(calls) == 2
    assert notes_in(tmp_path) == [note(1)]


def test_a_stream_gets_the_note_and_is_flushed():
    stream = io.StringIO()
    StreamCopy(stream).publish(LOG, note(3))
    assert list(split_notes(stream.getvalue().encode())) == [note(3)]
    stream.close()
    with pytest.raises(AuditSinkError, match="ValueError"):
        StreamCopy(stream).publish(LOG, note(4))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_stream_is_an_error():
    stream = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115, PTH123
    with pytest.raises(AuditSinkError, match="No space left"):
        StreamCopy(stream).publish(LOG, note(3))
    with pytest.raises(OSError, match="No space left"):
        stream.close()


def test_a_function_gets_log_and_note_and_its_message_is_not_repeated():
    got = []
    CallableCopy(lambda log, content: got.append((log, content))).publish(LOG, note(3))
    assert got == [(LOG, note(3))]

    def broken(_log, _content):
        raise ConnectionError("secret of the service")

    with pytest.raises(AuditSinkError, match="ConnectionError") as caught:
        CallableCopy(broken).publish(LOG, note(3))
    assert "secret" not in str(caught.value)


def test_a_relative_directory_stays_the_same_when_the_process_changes_its_own(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    copy = DirectoryCopy(Path("mirror"))
    copy.publish(LOG, note(1))
    monkeypatch.chdir(tmp_path / "elsewhere")
    copy.publish(LOG, note(2))
    assert notes_in(tmp_path / "mirror") == [note(1), note(2)]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_long_file_is_not_read_for_every_checkpoint(tmp_path, monkeypatch):
    copy, read = DirectoryCopy(tmp_path), []
    readable = copies.require_readable
    monkeypatch.setattr(copies, "require_readable", lambda *given: (read.append(1), readable(*given))[1])
    for size in range(1, 20):
        copy.publish(LOG, note(size))
    assert len(read) == 1


@pytest.mark.parametrize("change", ["cut", "replaced", "longer"])
def test_what_somebody_else_did_to_the_file_is_noticed(tmp_path, change):
    copy, path = DirectoryCopy(tmp_path), tmp_path / f"{LOG}.checkpoints"
    copy.publish(LOG, note(1))
    copy.publish(LOG, note(4))
    if change == "cut":
        path.write_bytes(note(1) + b"\n")
        copy.publish(LOG, note(5))
        assert notes_in(tmp_path) == [note(1), note(5)]
        return
    content = path.read_bytes()
    if change == "replaced":
        staged = tmp_path / "staged"
        staged.write_bytes(note(9) + b"\n")
        staged.replace(path)
    else:
        path.write_bytes(content + note(9) + b"\n")
    with pytest.raises(AuditSinkError, match="ahead of the log"):
        copy.publish(LOG, note(5))


FORK = """
import os, signal, sys, threading
from pathlib import Path
from steerguard.audit.copies import DirectoryCopy
from steerguard.audit.log import AuditLog
from steerguard.audit.settings import CheckpointSettings
from steerguard.signing.keys import SigningKey
folder = Path(sys.argv[1])
inside, go_on, sync, parent = threading.Event(), threading.Event(), os.fdatasync, os.getpid()
def slow(descriptor):
    if os.getpid() == parent and "copy" in os.readlink(f"/proc/self/fd/{descriptor}"):
        inside.set()
        go_on.wait(30)
    sync(descriptor)
os.fdatasync = slow
settings = CheckpointSettings(signer=SigningKey(bytes([3]) * 32), copies=(DirectoryCopy(folder / "copy"),))
log = AuditLog.open(folder / "logs", content="none", checkpoints=settings)
thread = threading.Thread(target=log.checkpoint)
thread.start()
inside.wait(30)
child = os.fork()
if child == 0:
    signal.alarm(20)
    log.checkpoint()
    log.close()
    os._exit(0)
status = os.waitpid(child, 0)[1]
go_on.set()
thread.join()
log.close()
sys.exit(status != 0)
"""


def test_a_child_that_is_forked_while_a_copy_is_written_writes_its_own(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", FORK, tmp_path], check=True, env=environment, timeout=60)
    assert len(list((tmp_path / "copy").glob("*.checkpoints"))) == 2
