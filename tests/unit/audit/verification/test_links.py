"""Logs of a directory vouch for one another: what log.open says of the log before it."""

from __future__ import annotations

import random

import orjson
import pytest
from tests.audit_events import bypass
from tests.built_audit_logs import NEXT_KEY, PINNED, Builder, events, log_id

from steerguard.audit.evidence.checkpoint import parse_head, split_notes, stored
from steerguard.audit.evidence.layout import checkpoints_name, new_log_id, segment_name
from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.log import AuditLog
from steerguard.audit.records.chain import canonical_line, leaf_hash
from steerguard.audit.settings import CheckpointSettings
from steerguard.audit.verify import Pins, verify_directory, verify_path
from steerguard.signing.keys import SigningKey

PINS = Pins(keys=(PINNED,))
EVERY = 4


def written(directory, records):
    """Write a log with a checkpoint every few records and return its id."""
    with AuditLog.open(directory, content="none", checkpoints=CheckpointSettings(every_records=EVERY)) as log:
        for number in range(records):
            log.record(bypass(reason=f"number {number}"))
    return log.log_id


def cut(directory, log, size, *, changed=None, closed=False):
    """Cut a finished log to `size` records and the checkpoints over them, as if its process had died there."""
    path, notes = directory / segment_name(log, 0), directory / checkpoints_name(log)
    lines = path.read_bytes().splitlines()[:size]
    heads = [parse_head(note) for note in split_notes(notes.read_bytes()) if note.strip()]
    kept = [head for head in heads if head.head.size <= (size if changed is None else changed)]
    if changed is not None:
        lines[changed] = lines[changed].replace(b"number", b"forged")
        for at in range(changed + 1, len(lines)):
            lines[at] = canonical_line({**orjson.loads(lines[at]), "prev": leaf_hash(lines[at - 1])})
    if closed:
        last = orjson.loads(lines[-1])
        envelope = {key: last[key] for key in ("v", "log", "t", "mono")}
        lines.append(canonical_line({**envelope, "seq": len(lines), "prev": leaf_hash(lines[-1]), "type": "log.close"}))
    for one in (path, notes):
        one.chmod(0o600)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    notes.write_bytes(b"".join(stored(head) for head in kept))


def own_key(directory):
    return Pins(keys=(NoteKey("steerguard-audit", SigningKey.from_file(directory / "checkpoint.key").public),))


@pytest.mark.parametrize("seed", range(24))
def test_a_finished_log_that_is_cut_and_recovered_is_found_when_a_later_log_was_opened_before(tmp_path, seed):
    source = random.Random(seed)
    log = written(tmp_path, source.randrange(1, 30))
    with AuditLog.open(tmp_path, content="none"):
        pass
    assert verify_directory(tmp_path, own_key(tmp_path), strict=True).status == "ok"
    written_records = len((tmp_path / segment_name(log, 0)).read_bytes().splitlines())
    size = source.randrange(1, written_records)
    # What lies behind the last checkpoint that is left can be rewritten too.
    notes = (tmp_path / checkpoints_name(log)).read_bytes()
    sizes = [parse_head(note).head.size for note in split_notes(notes) if note.strip()]
    fixed = max((one for one in sizes if one <= size), default=0)
    lines = (tmp_path / segment_name(log, 0)).read_bytes().splitlines()
    free = [at for at in range(fixed, size) if b"number" in lines[at]]
    changed = source.choice(free) if free else None
    cut(tmp_path, log, size, changed=changed)
    with AuditLog.open(tmp_path, content="none"):
        pass
    report = verify_directory(tmp_path, own_key(tmp_path))
    assert report.status == "broken"
    bad = {one.log: one for one in report.logs}[log].first_bad
    first = size if changed is None else changed
    assert bad.fault in {"head", "truncated"}
    assert bad.seq <= first <= bad.until
    assert "as log.open of" in bad.detail
    assert [one.status for one in report.logs].count("broken") == 1
    # Alone, it is a log like any other that died.
    assert verify_path(tmp_path / segment_name(log, 0), own_key(tmp_path)).status == "ok"


def test_an_end_that_its_process_did_not_sign_is_ended_anew(tmp_path):
    log = written(tmp_path, 12)
    cut(tmp_path, log, EVERY, closed=True)
    with AuditLog.open(tmp_path, content="none"):
        pass
    report = verify_path(tmp_path / segment_name(log, 0), own_key(tmp_path), strict=True).logs[0]
    assert (report.status, report.recovered, report.as_found) == ("ok", True, 0)


