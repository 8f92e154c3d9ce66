from __future__ import annotations

import os
import stat

import pytest
from tests.audit_events import LOG

from steerguard.audit.evidence.layout import segment_name
from steerguard.audit.reading.whole_file import whole_file
from steerguard.errors import AuditError


def test_a_file_appears_whole_and_for_its_owner_only(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("before", "utf-8")
    with whole_file(path) as file:
        file.write(b"after")
        file.flush()
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.parametrize("error", [AuditError("x"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_file_that_fails_leaves_the_earlier_one(tmp_path, error):
    path = tmp_path / "out.csv"
    path.write_text("before", "utf-8")

    def fail():
        with whole_file(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(AuditError if isinstance(error, OSError) else type(error)):
        fail()
    assert path.read_text("utf-8") == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


def test_a_file_takes_the_place_of_no_log_and_of_nothing_but_files(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / segment_name(LOG, 0))
    os.mkfifo(tmp_path / "pipe")
    for name in (segment_name(LOG, 0), f"{LOG}.checkpoints", "link", "pipe", "."):
        with pytest.raises(AuditError), whole_file(tmp_path / name):
            pass
    with pytest.raises(AuditError, match="cannot be written") as caught, whole_file(tmp_path / "absent" / "out"):
        pass
    assert "No such file" in str(caught.value)
