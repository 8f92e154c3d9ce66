"""Checkpoints: which must be there, who must have signed them, what they anchor."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.built_audit_logs import FOREIGN_KEY, KEY, NEXT_KEY, PINNED, Builder, events, log_id, note_key

from steerguard.audit.evidence.checkpoint import parse_head
from steerguard.audit.evidence.layout import checkpoints_name, segment_name
from steerguard.audit.verification.pins import heads_at, pinned_key
from steerguard.audit.verify import Pins, verify_directory
from steerguard.errors import AuditKeyError, AuditVerificationError

PINS = Pins(keys=(PINNED,))


def report_of(directory, pins=PINS, **options):
    (log,) = verify_directory(directory, pins, **options).logs
    return log


def test_an_open_log_reports_what_rests_on_no_checkpoint_by_records_bytes_and_seconds(tmp_path):
    builder = Builder()
    events(builder, 9, every=5)
    fixed = builder.built.notes[-1][0]
    builder.wait(2_500_000)
    builder.event()
    builder.built.write(tmp_path)
    report = report_of(tmp_path)
    assert (report.status, report.pinned, report.anchored) == ("ok", True, fixed)
    assert report.unanchored == len(builder.built.lines) - fixed
    assert report.unanchored_bytes == sum(len(line) + 1 for line in builder.built.lines[fixed:])
    assert 2.5 < report.unanchored_seconds < 2.6
    assert any("no log.close" in warning for warning in report.warnings)


def test_a_young_log_rests_on_nothing(tmp_path):
    builder = Builder()
    builder.event()
    builder.built.write(tmp_path)
    report = report_of(tmp_path)
    assert (report.status, report.anchored, report.unanchored) == ("ok", 0, 2)


def test_a_finished_log_is_anchored_to_its_last_record(tmp_path):
    events(builder := Builder(), 5)
    builder.close().write(tmp_path)
    assert verify_directory(tmp_path, PINS).anchored
    unpinned = verify_directory(tmp_path)
    assert (unpinned.status, unpinned.anchored) == ("ok", False)
    assert (unpinned.logs[0].pinned, unpinned.logs[0].anchored) == (False, 7)
    assert [key.pinned for key in unpinned.logs[0].keys] == [False]


def test_a_log_of_another_key_is_broken_when_keys_are_pinned(tmp_path):
    Builder(signer=FOREIGN_KEY).close().write(tmp_path)
    report = report_of(tmp_path)
    assert (report.status, report.first_bad.fault, report.first_bad.seq) == ("broken", "unpinned", 0)
    assert report_of(tmp_path, Pins()).status == "ok"


def test_a_log_that_signs_nothing_is_broken_when_keys_are_pinned(tmp_path):
    builder = Builder(signer=None)
    builder.record("log.close")
    builder.built.write(tmp_path)
    assert report_of(tmp_path).first_bad.fault == "unpinned"
    assert report_of(tmp_path, Pins()).status == "ok"


def test_a_key_that_a_pinned_one_introduces_counts_also_for_other_logs(tmp_path):
    builder = Builder()
    builder.rotate_key(NEXT_KEY)
    builder.checkpoint()
    builder.event()
    builder.checkpoint()
    builder.close().write(tmp_path)
    Builder(1, signer=NEXT_KEY, previous=builder.built.log).close().write(tmp_path)
    report = verify_directory(tmp_path, PINS)
    assert (report.status, report.anchored) == ("ok", True)
    assert [key.pinned for key in report.logs[0].keys] == [True, True]
    older = tmp_path / "older"
    older.mkdir()
    newer = Builder(7)
    newer.rotate_key(NEXT_KEY)
    newer.close().write(older)
    Builder(2, signer=NEXT_KEY).close().write(older)
    assert verify_directory(older, PINS).status == "ok"


def test_a_new_key_that_the_one_before_did_not_sign_for_is_a_fault(tmp_path):
    builder = Builder()
    builder.checkpoint()
    builder.rotate_key(FOREIGN_KEY, both=False)
    fixed = builder.built.notes[-1][0]
    builder.rotate_key(FOREIGN_KEY, both=False)
    builder.checkpoint()
    builder.close().write(tmp_path)
    for pins in (PINS, Pins()):
        report = report_of(tmp_path, pins)
        assert (report.first_bad.fault, report.first_bad.seq, report.anchored) == ("signature", fixed, fixed)


def test_recovery_under_another_key_is_a_warning_and_anchors_nothing(tmp_path):
    builder = Builder()
    events(builder, 4, every=3)
    fixed = builder.built.notes[-1][0]
    builder.recover(builder.built.log, b"torn", signer=NEXT_KEY).write(tmp_path)
    report = report_of(tmp_path)
    assert (report.status, report.anchored, report.recovered, report.closed) == ("ok", fixed, True, True)
    assert any("another key" in warning for warning in report.warnings)
    both = report_of(tmp_path, Pins(keys=(PINNED, note_key(NEXT_KEY))))
    assert (both.anchored, both.as_found) == (fixed, builder.seq - 3 - fixed)


def test_what_recovery_found_rests_on_no_checkpoint_of_the_dead_process(tmp_path):
    builder = Builder()
    events(builder, 7, every=3)
    builder.event()
    builder.event()
    fixed = builder.built.notes[-1][0]
    recovered = builder.seq
    builder.recover(builder.built.log).write(tmp_path)
    for pins in (PINS, Pins()):
        report = report_of(tmp_path, pins)
        assert (report.status, report.anchored, report.as_found) == ("ok", fixed, recovered - fixed)
        assert report.unanchored == report.size - fixed
        assert report.warnings[0] == (
            f"{recovered - fixed} records (seq {fixed} to {recovered - 1}) had no checkpoint when the process died; "
            "their first checkpoint is the one that recovery signed"
        )
    assert not verify_directory(tmp_path, PINS).anchored


def test_nothing_is_as_found_where_a_checkpoint_covers_the_last_record_before_recovery(tmp_path):
    builder = Builder()
    events(builder, 4)
    builder.note()
    builder.recover(builder.built.log, signer=NEXT_KEY).write(tmp_path)
    report = report_of(tmp_path, Pins(keys=(PINNED, note_key(NEXT_KEY))))
    assert (report.as_found, report.unanchored, report.recovered) == (0, 0, True)
    assert not any("had no checkpoint" in warning for warning in report.warnings)


def test_a_change_of_the_key_by_the_dead_process_is_as_found_when_records_follow_it(tmp_path):
    builder = Builder()
    builder.checkpoint()
    fixed = builder.built.notes[-1][0]
    builder.rotate_key(NEXT_KEY)
    builder.event()
    recovered = builder.seq
    builder.recover(builder.built.log).write(tmp_path)
    report = report_of(tmp_path)
    assert (report.status, report.as_found, report.anchored) == ("ok", recovered - fixed, fixed)


@pytest.mark.parametrize("reach", ["before", "at", "behind"])
def test_a_checkpoint_kept_elsewhere_vouches_for_what_recovery_found(tmp_path, reach):
    builder = Builder()
    events(builder, 10, every=3)
    fixed, recovered = builder.built.notes[-1][0], builder.seq
    kept = {"before": builder.note, "at": builder.note}.get(reach)
    head = None if kept is None else kept()
    if head is not None:
        builder.built.notes.pop()
    if reach == "before":
        builder.event()
        recovered += 1
    built = builder.recover(builder.built.log)
    built.write(tmp_path)
    head = head or parse_head(built.notes[-2][1][:-1])
    report = report_of(tmp_path, Pins(keys=(PINNED,), heads=(head,)))
    found = {"before": 1, "at": 0, "behind": recovered - fixed}[reach]
    anchored = recovered - 1 if reach == "before" else report.size
    assert (report.status, report.as_found, report.anchored) == ("ok", found, anchored)


@pytest.mark.parametrize(
    ("durability", "words"),
    [
        ("interval", "up to 1 s of records other than refusals, bypasses and errors may be missing before record 2"),
        ("batch", "up to 10 records other than refusals, bypasses and errors may be missing before record 2"),
        ("never", "without a bound"),
        ("always", None),
    ],
)
def test_a_recovered_log_says_what_a_power_cut_may_have_cost(tmp_path, durability, words):
    builder = Builder(durability=durability)
    builder.event()
    builder.recover(builder.built.log).write(tmp_path)
    report = report_of(tmp_path)
    assert report.recovered
    assert (report.loss is None) if words is None else (words in report.loss and "if power was cut" in report.loss)


def test_torn_bytes_are_held_against_their_digest(tmp_path):
    builder = Builder()
    built = builder.recover(builder.built.log, b"torn bytes")
    built.write(tmp_path)
    assert report_of(tmp_path).status == "ok"
    (name,) = built.torn
    (tmp_path / name).write_bytes(b"torn bytez")
    report = report_of(tmp_path)
    assert (report.first_bad.fault, report.first_bad.file, report.first_bad.seq) == ("torn_file", name, 1)
    (tmp_path / name).unlink()
    assert report_of(tmp_path).first_bad.fault == "torn_file"


def test_checkpoints_kept_elsewhere_are_pins_too(tmp_path):
    events(builder := Builder(), 12, every=4)
    built = builder.close()
    built.write(tmp_path)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / checkpoints_name(built.log)).write_bytes(b"".join(note for _, note in built.notes[:2]))
    heads = tuple(heads_at(kept))
    report = report_of(tmp_path, Pins(heads=heads))
    assert (report.status, report.pinned, report.anchored) == ("ok", True, built.notes[1][0])
    assert report.unanchored == len(built.lines) - built.notes[1][0]


def test_a_log_that_only_a_checkpoint_names_is_missing(tmp_path):
    built = Builder(4).close()
    Builder(5).close().write(tmp_path)
    report = verify_directory(tmp_path, Pins(heads=(parse_head(built.notes[0][1][:-1]),)))
    assert [one.log for one in report.missing] == [built.log]
    assert report.status == "broken"


def test_strict_holds_every_statement_against_the_log(tmp_path):
    for change in ("root", "signed_by"):
        builder = Builder()
        builder.event()
        size = builder.seq
        builder.note()
        fields = {"root": builder.tree.root().hex(), "signed_by": [PINNED.hash]}
        fields[change] = "0" * 64 if change == "root" else ["00000000"]
        builder.record("checkpoint", size=size, copies=0, **fields)
        builder.close().write(tmp_path)
        assert report_of(tmp_path).status == "ok"
        report = report_of(tmp_path, strict=True)
        assert (report.first_bad.fault, report.first_bad.seq) == ("statement", size)


def test_one_note_may_stand_alone_in_a_file_and_junk_is_an_error(tmp_path):
    head = Builder().note()
    path = tmp_path / "note"
    path.write_bytes(head.note.content)
    assert list(heads_at(path)) == [head]
    path.write_bytes(head.note.content + b"x")
    with pytest.raises(AuditVerificationError):
        list(heads_at(path))
    for absent in (tmp_path / "absent", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(AuditVerificationError):
            list(heads_at(absent))


def test_a_key_is_pinned_by_its_text_or_its_file(tmp_path):
    path = tmp_path / "checkpoint.vkey"
    path.write_text(PINNED.text + "\n")
    assert pinned_key(PINNED.text) == pinned_key(str(path)) == PINNED
    for wrong in ("nothing", "a+b+c", str(tmp_path), "a+" * 300, "a\0b", "a" * 300):
        with pytest.raises(AuditKeyError):
            pinned_key(wrong)


def test_a_key_that_is_spelled_out_is_never_read_from_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planted = Path(PINNED.text)
    planted.parent.mkdir(parents=True)
    planted.write_text(note_key(FOREIGN_KEY).text + "\n")
    assert pinned_key(PINNED.text) == PINNED


def test_the_bits_that_base64_leaves_unused_are_not_free(tmp_path):
    built = Builder().close()
    built.write(tmp_path)
    path = tmp_path / checkpoints_name(built.log)
    content = path.read_bytes()
    last = content.rindex(b"=") - 1
    path.write_bytes(content[:last] + bytes([content[last] + 1]) + content[last + 1 :])
    assert report_of(tmp_path).status == "broken"


def test_a_torn_segment_in_the_middle_is_a_fault(tmp_path):
    builder = Builder()
    events(builder, 3)
    builder.rotate()
    built = builder.close()
    built.write(tmp_path)
    (tmp_path / segment_name(built.log, 0)).write_bytes(built.content(0)[:-1])
    assert report_of(tmp_path).first_bad.fault == "torn"
    assert log_id(0) == built.log
    assert KEY.public == PINNED.public


def test_a_later_log_that_took_over_a_planted_checkpoint_anchors_nothing(tmp_path):
    builder = Builder()
    events(builder, 4, every=3)
    fixed = builder.built.notes[-1][0]
    builder.event()  # written by somebody else, after the process died
    signer, builder.signer = builder.signer, FOREIGN_KEY
    builder.note()
    later = Builder(1, previous=builder.built)
    builder.built.notes.pop()
    builder.signer = signer
    builder.recover(later.built.log).write(tmp_path)
    later.close().write(tmp_path)
    report = verify_directory(tmp_path, PINS)
    assert (report.status, report.logs[0].anchored, report.anchored) == ("ok", fixed, False)


def test_with_a_pinned_key_a_checkpoint_from_elsewhere_anchors_only_if_a_trusted_key_signed_it(tmp_path):
    builder = Builder()
    builder.checkpoint()
    builder.event()
    ours = builder.note()
    builder.built.notes.pop()
    builder.signer = FOREIGN_KEY
    planted = builder.note()
    builder.built.notes.pop()
    builder.built.write(tmp_path)
    size = builder.seq
    assert report_of(tmp_path, Pins(keys=(PINNED,), heads=(planted,))).anchored == 1
    assert report_of(tmp_path, Pins(keys=(PINNED,), heads=(ours,))).anchored == size
    assert report_of(tmp_path, Pins(heads=(planted,))).anchored == size
