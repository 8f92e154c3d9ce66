"""What pruning learns of a directory."""

from __future__ import annotations

from steerguard.audit.evidence.layout import segment_name
from steerguard.audit.log import AuditLog
from steerguard.audit.records.record import bypass_event
from steerguard.audit.upkeep.retention_survey import survey
from steerguard.audit.verify import verify_directory


def written(directory, *, segments=3):
    with AuditLog.open(directory, content="none") as log:
        for _ in range(segments - 1):
            log.record(bypass_event("unguided", "a test"))
            log.rotate()
    return log.log_id


def test_segments_follow_one_another_and_the_last_one_ends_the_log(tmp_path):
    log = written(tmp_path)
    (facts,) = survey(tmp_path).logs
    assert [(one.log, one.number) for one in facts.segments] == [(log, 0), (log, 1), (log, 2)]
    assert facts.segments[0].first_seq == 0
    for before, after in zip(facts.segments, facts.segments[1:], strict=False):
        assert after.first_seq == before.last_seq + 1
    assert sum(one.records for one in facts.segments) == facts.report.records
    assert [one.whole for one in facts.segments] == [False, False, True]
    assert facts.segments[-1].root == verify_directory(tmp_path).logs[0].root
    assert len({one.root for one in facts.segments}) == 3


def test_the_open_segment_of_a_log_in_use_is_not_complete(tmp_path):
    with AuditLog.open(tmp_path, content="none") as log:
        log.rotate()
        (facts,) = survey(tmp_path).logs
    assert [one.number for one in facts.segments] == [0]
    assert not facts.segments[0].whole


def test_a_segment_that_may_still_be_written_ends_the_row(tmp_path):
    log = written(tmp_path)
    (tmp_path / segment_name(log, 1)).chmod(0o600)
    (facts,) = survey(tmp_path).logs
    assert [one.number for one in facts.segments] == [0]


def test_of_a_broken_log_only_the_segments_before_the_break_count(tmp_path):
    log = written(tmp_path)
    path = tmp_path / segment_name(log, 1)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"a test", b"a tess"))
    path.chmod(0o400)
    (facts,) = survey(tmp_path).logs
    assert facts.report.status == "broken"
    assert [one.number for one in facts.segments] == [0]


def test_a_log_names_the_one_before_it(tmp_path):
    first = written(tmp_path, segments=1)
    second = written(tmp_path, segments=1)
    found = survey(tmp_path)
    named = {facts.files.log: facts.segments[0].names for facts in found.logs}
    assert first in named[second] or second in named[first]
    assert found.pruned == ()


def test_an_empty_directory_has_nothing(tmp_path):
    assert survey(tmp_path).logs == ()
