from __future__ import annotations

import pytest

from steerguard.audit.evidence.layout import (
    LOG_ID,
    checkpoints_name,
    log_at,
    logs_in,
    sealed_name,
    segment_name,
    slot_keys_name,
)
from steerguard.errors import AuditVerificationError

OLD = "20261121T235959Z-ffffffffffffffff"
NEW = "20261122T071532Z-7809bc8c2669ad56"


def make(directory, *names):
    for name in names:
        (directory / name).write_bytes(b"")


def test_names_sort_like_what_they_number():
    names = [segment_name(NEW, number) for number in (0, 9, 10, 99_999, 100_000, 999_999)]
    assert names == sorted(names)
    assert names[1] == f"{NEW}.000009.jsonl"
    assert sealed_name(NEW, 3) == f"{NEW}.000003.sealed"
    assert slot_keys_name(NEW, 3) == f"{NEW}.000003.keys"
    assert checkpoints_name(NEW) == f"{NEW}.checkpoints"
    assert LOG_ID.fullmatch(NEW)


def test_an_empty_directory_holds_no_log(tmp_path):
    assert logs_in(tmp_path) == ()


def test_files_are_put_to_their_logs_oldest_first(tmp_path):
    make(
        tmp_path,
        segment_name(NEW, 10),
        segment_name(NEW, 2),
        checkpoints_name(NEW),
        sealed_name(NEW, 2),
        slot_keys_name(NEW, 2),
        f"{NEW}.torn-0",
        f"{NEW}.torn-12",
        segment_name(OLD, 0),
    )
    old, new = logs_in(tmp_path)
    assert (old.log, old.segments, old.checkpoints) == (OLD, ((0, tmp_path / segment_name(OLD, 0)),), None)
    assert new.log == NEW
    assert [number for number, _ in new.segments] == [2, 10]
    assert new.checkpoints == tmp_path / checkpoints_name(NEW)
    assert {path.name for path in new.sealed} == {sealed_name(NEW, 2), slot_keys_name(NEW, 2)}
    assert {path.name for path in new.torn} == {f"{NEW}.torn-0", f"{NEW}.torn-12"}
    assert {path.name for path in (*old.paths, *new.paths)} == {path.name for path in tmp_path.iterdir()}


def test_left_over_files_of_a_log_name_it(tmp_path):
    make(tmp_path, checkpoints_name(NEW), sealed_name(OLD, 0))
    assert [(files.log, files.segments) for files in logs_in(tmp_path)] == [(OLD, ()), (NEW, ())]


@pytest.mark.parametrize(
    "name",
    [
        "content.key",
        "checkpoint.vkey",
        f"{NEW}.jsonl",
        f"{NEW}.00000.jsonl",
        f"{NEW}.0000000.jsonl",
        f"{NEW}.000000.jsonl.bak",
        f".{NEW}.000000.jsonl",
        f"{NEW.upper()}.000000.jsonl",
        f"{NEW}.torn-",
        f"{NEW}.checkpoints\n",
        f"{NEW}.\u0660\u0660\u0660\u0660\u0660\u0660.jsonl",
    ],
)
def test_other_files_are_not_looked_at(tmp_path, name):
    make(tmp_path, name)
    assert logs_in(tmp_path) == ()
    with pytest.raises(AuditVerificationError, match="not a file of an audit log"):
        log_at(tmp_path / name)


@pytest.mark.parametrize("name", [segment_name(NEW, 1), checkpoints_name(NEW), f"{NEW}.torn-0", sealed_name(NEW, 1)])
def test_any_file_of_a_log_leads_to_it(tmp_path, name):
    make(tmp_path, segment_name(NEW, 0), name, segment_name(OLD, 0))
    assert log_at(tmp_path / name) == logs_in(tmp_path)[1]


def test_a_log_that_is_not_there_is_an_error(tmp_path):
    make(tmp_path, segment_name(OLD, 0))
    with pytest.raises(AuditVerificationError, match="no such file"):
        log_at(tmp_path / segment_name(NEW, 0))


def test_a_directory_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(AuditVerificationError, match="cannot be read"):
        logs_in(tmp_path / "gone")
    with pytest.raises(AuditVerificationError, match="cannot be read"):
        log_at(tmp_path / "gone" / segment_name(NEW, 0))
