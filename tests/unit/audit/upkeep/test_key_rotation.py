from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.keys import KEY_VARIABLE, ContentKey
from steerguard.audit.settings import CheckpointSettings
from steerguard.audit.upkeep import key_rotation
from steerguard.audit.upkeep.key_rotation import rotate_checkpoint_key, rotate_content_key
from steerguard.audit.verification.pins import Pins
from steerguard.audit.verify import verify_directory
from steerguard.audit.writing.checkpoint_keys import CHECKPOINT_VARIABLE
from steerguard.errors import AuditKeyError
from steerguard.signing.keys import SigningKey


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A directory with one finished log, so that both keys are there."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.delenv(CHECKPOINT_VARIABLE, raising=False)
    AuditLog.open(tmp_path).close()
    return tmp_path


def events(directory, kind="log.key_rotate"):
    found = []
    for path in sorted(directory.glob("*.jsonl")):
        found += [json.loads(line) for line in path.read_bytes().splitlines()]
    return [record for record in found if record["type"] == kind]


def key_files(directory):
    return sorted(path.name for path in directory.iterdir() if not path.name[0].isdigit())


def vkey(directory, name="checkpoint.vkey"):
    return NoteKey.parse((directory / name).read_text())


def test_a_content_key_is_replaced_and_the_old_one_kept(directory):
    old = ContentKey.from_file(directory / "content.key")
    rotated = rotate_content_key(directory)
    new = ContentKey.from_file(directory / "content.key")
    assert old.id != new.id
    assert (rotated.previous, rotated.key, rotated.kept) == (old.id, new.id, directory / f"content.{old.id}.key")
    assert ContentKey.from_file(rotated.kept) == old
    assert key_files(directory) == sorted(["checkpoint.key", "checkpoint.vkey", "content.key", f"content.{old.id}.key"])
    [event] = events(directory)
    assert event["log"] == rotated.log
    assert (event["purpose"], event["previous"], event["key"], event["destroyed"]) == ("content", old.id, new.id, False)
    assert verify_directory(directory, Pins(keys=(vkey(directory),)), strict=True).status == "ok"
    with AuditLog.open(directory) as log:
        assert log.key == new


def test_an_old_content_key_is_overwritten_and_removed(directory):
    path = directory / "content.key"
    other_name = directory / "watched"
    other_name.hardlink_to(path)
    before = path.read_bytes()
    old = ContentKey.from_file(path)
    rotated = rotate_content_key(directory, destroy_old=True)
    assert rotated.kept is None
    assert (len(other_name.read_bytes()), other_name.read_bytes() == before) == (len(before), False)
    assert before[:16] not in other_name.read_bytes()
    assert key_files(directory) == ["checkpoint.key", "checkpoint.vkey", "content.key", "watched"]
    [event] = events(directory)
    assert (event["previous"], event["destroyed"]) == (old.id, True)


def test_a_checkpoint_key_is_replaced_by_one_that_the_old_one_introduces(directory):
    old = vkey(directory)
    rotated = rotate_checkpoint_key(directory)
    new = vkey(directory)
    assert (rotated.previous, rotated.key, rotated.verifier_key) == (old.hash, new.hash, new.text)
    assert SigningKey.from_file(directory / "checkpoint.key").public == new.public
    assert SigningKey.from_file(directory / f"checkpoint.{old.hash}.key").public == old.public
    assert vkey(directory, f"checkpoint.{old.hash}.vkey") == old
    assert stat.S_IMODE((directory / "checkpoint.key").stat().st_mode) == 0o600
    [event] = events(directory)
    assert (event["purpose"], event["previous"], event["checkpoint_key"]) == ("checkpoint", old.hash, new.text)
    AuditLog.open(directory).close()
    report = verify_directory(directory, Pins(keys=(old,)), strict=True)
    assert report.status == "ok"


def test_an_old_checkpoint_key_is_destroyed_and_its_public_half_stays(directory):
    old = vkey(directory)
    rotated = rotate_checkpoint_key(directory, destroy_old=True)
    assert rotated.kept is None
    expected = [f"checkpoint.{old.hash}.vkey", "checkpoint.key", "checkpoint.vkey", "content.key"]
    assert key_files(directory) == sorted(expected)
    assert verify_directory(directory, Pins(keys=(old,))).status == "ok"


def test_the_name_of_a_checkpoint_key_stays(tmp_path):
    AuditLog.open(tmp_path, content="none", checkpoints=CheckpointSettings(name="example.com/audit")).close()
    rotate_checkpoint_key(tmp_path)
    assert vkey(tmp_path).name == "example.com/audit"


@pytest.mark.parametrize("rotate", [rotate_content_key, rotate_checkpoint_key])
def test_rotations_follow_one_another(directory, rotate):
    ids = [rotate(directory) for _ in range(3)]
    assert [one.key for one in ids[:-1]] == [one.previous for one in ids[1:]]
    assert all(one.kept.exists() for one in ids)
    assert len(events(directory)) == 3


