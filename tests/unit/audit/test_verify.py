"""The records of one log: parsing, chain, order and clocks, as `verify_bytes` and `verify_log` see them."""

from __future__ import annotations

import orjson
import pytest
from tests.built_audit_logs import KEY, KEY_NAME, Builder, events, log_id

from steerguard.audit.evidence.checkpoint import TreeHead, sign_head
from steerguard.audit.evidence.layout import log_at, segment_name
from steerguard.audit.records.chain import FIRST_PREV, canonical_line, leaf_hash
from steerguard.audit.verify import Pins, verify_bytes, verify_log


@pytest.fixture
def records():
    builder = Builder(signer=None)
    builder.event()
    builder.event()
    builder.record("log.close")
    return [orjson.loads(line) for line in builder.built.lines]


def chained(records):
    """Write records with right sequence numbers and links, as whoever owns the process could."""
    content, prev = b"", FIRST_PREV
    for seq, record in enumerate(records):
        line = canonical_line({**record, "seq": seq, "prev": prev})
        prev = leaf_hash(line)
        content += line + b"\n"
    return content


def fault(content, **options):
    bad = verify_bytes(content, **options).first_bad
    return None if bad is None else (bad.seq, bad.until, bad.fault)


def test_a_leaf_is_the_sha256_of_a_zero_byte_and_the_line():
    # printf '\\0{}' | sha256sum
    assert leaf_hash(b"{}") == "28a3a18f6cd6406b086e9ffda1f9b8a13dbcf44b0f3f32cb9031a11fd053acf9"


def test_head_and_size_are_those_of_the_last_line(records):
    content = chained(records)
    report = verify_bytes(content, strict=True)
    assert (report.head, report.size, report.records) == (leaf_hash(content.splitlines()[-1]), 4, 4)
    assert (report.status, report.closed, report.pinned) == ("ok", True, False)


def test_a_whole_rewrite_by_the_owner_verifies_and_a_checkpoint_kept_elsewhere_shows_it(records):
    content = chained([records[0], *records[2:]])
    assert fault(content) is None
    root = bytes.fromhex(verify_bytes(chained(records)).root)
    head = sign_head(TreeHead(records[0]["log"], 4, root), [(KEY_NAME, KEY)])
    assert fault(content, pins=Pins(heads=(head,))) == (3, 3, "truncated")
    head = sign_head(TreeHead(records[0]["log"], 3, root), [(KEY_NAME, KEY)])
    assert fault(content, pins=Pins(heads=(head,))) == (0, 2, "head")


def test_a_clean_cut_at_a_line_end_is_only_a_warning(records):
    report = verify_bytes(chained(records[:-1]))
    assert (report.status, report.unanchored, report.unanchored_bytes) == ("ok", 3, len(chained(records[:-1])))
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


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"not json", "json"),
        (b"[]", "json"),
        (b"7", "json"),
        (b"", "json"),
        (b"\xff{}", "json"),
        (b'{"a":"\x00"}', "json"),
        (b"[" * 100_000, "json"),
        (b'{"v":1,"seq":' + b"9" * 5000 + b"}", None),
        (b"{}", "schema"),
    ],
)
def test_a_line_that_is_no_record_is_named(records, line, expected, strict):
    lines = chained(records).splitlines()
    lines[1] = line
    found = fault(b"".join(one + b"\n" for one in lines), strict=strict)
    assert found[:2] == (1, 1)
    assert found[2] == expected or (expected is None and found[2] in {"json", "schema"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("seq", True), ("seq", 1.0), ("seq", "1"), ("mono", True), ("mono", 1.5), ("v", 2), ("t", 7), ("type", None)],
)
def test_an_envelope_of_other_types_is_a_schema_fault(records, name, value):
    lines = chained(records).splitlines()
    lines[1] = orjson.dumps({**orjson.loads(lines[1]), name: value}, option=orjson.OPT_SORT_KEYS)
    seq, _, found = fault(b"".join(one + b"\n" for one in lines))
    assert (seq, found) == (1, "schema")


@pytest.mark.parametrize(
    "t",
    [
        "2026-02-30T00:00:00.000000Z",
        "2026-11-23T08:00:00.000000",
        "2026-11-23T08:00:00.00000xZ",
        "",
        "2026",
        # What Python reads as numbers or as times, and no record has.
        "2026-11-23T08+01:00.000000Z",
        "2026-W48-1T08:00:00.000000Z",
        "2026-11-23 08:00:00.000000Z",
        "2026-11-23T08:00:00.1_0000Z",
        "2026-11-23T08:00:00.+12345Z",
        "2026-11-23T08:00:00. 12345Z",
        "2026-11-23T08:00:00.\u0661\u0661\u0661\u0661\u0661\u0661Z",
    ],
)
def test_an_impossible_time_is_a_schema_fault(records, t):
    records[1]["t"] = t
    assert fault(chained(records)) == (1, 1, "schema")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda line: line.replace(b'"row":0', b'"row":0.0'), "json"),
        (lambda line: line.replace(b'"row":0', b'"row":0,"row":0'), "duplicate_key"),
        (lambda line: line.replace(b'"row":0', b'"row": 0'), "canonical"),
        (lambda line: line.replace(b'"row":0', b'"row":-1'), "schema"),
        (lambda line: line.replace(b'"row":0', b'"row":0,"rowid":0'), "schema"),
        (lambda line: line.replace(b'"type":"guard.error"', b'"type":"guard.errors"'), "schema"),
    ],
)
def test_strict_finds_what_the_chain_of_its_writer_hides(change, expected):
    builder = Builder(signer=None)
    builder.record("guard.error", req="r", row=0, stage="guide", code="E", outcome="refuse", policy=None, plan=None)
    builder.built.lines[1] = change(builder.built.lines[1])
    builder.prev = leaf_hash(builder.built.lines[1])
    builder.event()
    content = builder.built.content(0)
    assert fault(content) is None
    assert fault(content, strict=True) == (1, 1, expected)


