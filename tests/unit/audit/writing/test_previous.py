"""What a new log says of the one before: the last whole checkpoint, whatever state its file is in."""

from __future__ import annotations

import os

import pytest
from tests.built_audit_logs import Builder, events

from steerguard.audit.evidence.checkpoint import parse_head
from steerguard.audit.evidence.layout import checkpoints_name
from steerguard.audit.writing.previous import previous_log

NOTHING = {"previous": None, "previous_size": None, "previous_root": None}


@pytest.fixture
def built(tmp_path):
    builder = Builder()
    events(builder, 200, every=2)
    log = builder.close()
    log.write(tmp_path)
    return log


def stated(note):
    head = parse_head(note[:-1]).head
    return {"previous": head.log, "previous_size": head.size, "previous_root": head.root.hex()}


def test_nothing_is_said_without_a_directory_or_another_log(tmp_path):
    assert previous_log(None) == previous_log(tmp_path) == NOTHING


@pytest.mark.parametrize("cut", [0, 1, 2, 60, 200])
def test_the_last_whole_checkpoint_is_named(tmp_path, built, cut):
    path = tmp_path / checkpoints_name(built.log)
    path.chmod(0o600)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut])
    assert previous_log(tmp_path) == stated(built.notes[-1 if cut == 0 else -2][1])


@pytest.mark.parametrize("damage", ["empty", "gone", "junk", "other log", "pipe", "link", "folder"])
def test_a_file_that_holds_no_checkpoint_of_the_log_says_nothing_of_its_records(tmp_path, built, damage):
    path = tmp_path / checkpoints_name(built.log)
    content = path.read_bytes()
    path.unlink()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "junk":
        path.write_bytes(b"steerguard-audit/no\n\nnote\n\n")
    elif damage == "other log":
        path.write_bytes(content.replace(built.log.encode(), built.log.encode()[:-1] + b"f"))
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    elif damage == "folder":
        path.mkdir()
    assert previous_log(tmp_path) == {**NOTHING, "previous": built.log}
