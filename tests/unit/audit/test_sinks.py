from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from steerguard.audit.sinks import AuditSink, FileSink, MemorySink
from steerguard.errors import AuditSinkError


def test_both_sinks_keep_the_protocol(tmp_path):
    sink = FileSink.create(tmp_path / "log")
    assert isinstance(sink, AuditSink)
    assert isinstance(MemorySink(), AuditSink)
    sink.close()


def test_a_file_is_private_new_and_holds_one_line_per_write(tmp_path):
    path = tmp_path / "log"
    sink = FileSink.create(path)
    sink.write(b"one")
    sink.write(b"two")
    sink.sync()
    sink.close()
    sink.close()
    assert path.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(AuditSinkError, match="File exists"):
        FileSink.create(path)


def test_a_closed_file_takes_nothing(tmp_path):
    sink = FileSink.create(tmp_path / "log")
    sink.close()
    with pytest.raises(AuditSinkError, match="closed"):
        sink.write(b"late")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_device_that_took_nothing_needs_no_repair():
    sink = FileSink(os.open("/dev/full", os.O_WRONLY), where="/dev/full")
    for _ in range(2):
        with pytest.raises(AuditSinkError, match="No space left"):
            sink.write(b"line")
    sink.close()


def test_a_failed_sync_breaks_the_sink():
    sink = FileSink(os.open("/dev/null", os.O_WRONLY), where="/dev/null")
    sink.write(b"line")
    with pytest.raises(AuditSinkError, match="Invalid argument"):
        sink.sync()
    with pytest.raises(AuditSinkError, match="earlier failure"):
        sink.write(b"line")
    sink.close()


def test_a_file_in_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(AuditSinkError, match="No such file"):
        FileSink.create(tmp_path / "absent" / "log")


SHORT_WRITE = """
import resource, sys
from pathlib import Path
from steerguard.audit.sinks import FileSink
from steerguard.errors import AuditSinkError
path = Path(sys.argv[1])
sink = FileSink.create(path)
sink.write(b"a" * 99)
resource.setrlimit(resource.RLIMIT_FSIZE, (150, resource.RLIM_INFINITY))
try:
    sink.write(b"b" * 99)
except AuditSinkError as error:
    assert "50 of 100 bytes" in str(error), error
else:
    raise SystemExit("a short write passed")
assert path.stat().st_size == 100
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sink.write(b"c" * 99)
sink.close()
"""


def test_a_line_written_in_part_is_cut_off_again(tmp_path):
    path = tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", SHORT_WRITE, path], check=True, env=environment)
    assert path.read_bytes() == b"a" * 99 + b"\n" + b"c" * 99 + b"\n"


UNCUTTABLE = """
import fcntl, os, resource
from steerguard.audit.sinks import FileSink
from steerguard.errors import AuditSinkError
descriptor = os.memfd_create("log", os.MFD_ALLOW_SEALING)
fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
sink = FileSink(descriptor, where="a file that cannot be cut")
resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.RLIM_INFINITY))
for found in ("50 of 100 bytes", "an earlier failure left its end unknown"):
    try:
        sink.write(b"b" * 99)
    except AuditSinkError as error:
        assert found in str(error), error
    else:
        raise SystemExit("a line was written in part and passed")
sink.close()
"""


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs a file that cannot be cut")
def test_a_line_written_in_part_that_cannot_be_cut_off_breaks_the_sink():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", UNCUTTABLE], check=True, env=environment)