def test_a_record_of_another_log_is_named(records):
    records[2]["log"] = log_id(9)
    assert fault(chained(records)) == (2, 2, "log")
    assert fault(chained(records[:2]), log=log_id(9)) == (0, 0, "log")


def test_a_gap_and_a_wrong_link_are_named(records):
    lines = chained(records).splitlines(keepends=True)
    assert fault(lines[0] + lines[2]) == (1, 1, "sequence")
    forged = canonical_line({**orjson.loads(lines[1]), "row": 9}) + b"\n"
    assert fault(lines[0] + forged + lines[2] + lines[3]) == (1, 1, "chain")


def test_a_changed_link_is_one_of_two_records_and_an_inserted_record_is_told_from_the_one_it_displaces(records):
    lines = chained(records).splitlines(keepends=True)
    wrong = canonical_line({**orjson.loads(lines[2]), "prev": "1" * 64}) + b"\n"
    assert fault(lines[0] + lines[1] + wrong + lines[3]) == (1, 2, "chain")
    forged = canonical_line({**orjson.loads(lines[1]), "row": 9}) + b"\n"
    assert fault(lines[0] + forged + b"".join(lines[1:])) == (1, 1, "sequence")
    assert fault(lines[0] + lines[1] + forged + lines[2] + lines[3]) == (2, 2, "sequence")
    assert fault(lines[0] + lines[1] + lines[1] + lines[2] + lines[3]) == (2, 2, "sequence")


def test_open_comes_first_and_nothing_follows_close(records):
    assert fault(chained(records[1:])) == (0, 0, "order")
    assert fault(chained([records[0], *records])) == (1, 1, "order")
    assert fault(chained([*records, records[1]])) == (4, 4, "order")


def test_a_monotonic_clock_that_runs_backwards_is_named(records):
    records[1]["mono"] = 10_000_000_000
    assert fault(chained(records)) == (2, 2, "clock")


def test_a_step_of_the_wall_clock_is_a_warning_and_many_are_counted(records):
    records[3]["t"] = "2020-01-01T00:00:00.000000Z"
    report = verify_bytes(chained(records))
    assert report.status == "ok"
    assert "before record 3" in report.warnings[0]
    builder = Builder(signer=None)
    for step in range(60):
        builder.event()
        line = orjson.loads(builder.built.lines[-1])
        builder.built.lines[-1] = canonical_line({**line, "t": f"20{step:02}-01-01T00:00:00.000000Z"})
        builder.prev = leaf_hash(builder.built.lines[-1])
    builder.record("log.close")
    warnings = verify_bytes(builder.built.content(0)).warnings
    assert len(warnings) == 21
    assert "41 further steps" in warnings[20]


def test_a_wrong_first_link_is_named_in_the_first_record(records):
    line = canonical_line({**records[0], "prev": "1" * 64}) + b"\n"
    bad = verify_bytes(line).first_bad
    assert (bad.line, bad.seq, bad.fault) == (1, 0, "chain")


def test_a_record_before_a_line_that_is_none_is_not_counted(records):
    report = verify_bytes(chained(records) + b"{}\n")
    assert (report.records, report.closed, report.first_bad.seq) == (3, False, 4)
    assert report.head == leaf_hash(chained(records[:3]).splitlines()[-1])


def test_records_are_handed_over_only_once_they_verified(records):
    lines = chained(records).splitlines(keepends=True)
    seen = []
    verify_bytes(b"".join(lines), on_record=seen.append)
    assert [record["seq"] for record in seen] == [0, 1, 2, 3]
    seen.clear()
    verify_bytes(b"".join(lines[:2]) + b"{}\n" + lines[3], on_record=seen.append)
    assert [record["seq"] for record in seen] == [0]


def test_records_that_a_checkpoint_does_not_fit_are_not_handed_over(tmp_path):
    builder = Builder()
    events(builder, 5, every=4)
    first = builder.built.notes[0][0]
    built = builder.built
    rewritten = Builder(seed=1)
    rewritten.built.lines = built.lines[: first + 1]
    rewritten.prev = leaf_hash(built.lines[first])
    rewritten.wait(10**9)
    events(rewritten, 6, every=100)
    built.lines = rewritten.built.lines
    built.notes.append((built.notes[0][0] + 3, sign_note(built.log, first + 3)))
    built.write(tmp_path)
    seen = []
    report = verify_log(log_at(tmp_path / segment_name(built.log, 0)), on_record=seen.append)
    assert (report.first_bad.fault, report.first_bad.seq, report.first_bad.until) == ("checkpoint", first, first + 2)
    assert [record["seq"] for record in seen] == list(range(first))


def sign_note(log, size):
    """Return a checkpoint over other records."""
    head = sign_head(TreeHead(log, size, bytes(32)), [(KEY_NAME, KEY)])
    return head.note.content + b"\n"
