from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from steerguard.audit.privacy import sealed_store
from steerguard.audit.privacy.sealed_slots import ERASED, SLOT_BYTES, WRAPPED_OFFSET, open_slot
from steerguard.audit.privacy.sealed_store import SealedStore
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.errors import AuditError, AuditKeyError, AuditSinkError

LOG = "20261122T071532Z-7809bc8c2669ad56"
OTHER = "20261122T071532Z-7809bc8c2669ad57"
KEY = SealingKey.of_secret(bytes(range(32)))


@pytest.fixture
def store(tmp_path):
    store = SealedStore(tmp_path, KEY)
    store.begin(LOG, 0)
    yield store
    store.close()


def _names(directory):
    return sorted(path.name for path in directory.iterdir())


def _opened(directory, sealed, *, row=0, req="request-1", log=LOG):
    return open_slot(directory, sealed, KEY, log=log, req=req, row=row)


class _Failing:
    """Stands for the disk: the real `os`, with one call that fails as a full disk does."""

    def __init__(self, call, *, at, keep=None, error=None):
        self._call = call
        self._left = at
        self._keep = keep
        self._error = error or OSError(28, "No space left on device")

    def __call__(self, descriptor, *arguments):
        self._left -= 1
        if self._left != -1:
            return self._call(descriptor, *arguments)
        if self._keep is not None:
            content, offset = arguments
            self._call(descriptor, content[: self._keep], offset)
            if not isinstance(self._error, OSError):
                raise self._error
            return self._keep
        raise self._error


