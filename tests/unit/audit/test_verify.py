from __future__ import annotations

import json

import pytest

from steerguard.audit.chain import FIRST_PREV, canonical_line, leaf_hash
from steerguard.audit.log import AuditLog
from steerguard.audit.record import bypass_event, decision_event, token_content
from steerguard.audit.sinks import MemorySink
from steerguard.audit.verify import verify_bytes, verify_directory, verify_log
from steerguard.errors import AuditVerificationError


@pytest.fixture
def records(decide, context):
    sink = MemorySink()
    log = AuditLog.open(content="none", sink=sink)
    log.record(decision_event(decide(), context, content=token_content(None, [1, 2], [3])))
    log.record(bypass_event("unguided", "scoring"))
    log.close()
    return [json.loads(line) for line in sink.lines]


def chained(records):
    """Write records with correct sequence numbers and links, as whoever owns the process could."""
    content, prev = b"", FIRST_PREV
    for seq, record in enumerate(records):
        line = canonical_line({**record, "seq": seq, "prev": prev})
        prev = leaf_hash(line)
        content += line + b"\n"
    return content


def fault(content, **options):
    report = verify_bytes(content, **options)
    return None if report.first_bad is None else (report.first_bad.seq, report.first_bad.fault)


def test_a_log_from_before_the_score_tolerance_still_verifies(records):
    for reading in records[1]["readings"]:
        del reading["tolerance"], reading["near"]
    assert fault(chained(records)) is None


def test_a_leaf_is_the_sha256_of_a_zero_byte_and_the_line():
    # printf '\\0{}' | sha256sum
    assert leaf_hash(b"{}") == "28a3a18f6cd6406b086e9ffda1f9b8a13dbcf44b0f3f32cb9031a11fd053acf9"


def test_the_head_is_the_leaf_of_the_last_line(records):
    content = chained(records)
    assert verify_bytes(content).head == leaf_hash(content.splitlines()[-1])


def test_a_whole_rewrite_by_the_owner_verifies(records):
    assert fault(chained([records[0], *records[2:]])) is None


def test_a_clean_cut_at_a_line_end_is_only_a_warning(records):
    report = verify_bytes(chained(records[:-1]))
    assert report.status == "ok"
    assert "no log.close" in report.warnings[0]


def test_an_empty_log_is_only_a_warning():
    report = verify_bytes(b"")
    assert (report.status, report.records) == ("ok", 0)
    assert "empty" in report.warnings[0]


def test_bytes_after_the_last_newline_are_a_torn_tail(records):
    content = chained(records)
    report = verify_bytes(content[:-1])
    assert (report.status, report.records, report.first_bad.fault) == ("broken", 3, "torn")
    assert report.torn_bytes == len(content.splitlines()[-1])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda _: b"not json", "json"),
        (lambda _: b"[]", "json"),
        (lambda line: b"\xff" + line, "json"),
        (lambda _: b"[" * 100_000, "json"),
        (lambda line: line.replace(b'"row":0', b'"row":0.0'), "json"),
        (lambda line: line.replace(b'"row":0', b'"row":0,"row":0'), "duplicate_key"),
        (lambda line: line.replace(b'"row":0', b'"row": 0'), "canonical"),
        (lambda line: line.replace(b'"row":0', b'"row":-1'), "schema"),
        (lambda line: line.replace(b'"row":0', b'"row":0,"rowid":0'), "schema"),
        (lambda line: line.replace(b'"v":1', b'"v":2'), "schema"),
        (lambda line: line.replace(b'"type":"guard.decision"', b'"type":"guard.decree"'), "schema"),
    ],
)
def test_a_line_that_is_no_record_is_named(records, change, expected):
    lines = chained(records).splitlines()
    lines[1] = change(lines[1])
    assert fault(b"".join(line + b"\n" for line in lines)) == (1, expected)


def test_an_impossible_date_is_a_schema_fault(records):
    records[1]["t"] = "2026-02-30T00:00:00.000000Z"
    assert fault(chained(records)) == (1, "schema")


