from __future__ import annotations

import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from steerguard.audit.log import AuditLog
from steerguard.audit.records.chain import canonical_line
from steerguard.audit.records.fields import escaped
from steerguard.audit.records.record import bypass_event
from steerguard.audit.sinks import MemorySink
from steerguard.audit.verify import verify_bytes

RECORDS = 8

keys = st.text(st.characters(max_codepoint=127), max_size=8)
strings = st.text(st.characters(exclude_categories=["Cs"]))
integers = st.integers(-(2**53) + 1, 2**53 - 1)
values = st.recursive(
    st.none() | st.booleans() | integers | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(keys, values))
def test_the_canonical_line_is_rfc_8785(record):
    assert canonical_line(record) == rfc8785.dumps(record)


@given(st.text())
def test_escaping_gives_printable_ascii_and_loses_nothing(text):
    shown = escaped(text)
    assert all(" " <= character <= "~" for character in shown)
    assert shown.encode("ascii").decode("unicode_escape") == text


@pytest.fixture(scope="module")
def lines():
    sink = MemorySink()
    log = AuditLog.open(content="none", sink=sink)
    for number in range(RECORDS - 2):
        log.record(bypass_event("unguided", f"reason {number}", request=f"request-{number}"))
    log.close()
    return [line + b"\n" for line in sink.lines]


positions = st.integers(0, RECORDS - 1)


def broken(lines):
    return verify_bytes(b"".join(lines)).status == "broken"


def test_the_untouched_log_verifies(lines):
    assert not broken(lines)
    assert verify_bytes(b"".join(lines)).warnings == ()


@given(st.data(), st.integers(1, 255))
def test_a_flipped_byte_is_detected_anywhere_before_the_last_line(lines, data, mask):
    content = bytearray(b"".join(lines))
    content[data.draw(st.integers(0, len(content) - len(lines[-1]) - 1))] ^= mask
    assert broken([bytes(content)])


@pytest.mark.parametrize("name", ["log", "seq", "v", "type", "t", "mono", "prev"])
@pytest.mark.parametrize("log", [None, "20000101T000000Z-0123456789abcdef"])
@pytest.mark.parametrize("index", [0, 1, RECORDS - 1])
def test_a_missing_field_is_detected_also_where_the_log_is_another_or_not_known(lines, name, log, index):
    record = json.loads(lines[index])
    del record[name]
    content = b"".join([*lines[:index], canonical_line(record) + b"\n", *lines[index + 1 :]])
    report = verify_bytes(content, log=log)
    assert report.first_bad is not None
    assert report.first_bad.seq == (0 if log else index)


@given(st.data())
def test_a_value_changed_into_another_valid_one_is_detected(lines, data):
    index = data.draw(st.integers(1, RECORDS - 2))
    record = json.loads(lines[index])
    record["reason"] = data.draw(st.text(st.sampled_from("abc"), min_size=1))
    seen = []
    content = b"".join([*lines[:index], canonical_line(record) + b"\n", *lines[index + 1 :]])
    report = verify_bytes(content, on_record=seen.append)
    assert report.first_bad is not None
    assert (report.first_bad.seq, report.first_bad.line, report.records) == (index, index + 1, index)
    assert seen == [json.loads(line) for line in lines[:index]]


@given(st.integers(0, RECORDS - 2))
def test_a_deleted_line_is_detected_unless_it_is_the_last(lines, index):
    assert broken([*lines[:index], *lines[index + 1 :]])


@given(positions)
def test_a_duplicated_line_is_detected(lines, index):
    assert broken([*lines[: index + 1], *lines[index:]])


@given(st.integers(0, RECORDS), positions | st.binary(max_size=40))
def test_an_inserted_line_is_detected(lines, index, inserted):
    line = lines[inserted] if isinstance(inserted, int) else inserted + b"\n"
    assert broken([*lines[:index], line, *lines[index:]])


@given(st.permutations(range(RECORDS)))
def test_reordered_lines_are_detected(lines, order):
    assert broken([lines[index] for index in order]) == (order != sorted(order))


@given(st.data())
def test_a_cut_inside_a_line_is_detected_and_a_cut_between_lines_is_a_warning(lines, data):
    content = b"".join(lines)
    length = data.draw(st.integers(0, len(content) - 1))
    report = verify_bytes(content[:length])
    if content[:length].endswith(b"\n") or length == 0:
        assert report.status == "ok"
        assert len(report.warnings) == 1
    else:
        assert report.status == "broken"
        assert report.torn_bytes > 0


@given(st.binary(max_size=400))
def test_arbitrary_bytes_never_raise_and_never_verify_as_records(content):
    report = verify_bytes(content)
    assert report.records == 0
    assert report.status == ("broken" if content else "ok")
