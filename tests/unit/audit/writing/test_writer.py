"""Checkpoints, rotation, durability and key changes of a log that is being written."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import time

import pytest
from tests.audit_directories import records_in, sizes, sound, types_in
from tests.audit_writing import NEVER, OTHER, SIGNER, settings

from steerguard.audit.copies import DirectoryCopy, StreamCopy
from steerguard.audit.evidence.checkpoint import parse_head, split_notes
from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.content import token_content
from steerguard.audit.privacy.keys import ContentKey
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.audit.records.record import decision_event
from steerguard.audit.settings import Durability, Rotation
from steerguard.audit.sinks import MemorySink
from steerguard.errors import AuditError, AuditKeyError, SigningKeyError


def test_checkpoints_come_by_count_and_at_both_ends_of_the_last_record(tmp_path, allow):
    with AuditLog.open(tmp_path, content="none", checkpoints=settings(every_records=3)) as log:
        for _ in range(6):
            log.record(allow)
    kinds = types_in(tmp_path, log.log_id)
    assert [seq for seq, kind in enumerate(kinds) if kind == "checkpoint"] == [3, 7]
    assert kinds[-1] == "log.close"
    assert sizes(tmp_path, log.log_id) == [3, 7, len(kinds) - 1, len(kinds)]
    (report,) = sound(tmp_path).logs
    assert (report.checkpoints, report.unanchored) == (4, 0)


def test_a_record_about_a_checkpoint_says_what_was_signed(tmp_path, allow):
    copies = (StreamCopy(io.StringIO()), DirectoryCopy(tmp_path / "copy"))
    with AuditLog.open(tmp_path / "logs", content="none", checkpoints=settings(copies=copies)) as log:
        log.record(allow)
        head = log.checkpoint()
    record = list(records_in(tmp_path / "logs", log.log_id).values())[2]
    assert (record["type"], record["size"], record["copies"]) == ("checkpoint", 2, 2)
    assert record["root"] == head.head.root.hex()
    assert record["signed_by"] == [log.checkpoint_key.hash]
    own = (tmp_path / "logs" / f"{log.log_id}.checkpoints").read_bytes()
    assert own == (tmp_path / "copy" / f"{log.log_id}.checkpoints").read_bytes()
    assert own.decode() == copies[0].stream.getvalue()


def test_an_open_file_of_checkpoints_is_writable_and_a_finished_one_is_not(tmp_path):
    log = AuditLog.open(tmp_path, content="none")
    path = tmp_path / f"{log.log_id}.checkpoints"
    assert (path.stat().st_mode & 0o777, path.read_bytes()) == (0o600, b"")
    log.close()
    assert path.stat().st_mode & 0o777 == 0o400


def test_a_full_segment_is_followed_by_another_and_everything_goes_through(tmp_path, allow):
    with AuditLog.open(tmp_path, content="none", rotation=Rotation(max_bytes=4000), durability=NEVER) as log:
        first = log.path
        receipts = [log.record(allow) for _ in range(8)]
        assert first.stat().st_mode & 0o777 == 0o400
    segments = sorted(tmp_path.glob("*.jsonl"))
    assert len(segments) > 2
    records = records_in(tmp_path, log.log_id)
    assert [record["seq"] for record in records.values()] == list(range(len(records)))
    assert {receipt.leaf for receipt in receipts} <= set(records)
    for number, (before, segment) in enumerate(itertools.pairwise(segments), start=1):
        content = before.read_bytes()
        first = json.loads(segment.read_bytes().splitlines()[0])
        assert (first["type"], first["segment"], first["previous"]) == ("log.rotate", number, before.name)
        assert first["previous_bytes"] == len(content) >= 4000
        assert first["previous_digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert first["size"] in sizes(tmp_path, log.log_id)
    sound(tmp_path)


def test_an_old_segment_is_followed_by_another_at_the_next_record(tmp_path, allow):
    with AuditLog.open(tmp_path, content="none", rotation=Rotation(max_age_seconds=0.05)) as log:
        log.record(allow)
        time.sleep(0.06)
        log.record(allow)
        assert log.path.name.endswith(".000001.jsonl")
    sound(tmp_path)


def test_a_log_that_opens_more_slowly_than_its_segments_age_begins_with_log_open(tmp_path):
    with AuditLog.open(tmp_path, content="none", rotation=Rotation(max_age_seconds=1e-9)) as log:
        pass
    assert types_in(tmp_path, log.log_id)[0] == "log.open"
    sound(tmp_path)


def test_a_log_can_be_rotated_by_call_but_not_without_segments(tmp_path, allow):
    with AuditLog.open(tmp_path, content="none") as log:
        log.rotate()
        log.rotate()
        log.record(allow)
    assert types_in(tmp_path, log.log_id) == ["log.open", "log.rotate", "log.rotate", "guard.decision", "log.close"]
    sound(tmp_path)
    with AuditLog.open(content="none", sink=MemorySink()) as own, pytest.raises(AuditError, match="no segments"):
        own.rotate()


@pytest.mark.parametrize(
    ("durability", "expected"),
    [
        (NEVER, [0, 0, 0, 0]),
        (Durability(mode="interval", seconds=60), [0, 0, 0, 0]),
        (Durability(mode="batch", records=3), [0, 0, 1, 0]),
        (Durability(mode="always"), [1, 1, 1, 1]),
    ],
)
def test_what_is_durable_at_return_depends_on_the_mode(tmp_path, allow, refuse, syncs, durability, expected):
    with AuditLog.open(tmp_path, content="none", durability=durability) as log:
        found = []
        for _ in range(4):
            before = len(syncs)
            log.record(allow)
            found.append(len(syncs) - before)
        before = len(syncs)
        log.record(refuse)
        assert len(syncs) == before + 1
    assert found == expected
    opened = next(iter(records_in(tmp_path, log.log_id).values()))
    assert opened["durability"] == durability.mode
    assert (opened["unsynced_us"], opened["unsynced_records"]) == (durability.unsynced_us, durability.unsynced_records)


def test_the_first_checkpoint_after_a_new_key_carries_both_signatures(tmp_path, allow):
    log = AuditLog.open(tmp_path, content="none", checkpoints=settings())
    old = log.checkpoint_key
    log.record(allow)
    log.rotate_checkpoint_key(OTHER, "example.com/audit")
    new = log.checkpoint_key
    assert new == NoteKey("example.com/audit", OTHER.public)
    log.record(allow)
    log.close()
    notes = [parse_head(note).note for note in split_notes((tmp_path / f"{log.log_id}.checkpoints").read_bytes())]
    signers = [note.signed_by((old, new)) for note in notes]
    assert signers == [(old, new), (new,), (new,)]
    kinds = types_in(tmp_path, log.log_id)
    assert kinds == ["log.open", "guard.decision", "log.key_rotate", "checkpoint", "guard.decision", "log.close"]
    sound(tmp_path)


def test_a_new_content_key_is_recorded_and_the_old_one_refused(tmp_path, decide, context):
    old, new = ContentKey(b"o" * 32), ContentKey(b"n" * 32)
    log = AuditLog.open(tmp_path, key=old)
    log.record(decision_event(decide(), context, content=token_content(old, [1], None)))
    log.rotate_content_key(new, destroyed=True)
    assert log.key == new
    with pytest.raises(AuditError, match=r"content\.in"):
        log.record(decision_event(decide(), context, content=token_content(old, [1], None)))
    log.record(decision_event(decide(), context, content=token_content(new, [1], None)))
    log.close()
    record = list(records_in(tmp_path, log.log_id).values())[2]
    assert (record["type"], record["purpose"], record["previous"], record["key"], record["destroyed"]) == (
        "log.key_rotate",
        "content",
        old.id,
        new.id,
        True,
    )
    with AuditLog.open(tmp_path, content="none") as none, pytest.raises(AuditError, match="no key"):
        none.rotate_content_key(new)


def test_a_log_with_a_sink_signs_only_with_a_signer_and_its_notes_go_to_the_copies(allow):
    stream = io.StringIO()
    with AuditLog.open(content="none", sink=MemorySink()) as log:
        assert log.checkpoint_key is None
        assert log.checkpoint() is None
        with pytest.raises(AuditError, match="signs no checkpoints"):
            log.rotate_checkpoint_key(OTHER)
    with AuditLog.open(
        content="none", sink=MemorySink(), checkpoints=settings(every_records=1, copies=(StreamCopy(stream),))
    ) as log:
        log.record(allow)
    notes = list(split_notes(stream.getvalue().encode()))
    assert [parse_head(note).head.size for note in notes] == [1, 3, 4]
    assert all(parse_head(note).note.signed_by((log.checkpoint_key,)) for note in notes)


def test_the_checkpoint_key_comes_from_the_settings_then_the_environment_then_the_directory(tmp_path, monkeypatch):
    with AuditLog.open(tmp_path, content="none") as log:
        made = log.checkpoint_key
    assert NoteKey.parse((tmp_path / "checkpoint.vkey").read_text()) == made
    assert (tmp_path / "checkpoint.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "checkpoint.vkey").unlink()
    with AuditLog.open(tmp_path, content="none") as log:
        assert log.checkpoint_key == made
    assert NoteKey.parse((tmp_path / "checkpoint.vkey").read_text()) == made
    monkeypatch.setenv("STEERGUARD_CHECKPOINT_KEY", "nonsense")
    with pytest.raises(AuditKeyError, match="STEERGUARD_CHECKPOINT_KEY") as caught:
        AuditLog.open(tmp_path, content="none")
    assert isinstance(caught.value.__cause__, SigningKeyError)
    with AuditLog.open(tmp_path, content="none", checkpoints=settings(name="example.com")) as log:
        assert log.checkpoint_key == NoteKey("example.com", SIGNER.public)
    with pytest.raises(AuditKeyError, match="name"):
        AuditLog.open(tmp_path, content="none", checkpoints=settings(name="two words"))


def test_sealed_content_needs_a_key_that_is_not_made_by_itself(tmp_path):
    with pytest.raises(AuditKeyError, match=r"SealingKey\.create"):
        AuditLog.open(tmp_path, content="encrypted")
    assert list(tmp_path.iterdir()) == []
    key = SealingKey.create(tmp_path / "elsewhere.key")
    with pytest.raises(AuditError, match="directory"):
        AuditLog.open(sink=MemorySink(), content="encrypted", sealing=key)
    with AuditLog.open(tmp_path / "logs", content="none") as log, pytest.raises(AuditError, match="seals no content"):
        log.seal(b"secret", req="r", row=0)


def test_sealed_content_is_kept_with_its_segment(tmp_path):
    key = SealingKey.create(tmp_path / "elsewhere.key")
    with AuditLog.open(tmp_path / "logs", content="encrypted", sealing=key) as log:
        first = log.seal(b"secret", req="r", row=0)
        log.rotate()
        second = log.seal(b"secret", req="r", row=1)
    assert (first.file, second.file) == (f"{log.log_id}.000000.sealed", f"{log.log_id}.000001.sealed")
    assert (tmp_path / "logs" / first.file).stat().st_size >= first.bytes


def test_each_log_names_the_one_before(tmp_path):
    with AuditLog.open(tmp_path, content="none") as first:
        pass
    with AuditLog.open(tmp_path, content="none") as second:
        pass
    named = next(iter(records_in(tmp_path, second.log_id).values()))["previous"]
    assert named == first.log_id or first.log_id[:16] == second.log_id[:16]
    assert next(iter(records_in(tmp_path, first.log_id).values()))["previous"] is None