def test_a_record_of_another_log_is_named(records):
    records[2]["log"] = "20200101T000000Z-0123456789abcdef"
    assert fault(chained(records)) == (2, "log")
    assert fault(chained(records[:2]), log="20200101T000000Z-0123456789abcdef") == (0, "log")


def test_a_gap_and_a_wrong_link_are_named(records):
    lines = chained(records).splitlines(keepends=True)
    assert fault(lines[0] + lines[2]) == (1, "sequence")
    forged = canonical_line({**json.loads(lines[1]), "applied": "allow"}) + b"\n"
    assert fault(lines[0] + forged + lines[2]) == (1, "chain")


def test_open_comes_first_and_nothing_follows_close(records):
    assert fault(chained(records[1:])) == (0, "order")
    assert fault(chained([records[0], *records])) == (1, "order")
    assert fault(chained([*records, records[1]])) == (4, "order")


def test_a_monotonic_clock_that_runs_backwards_is_named(records):
    records[1]["mono"] = 10_000_000_000
    assert fault(chained(records)) == (2, "clock")


def test_a_step_of_the_wall_clock_is_a_warning(records):
    records[3]["t"] = "2020-01-01T00:00:00.000000Z"
    report = verify_bytes(chained(records))
    assert report.status == "ok"
    assert "before record 3" in report.warnings[0]


def test_records_are_handed_over_only_once_they_verified(tmp_path, records):
    lines = chained(records).splitlines(keepends=True)
    path = tmp_path / f"{records[0]['log']}.jsonl"
    path.write_bytes(b"".join(lines[:2]) + b"{}\n" + lines[3])
    seen = []
    verify_log(path, on_record=seen.append)
    assert [record["seq"] for record in seen] == [0]


def test_an_edited_record_is_the_first_bad_one_and_is_neither_counted_nor_handed_over(tmp_path, records):
    lines = chained(records).splitlines(keepends=True)
    forged = canonical_line({**json.loads(lines[1]), "applied": "allow"}) + b"\n"
    path = tmp_path / f"{records[0]['log']}.jsonl"
    path.write_bytes(lines[0] + forged + lines[2] + lines[3])
    seen = []
    report = verify_log(path, on_record=seen.append)
    assert [record["seq"] for record in seen] == [0]
    assert (report.records, report.head) == (1, leaf_hash(lines[0][:-1]))
    assert (report.first_bad.line, report.first_bad.seq, report.first_bad.fault) == (2, 1, "chain")


def test_a_wrong_first_link_is_named_in_the_first_record(records):
    line = canonical_line({**records[0], "prev": "1" * 64}) + b"\n"
    report = verify_bytes(line)
    assert (report.first_bad.line, report.first_bad.seq, report.first_bad.fault) == (1, 0, "chain")


def test_the_last_record_is_counted_and_reported_as_unconfirmed_unless_it_is_the_close(records):
    whole = verify_bytes(chained(records))
    assert (whole.records, whole.unconfirmed, whole.closed) == (4, None, True)
    cut = verify_bytes(chained(records[:-1]))
    assert (cut.records, cut.unconfirmed, cut.closed) == (3, 2, False)
    assert "the last record (2) is not confirmed" in cut.warnings[0]
    torn = verify_bytes(chained(records)[:-1])
    assert (torn.records, torn.unconfirmed) == (3, 2)


def test_a_record_before_a_line_that_is_none_is_not_counted(records):
    report = verify_bytes(chained(records) + b"{}\n")
    assert (report.records, report.unconfirmed, report.closed) == (3, None, False)
    assert report.head == leaf_hash(chained(records[:3]).splitlines()[-1])
    assert report.warnings == ("record 3 is not counted: no sound record follows that confirms it",)


def test_a_renamed_log_does_not_verify(tmp_path, records):
    (tmp_path / "20200101T000000Z-0123456789abcdef.jsonl").write_bytes(chained(records))
    (report,) = verify_directory(tmp_path)
    assert report.first_bad.fault == "log"


def test_what_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(AuditVerificationError):
        verify_log(tmp_path / "absent.jsonl")
    with pytest.raises(AuditVerificationError):
        verify_directory(tmp_path / "absent")