@pytest.mark.parametrize(
    ("rotate", "variable"), [(rotate_content_key, KEY_VARIABLE), (rotate_checkpoint_key, CHECKPOINT_VARIABLE)]
)
def test_a_key_of_the_environment_is_not_replaced(directory, monkeypatch, rotate, variable):
    monkeypatch.setenv(variable, "00" * 32)
    with pytest.raises(AuditKeyError, match="not in force"):
        rotate(directory)


@pytest.mark.parametrize("rotate", [rotate_content_key, rotate_checkpoint_key])
def test_where_there_is_no_key_nothing_is_made(tmp_path, rotate):
    with pytest.raises(AuditKeyError, match="no key to replace"):
        rotate(tmp_path)
    with pytest.raises(AuditKeyError, match="not a directory"):
        rotate(tmp_path / "gone")
    assert list(tmp_path.iterdir()) == []


def test_an_open_log_goes_on_with_its_key(directory):
    with AuditLog.open(directory) as log:
        before = log.key
        rotate_content_key(directory)
        assert log.key == before
    assert verify_directory(directory).status == "ok"


class _Stopped(BaseException):
    """Stands for the death of the process."""


STEPS = ("sync_directory", "write_verifier_key", "_exchange", "_destroy")


@pytest.mark.parametrize("destroy", [False, True])
@pytest.mark.parametrize("purpose", ["content", "checkpoint"])
@pytest.mark.parametrize("moment", range(8))
@pytest.mark.parametrize("late", [False, True])
def test_a_run_that_was_interrupted_is_finished_by_the_next(directory, monkeypatch, purpose, destroy, moment, late):
    """Whatever step a run dies before or behind, there is a key at every moment, and a second run ends the rotation."""
    rotate = rotate_content_key if purpose == "content" else rotate_checkpoint_key
    read = ContentKey.from_file if purpose == "content" else SigningKey.from_file
    path = directory / f"{purpose}.key"
    secret = path.read_bytes()
    done = 0

    def counted(step):
        def call(*arguments, **options):
            nonlocal done
            done += 1
            if done == moment + 1 and not late:
                raise _Stopped
            result = step(*arguments, **options)
            if done == moment + 1 and late:
                raise _Stopped
            return result

        return call

    with monkeypatch.context() as context:
        for name in STEPS:
            context.setattr(key_rotation, name, counted(getattr(key_rotation, name)))
        try:
            rotate(directory, destroy_old=destroy)
            finished = True
        except _Stopped:
            finished = False
    read(path)
    if path.read_bytes() == secret:
        assert not finished
    elif not destroy:
        assert secret in [other.read_bytes() for other in directory.glob(f"{purpose}.*.key")]
    if not finished:
        rotate(directory, destroy_old=destroy)
    assert path.read_bytes() != secret
    left = [other.name for other in directory.iterdir() if other.name.endswith((".next.key", ".destroy"))]
    assert left == []
    kept = [other.read_bytes() for other in directory.glob(f"{purpose}.*.key")]
    assert (secret in kept) is not destroy
    AuditLog.open(directory).close()
    read(path)
    assert events(directory)
    assert verify_directory(directory).status == "ok"


def test_what_a_planted_link_leads_to_is_never_overwritten(directory, tmp_path_factory):
    victim = tmp_path_factory.mktemp("elsewhere") / "victim"
    victim.write_bytes(b"of somebody else")
    (directory / "checkpoint.01234567.destroy").symlink_to(victim)
    with pytest.raises(AuditKeyError, match="cannot be replaced"):
        rotate_checkpoint_key(directory, destroy_old=True)
    assert victim.read_bytes() == b"of somebody else"


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("destroy", [True, False])
def test_an_old_key_does_not_vanish_behind_a_name_that_is_taken(directory, tmp_path_factory, link, destroy):
    old = vkey(directory)
    content = (directory / "checkpoint.key").read_bytes()
    taken = directory / f"checkpoint.{old.hash}.{'destroy' if destroy else 'key'}"
    victim = tmp_path_factory.mktemp("elsewhere") / "victim"
    victim.write_bytes(b"of somebody else")
    if link:
        taken.symlink_to(victim)
    else:
        taken.write_bytes(b"of somebody else")
    with pytest.raises(AuditKeyError, match="is taken"):
        key_rotation._exchange(directory / "checkpoint.key", old.hash, destroy=destroy)
    assert (directory / "checkpoint.key").read_bytes() == content
    assert victim.read_bytes() == b"of somebody else"


def test_a_next_key_that_another_user_put_there_is_not_introduced(directory, monkeypatch):
    planted = directory / "checkpoint.next.key"
    SigningKey.create(planted)
    lstat = Path.lstat

    def of_another_user(path):
        found = lstat(path)
        return os.stat_result((*found[:4], found.st_uid + 1, *found[5:])) if path == planted else found

    monkeypatch.setattr(Path, "lstat", of_another_user)
    with pytest.raises(AuditKeyError, match="put there by another user"):
        rotate_checkpoint_key(directory)
    assert events(directory) == []