def test_files_are_made_with_the_first_row_and_are_private(tmp_path, store):
    assert _names(tmp_path) == []
    sealed = store.append(b"content", req="request-1", row=0)
    assert _names(tmp_path) == [f"{LOG}.000000.keys", f"{LOG}.000000.sealed"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert (sealed.file, sealed.slot, sealed.key) == (f"{LOG}.000000.sealed", 0, KEY.id)


def test_neither_content_nor_data_key_is_in_the_files(tmp_path, store):
    store.append(b"the content of a row", req="request-1", row=0)
    for path in tmp_path.iterdir():
        assert b"content" not in path.read_bytes()


def test_equal_content_is_sealed_differently_each_time(store):
    assert len({store.append(b"same", req="request-1", row=0).digest for _ in range(10)}) == 10


def test_rows_go_to_the_files_of_the_segment(tmp_path, store):
    first = store.append(b"one", req="request-1", row=0)
    store.begin(LOG, 0)
    second = store.append(b"two", req="request-1", row=1)
    store.begin(LOG, 1)
    third = store.append(b"three", req="request-1", row=2)
    assert [(one.file, one.slot) for one in (first, second, third)] == [
        (f"{LOG}.000000.sealed", 0),
        (f"{LOG}.000000.sealed", 1),
        (f"{LOG}.000001.sealed", 0),
    ]
    assert _opened(tmp_path, third, row=2) == b"three"


@pytest.mark.parametrize("row", [-1, 2**32])
def test_a_row_that_has_no_place_is_refused(tmp_path, store, row):
    with pytest.raises(AuditError):
        store.append(b"content", req="request-1", row=row)
    assert _names(tmp_path) == []


@pytest.mark.parametrize("req", ["", "x" * 129, "réq", "a b", "a\n", "a\x00", "-a"])
def test_a_request_id_that_no_record_can_hold_is_refused_for_it_could_not_be_erased(tmp_path, store, req):
    with pytest.raises(AuditError):
        store.append(b"content", req=req, row=0)
    assert _names(tmp_path) == []


def test_an_id_of_128_characters_has_its_place(tmp_path, store):
    sealed = store.append(b"content", req="x" * 128, row=0)
    assert _opened(tmp_path, sealed, req="x" * 128) == b"content"


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("keep", [None, 0, 10])
def test_a_full_disk_leaves_nothing_of_the_row_and_later_rows_are_good(tmp_path, store, monkeypatch, at, keep):
    kept = store.append(b"before", req="request-1", row=0)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", _Failing(os.pwrite, at=at, keep=keep))
        with pytest.raises(AuditSinkError, match="Free space"):
            store.append(b"lost", req="request-1", row=1)
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == sizes
    after = store.append(b"after", req="request-1", row=2)
    assert after.slot == 1
    assert [_opened(tmp_path, kept), _opened(tmp_path, after, row=2)] == [b"before", b"after"]


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("keep", [0, 10, 512])
def test_an_interrupt_leaves_no_row_behind(tmp_path, store, monkeypatch, at, keep):
    kept = store.append(b"before", req="request-1", row=0)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", _Failing(os.pwrite, at=at, keep=keep, error=KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            store.append(b"x" * 600, req="request-1", row=1)
    after = store.append(b"after", req="request-1", row=2)
    assert after.slot == 1
    assert (tmp_path / f"{LOG}.000000.keys").stat().st_size == 2 * SLOT_BYTES
    assert [_opened(tmp_path, kept), _opened(tmp_path, after, row=2)] == [b"before", b"after"]


@pytest.mark.parametrize("name", ["open", "fsync", "fstat"])
def test_an_interrupt_while_files_are_made_is_no_obstacle(tmp_path, store, monkeypatch, name):
    with monkeypatch.context() as patched:
        patched.setattr(os, name, _Failing(getattr(os, name), at=0, error=KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            store.append(b"lost", req="request-1", row=0)
    assert _opened(tmp_path, store.append(b"content", req="request-1", row=0)) == b"content"


def test_what_cannot_be_cut_off_ends_the_store(store, monkeypatch):
    store.append(b"before", req="request-1", row=0)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", _Failing(os.pwrite, at=1, keep=10))
        patched.setattr(os, "ftruncate", _Failing(os.ftruncate, at=0))
        with pytest.raises(AuditSinkError, match="use_audit"):
            store.append(b"lost", req="request-1", row=1)
    for call in (lambda: store.append(b"later", req="request-1", row=2), store.sync, lambda: store.begin(LOG, 1)):
        with pytest.raises(AuditSinkError, match="could not be cut off"):
            call()


def test_a_failed_sync_ends_the_store(store, monkeypatch):
    store.append(b"before", req="request-1", row=0)
    with monkeypatch.context() as patched:
        patched.setattr(sealed_store, "_SYNC", _Failing(os.fsync, at=0))
        with pytest.raises(AuditSinkError):
            store.sync()
    with pytest.raises(AuditSinkError, match="sync"):
        store.append(b"later", req="request-1", row=1)


def test_a_directory_that_is_gone_is_an_error_and_its_return_is_service(tmp_path):
    directory = tmp_path / "audit"
    store = SealedStore(directory, KEY)
    store.begin(LOG, 0)
    with pytest.raises(AuditSinkError, match="No such file"):
        store.append(b"lost", req="request-1", row=0)
    directory.mkdir()
    assert _opened(directory, store.append(b"content", req="request-1", row=0)) == b"content"
    store.close()


def test_a_file_that_is_there_already_is_not_touched(tmp_path, store):
    (tmp_path / f"{LOG}.000000.sealed").write_bytes(b"somebody else's")
    with pytest.raises(AuditSinkError, match="not empty"):
        store.append(b"content", req="request-1", row=0)
    assert (tmp_path / f"{LOG}.000000.sealed").read_bytes() == b"somebody else's"


def test_a_key_service_that_fails_leaves_nothing(tmp_path):
    def failing(_key, _associated):
        raise TimeoutError

    store = SealedStore(tmp_path, SealingKey.of_functions("0a1b2c3d", failing, failing))
    store.begin(LOG, 0)
    with pytest.raises(AuditKeyError, match="TimeoutError"):
        store.append(b"content", req="request-1", row=0)
    assert _names(tmp_path) == []


def test_a_closed_store_takes_nothing(store):
    store.append(b"content", req="request-1", row=0)
    store.close()
    store.close()
    with pytest.raises(AuditSinkError, match="closed"):
        store.append(b"later", req="request-1", row=1)


def test_threads_share_a_store(tmp_path, store):
    found = {}

    def work(thread):
        for number in range(50):
            row = thread * 50 + number
            found[row] = store.append(f"content {row}".encode(), req="request-1", row=row)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {_opened(tmp_path, sealed, row=row) for row, sealed in found.items()} == {
        f"content {row}".encode() for row in range(200)
    }
    assert sorted(sealed.slot for sealed in found.values()) == list(range(200))


def test_a_file_system_that_fails_on_closing_is_reported_and_both_files_are_closed(tmp_path, monkeypatch):
    store, close, closed = SealedStore(tmp_path, KEY), os.close, []
    store.begin(LOG, 0)
    store.append(b"content", req="request-1", row=0)

    def fail(descriptor):
        closed.append(Path(f"/proc/self/fd/{descriptor}").readlink().suffix)
        close(descriptor)
        if closed[-1] == ".sealed":
            raise OSError(122, "Disk quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fail)
        with pytest.raises(AuditSinkError, match="Disk quota exceeded"):
            store.close()
        store.close()
    assert closed == [".sealed", ".keys"]


def test_a_child_leaves_the_files_to_its_parent(tmp_path, store):
    before = store.append(b"parent", req="request-1", row=0)
    child = os.fork()
    if child == 0:  # pragma: no cover - in another process
        try:
            store.abandon()
            store.begin(OTHER, 0)
            store.append(b"child", req="request-1", row=0)
            store.close()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    after = store.append(b"parent again", req="request-1", row=1)
    assert [_opened(tmp_path, before), _opened(tmp_path, after, row=1)] == [b"parent", b"parent again"]
    assert (tmp_path / f"{OTHER}.000000.keys").stat().st_size == SLOT_BYTES
    assert (tmp_path / f"{LOG}.000000.keys").stat().st_size == 2 * SLOT_BYTES


ERASER = """
import fcntl, os, sys
from steerguard.audit.upkeep.erase import _destroy
from pathlib import Path
print("ready", flush=True)
sys.stdin.readline()
for _ in range(40):
    _destroy(Path(sys.argv[1]), "erase-me")
"""


def test_an_eraser_in_another_process_spoils_no_row_of_others(tmp_path, store, monkeypatch):
    """Every third row fails half-written, so that slots are cut off and used again while the eraser looks at them."""
    store.append(b"first", req="erase-me", row=0)
    path = tmp_path / f"{LOG}.000000.keys"
    with subprocess.Popen(
        [sys.executable, "-c", ERASER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as eraser:
        assert eraser.stdin is not None
        assert eraser.stdout is not None
        eraser.stdout.readline()
        eraser.stdin.write("\n")
        eraser.stdin.flush()
        kept = []
        row = 0
        while eraser.poll() is None or row < 300:
            row += 1
            if row % 3 == 0:
                with monkeypatch.context() as patched:
                    patched.setattr(os, "pwrite", _Failing(os.pwrite, at=1, keep=512, error=KeyboardInterrupt()))
                    with pytest.raises(KeyboardInterrupt):
                        store.append(b"lost", req="erase-me", row=row)
            else:
                kept.append((row, store.append(b"keep", req="keep-me", row=row)))
    assert eraser.returncode == 0
    kept.append((0, store.append(b"keep", req="keep-me", row=0)))
    assert {_opened(tmp_path, sealed, row=row, req="keep-me") for row, sealed in kept} == {b"keep"}
    assert path.stat().st_size == (1 + len(kept)) * SLOT_BYTES
    assert path.read_bytes()[WRAPPED_OFFSET:SLOT_BYTES] == ERASED
