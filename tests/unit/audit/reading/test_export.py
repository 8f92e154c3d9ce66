from __future__ import annotations

import csv
import io
import json
from typing import get_args

import pytest
from tests.audit_events import LOG, OTHER_LOG, bypass, decision, refusal, request
from tests.chained_logs import OPEN, chained, content, fields, write_log

from steerguard.audit.evidence.layout import segment_name
from steerguard.audit.reading.export import Format, export
from steerguard.audit.reading.raw_lines import RawLines
from steerguard.audit.reading.selection import Selection
from steerguard.audit.records.chain import canonical_line, leaf_hash
from steerguard.audit.verification.pins import Pins
from steerguard.errors import AuditError, AuditVerificationError

ALL = Selection()


def exported(path, form, selection=ALL):
    into = io.BytesIO()
    return export(path, into, form, selection, Pins()), into.getvalue()


@pytest.fixture
def logs(tmp_path):
    write_log(tmp_path, [decision(req="r1"), request(), refusal(req="r2")], log=OTHER_LOG)
    write_log(tmp_path, [refusal(req="r3"), bypass()], log=LOG)
    return tmp_path


def test_lines_are_exported_byte_by_byte_oldest_log_first(logs):
    report, found = exported(logs, "jsonl")
    assert found == b"".join((logs / segment_name(log, 0)).read_bytes() for log in (OTHER_LOG, LOG))
    assert (report.records, report.misfits, report.verification.status) == (9, 0, "ok")


def test_lines_that_are_not_canonical_come_out_as_they_are(tmp_path):
    first = chained([OPEN])[0].replace(b'","', b'" ,  "')
    second = chained([bypass()], prev=leaf_hash(first), seq=1)[0].replace(b"scoring", rb"sc\u006fring")
    (tmp_path / segment_name(LOG, 0)).write_bytes(content([first, second]))
    assert exported(tmp_path, "jsonl")[1] == content([first, second])


def test_lines_of_all_segments_are_exported(tmp_path):
    lines = chained([OPEN, *[bypass()] * 9])
    # Segments without log.rotate do not verify, so only the first one counts.
    for number, part in enumerate((lines[:4], lines[4:])):
        (tmp_path / segment_name(LOG, number)).write_bytes(content(part))
    report, found = exported(tmp_path, "jsonl")
    assert report.verification.status == "broken"
    assert found == content(lines[: report.records])
    assert report.records >= 3


def test_only_selected_lines_are_exported(logs):
    _, found = exported(logs, "jsonl", Selection(action="refuse"))
    assert [json.loads(line)["req"] for line in found.splitlines()] == ["r2", "r3"]
    _, found = exported(logs / segment_name(LOG, 0), "jsonl", Selection(types=frozenset({"guard.bypass"})))
    assert [json.loads(line)["log"] for line in found.splitlines()] == [LOG]


def test_cloud_events_are_one_per_line(logs):
    report, found = exported(logs, "cloudevents")
    events = [json.loads(line) for line in found.splitlines()]
    assert [event["id"] for event in events] == [f"{OTHER_LOG}/{n}" for n in range(5)] + [
        f"{LOG}/{n}" for n in range(4)
    ]
    assert [event["subject"] for event in events if event["type"].startswith("dev.steerguard.guard.decision")] == [
        "r1",
        "r2",
        "r3",
    ]
    lines = b"".join((logs / segment_name(log, 0)).read_bytes() for log in (OTHER_LOG, LOG)).splitlines()
    assert [canonical_line(event["data"]) for event in events] == lines
    assert report.records == 9


def test_rows_are_decisions_only(logs):
    report, found = exported(logs, "csv")
    rows = list(csv.DictReader(io.StringIO(found.decode(), newline="")))
    assert [(one["request"], one["applied"]) for one in rows] == [("r1", "guide"), ("r2", "refuse"), ("r3", "refuse")]
    assert report.records == 3
    assert len(exported(logs, "csv", Selection(request="absent"))[1].splitlines()) == 1


@pytest.mark.parametrize("form", get_args(Format))
def test_of_a_broken_log_only_what_verified_is_exported(logs, form):
    path = logs / segment_name(OTHER_LOG, 0)
    path.write_bytes(path.read_bytes().replace(b'"req":"r2"', b'"req":"r9"'))
    report, found = exported(logs, form)
    assert report.verification.status == "broken"
    assert b"r9" not in found
    assert b"r2" not in found
    assert b"r1" in found
    assert b"r3" in found


@pytest.mark.parametrize("form", get_args(Format))
def test_a_record_that_fits_no_schema_is_exported_as_a_line_only(tmp_path, form):
    write_log(tmp_path, [{**fields(decision(req="r1")), "cause": "\x1b]0;owned\x07"}, decision(req="r2")])
    report, found = exported(tmp_path, form)
    assert report.verification.status == "ok"
    assert b"\x1b" not in found
    assert b"r2" in found
    assert (b"r1" in found, report.misfits) == ((True, 0) if form == "jsonl" else (False, 1))


def test_a_log_that_changes_while_it_is_read_is_noticed(logs):
    path = logs / segment_name(OTHER_LOG, 0)
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    head = leaf_hash(path.read_bytes().splitlines()[-1])
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b'"req":"r2"', b'"req":"r9"'))
    with RawLines(path) as raw:
        for record in records[:4]:
            raw.take(record)
        with pytest.raises(AuditVerificationError, match="changed while it was read"):
            raw.take(records[4])
    path.write_bytes(content(path.read_bytes().splitlines()[:2]))
    with RawLines(path) as raw:
        raw.take(records[0])
        raw.take(records[1])
        with pytest.raises(AuditVerificationError, match="changed while it was read"):
            raw.confirm(OTHER_LOG, head)
        with pytest.raises(AuditVerificationError, match="changed while it was read"):
            raw.take(records[2])


class Full(io.RawIOBase):
    """A stream on a full disk."""

    def writable(self):
        return True

    def write(self, _content):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("form", get_args(Format))
def test_a_full_disk_is_an_error_of_the_export_and_not_of_the_log(logs, form):
    with pytest.raises(AuditError, match="The file cannot be written") as caught:
        export(logs, Full(), form, ALL, Pins())
    assert "No space left on device" in str(caught.value)
