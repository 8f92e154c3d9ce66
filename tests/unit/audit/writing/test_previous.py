"""What a new log says of the one before: the last whole checkpoint, whatever state its file is in."""

from __future__ import annotations

import os

import pytest
from tests.built_audit_logs import FOREIGN_KEY, PINNED, Builder, events, note_key

from steerguard.audit.evidence.checkpoint import TreeHead, parse_head, sign_head, stored
from steerguard.audit.evidence.layout import checkpoints_name
from steerguard.audit.evidence.note import Note, NoteSignature
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
    assert previous_log(None, PINNED) == previous_log(tmp_path, PINNED) == NOTHING


@pytest.mark.parametrize("cut", [0, 1, 2, 60, 200])
def test_the_last_whole_checkpoint_is_named(tmp_path, built, cut):
    path = tmp_path / checkpoints_name(built.log)
    path.chmod(0o600)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut])
    assert previous_log(tmp_path, PINNED) == stated(built.notes[-1 if cut == 0 else -2][1])


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
    assert previous_log(tmp_path, PINNED) == {**NOTHING, "previous": built.log}


def test_a_checkpoint_that_somebody_else_put_there_is_not_stated(tmp_path, built):
    path = tmp_path / checkpoints_name(built.log)
    path.chmod(0o600)
    head = TreeHead(built.log, 999_999, bytes(32))
    with path.open("ab") as file:
        file.write(stored(sign_head(head, [(note_key(FOREIGN_KEY).name, FOREIGN_KEY)])))
    assert previous_log(tmp_path, PINNED) == {**NOTHING, "previous": built.log}
    signed = sign_head(head, [(PINNED.name, FOREIGN_KEY)]).note.signatures[0]
    forged = Note(head.text, (NoteSignature(PINNED.name, PINNED.hash, signed.signature),)).content

    path.write_bytes(forged + b"\n")
    assert previous_log(tmp_path, PINNED) == {**NOTHING, "previous": built.log}


def test_an_unsigned_log_states_no_checkpoint(tmp_path, built):
    assert previous_log(tmp_path, None) == {**NOTHING, "previous": built.log}