def test_the_log_before_is_named_with_its_last_checkpoint(tmp_path):
    log = written(tmp_path, 9)
    notes = (tmp_path / checkpoints_name(log)).read_bytes()
    last = parse_head([note for note in split_notes(notes) if note.strip()][-1]).head
    later = written(tmp_path, 0)
    opened = orjson.loads((tmp_path / segment_name(later, 0)).read_bytes().splitlines()[0])
    assert (opened["previous"], opened["previous_size"], opened["previous_root"]) == (log, last.size, last.root.hex())
    first = orjson.loads((tmp_path / segment_name(log, 0)).read_bytes().splitlines()[0])
    assert (first["previous"], first["previous_size"], first["previous_root"]) == (None, None, None)


@pytest.mark.parametrize("pins", [PINS, Pins()])
def test_a_later_log_contradicts_and_vouches_for_nothing(tmp_path, pins):
    """It took over what it found, and that may have been written after the process had died."""
    builder = Builder()
    events(builder, 10, every=3)
    dead = builder.recover(log_id(1))
    dead.write(tmp_path)
    Builder(1).close().write(tmp_path)
    alone = verify_directory(tmp_path, pins).logs[0]
    Builder(1, previous=dead).close().write(tmp_path)
    assert verify_directory(tmp_path, pins).logs[0] == alone
    assert alone.unanchored == alone.as_found + 2 > 2


def test_a_log_that_does_not_verify_contradicts_nothing(tmp_path):
    builder, other = Builder(seed=1), Builder(seed=2)
    for one in (builder, other):
        events(one, 6, every=3)
        one.close()
    builder.built.write(tmp_path)
    Builder(1, previous=other.built, signer=NEXT_KEY).close().write(tmp_path)
    report = verify_directory(tmp_path, PINS)
    assert [one.status for one in report.logs] == ["ok", "broken"]


def test_other_records_than_a_later_log_names_are_a_fault(tmp_path):
    builder, other = Builder(seed=1), Builder(seed=2)
    for one in (builder, other):
        events(one, 6, every=3)
        one.close()
    builder.built.write(tmp_path)
    Builder(1, previous=other.built).close().write(tmp_path)
    bad = verify_directory(tmp_path, PINS).logs[0].first_bad
    assert (bad.fault, bad.seq) == ("head", 0)
    assert bad.detail.endswith(f"as log.open of {log_id(1)} says")


def test_what_a_tombstone_says_is_held_against_what_a_later_log_names(tmp_path):
    old, other = Builder(seed=1), Builder(seed=2)
    for one in (old, other):
        events(one, 6, every=3)
        one.close()
    for named, status in ((old.built, "ok"), (other.built, "broken")):
        keeper = Builder(1, previous=named)
        keeper.prune(old.built, (0, 0), whole=True)
        keeper.close().write(tmp_path)
        report = verify_directory(tmp_path, PINS)
        assert (report.status, len(report.missing)) == (status, 0 if status == "ok" else 1)


@pytest.mark.parametrize("half", ["previous", "previous_size", "previous_root"])
def test_log_open_says_size_and_root_together(tmp_path, half):
    old = Builder()
    old.close().write(tmp_path)
    later = Builder(1, previous=old.built)
    record = {**orjson.loads(later.built.lines[0]), half: None}
    later.built.lines = [canonical_line(record)]
    later.built.write(tmp_path)
    bad = verify_directory(tmp_path, Pins()).logs[1].first_bad
    assert (bad.fault, bad.seq) == ("schema", 0)


def test_a_log_may_name_one_with_a_higher_id(tmp_path):
    """As after a clock that was set back."""
    newer = Builder(5)
    events(newer, 6, every=3)
    newer.close().write(tmp_path)
    Builder(1, previous=newer.built).close().write(tmp_path)
    assert verify_directory(tmp_path, PINS).anchored
    cut(tmp_path, newer.built.log, 3)
    (tmp_path / checkpoints_name(newer.built.log)).write_bytes(newer.built.notes[0][1])
    report = verify_directory(tmp_path, PINS)
    assert [one.first_bad and one.first_bad.fault for one in report.logs] == [None, "truncated"]


def test_log_ids_sort_by_time_within_a_second():
    ids = [new_log_id() for _ in range(50)]
    assert [one[:22] for one in sorted(ids)] == [one[:22] for one in ids]
    assert len(set(ids)) == 50
    assert all(int(one[17:22], 16) < 1_000_000 for one in ids)
