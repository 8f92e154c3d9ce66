from __future__ import annotations

import os

import pytest
from tests.audit_events import LOG, OTHER_LOG, bypass, decision, refusal
from tests.chained_logs import OPEN, chained, content, fields, record, write_log

from steerguard.audit.evidence.layout import checkpoints_name, segment_name
from steerguard.audit.reading.tail import Tail, TailBreak, TailLine
from steerguard.audit.records.chain import canonical_line, leaf_hash
from steerguard.audit.verification.files import MAX_LINE_BYTES
from steerguard.errors import AuditVerificationError

THIRD_LOG = "20261123T071532Z-aaaaaaaaaaaaaaaa"


def everything(_record):
    return True


def places(items):
    """Log and sequence number of the lines; a break by its reason."""
    return [item.reason if isinstance(item, TailBreak) else (item.log, item.record["seq"]) for item in items]


def append(path, *lines):
    with path.open("ab") as file:
        file.write(content(lines))


def more(path, bodies):
    """Chained lines that follow those of a segment."""
    lines = path.read_bytes().splitlines()
    return chained(bodies, log=path.name[:33], prev=leaf_hash(lines[-1]), seq=len(lines))


def test_the_newest_lines_of_all_logs_come_oldest_first(tmp_path):
    write_log(tmp_path, [bypass()] * 3, log=OTHER_LOG)
    write_log(tmp_path, [bypass()] * 4, log=LOG, close=False)
    # Both logs have the same times, so equal ones go by log.
    both = [(log, seq) for seq in range(5) for log in (OTHER_LOG, LOG)]
    assert places(Tail(tmp_path, everything).newest(4)) == both[-4:]
    assert places(Tail(tmp_path, everything).newest(100)) == both


@pytest.mark.parametrize("count", [0, 1, 3, 7, 8, 50])
def test_as_many_as_asked_for_and_no_more(tmp_path, count):
    path = write_log(tmp_path, [bypass()] * 6)
    assert places(Tail(path, everything).newest(count)) == [(LOG, seq) for seq in range(8)][-count or 8 :]


def test_only_admitted_lines_count(tmp_path):
    write_log(tmp_path, [refusal(), *[decision()] * 20, refusal(), *[decision()] * 20])
    refused = Tail(tmp_path, lambda found: found.get("applied") == "refuse")
    assert places(refused.newest(2)) == [(LOG, 1), (LOG, 22)]
    assert list(refused.poll()) == []


def test_lines_of_every_length_are_read_backwards_over_blocks(tmp_path):
    labels = ["x" * (37 * number % 256) for number in range(6000)]
    path = write_log(tmp_path, [bypass(reason=label) for label in labels])
    assert path.stat().st_size > 5 * 2**18
    lines = path.read_bytes().splitlines()
    found = Tail(path, everything).newest(10_000)
    assert [canonical_line(item.record) for item in found] == lines


def test_newest_goes_back_over_segments(tmp_path):
    lines = chained([OPEN, *[bypass()] * 9])
    for number, part in enumerate((lines[:4], lines[4:7], lines[7:], [])):
        (tmp_path / segment_name(LOG, number)).write_bytes(content(part))
    tail = Tail(tmp_path, everything)
    assert places(tail.newest(8)) == [(LOG, seq) for seq in range(2, 10)]
    append(tmp_path / segment_name(LOG, 3), *chained([bypass()], prev=leaf_hash(lines[-1]), seq=10))
    assert places(tail.poll()) == [(LOG, 10)]


def test_following_shows_a_line_when_its_newline_is_there(tmp_path):
    path = write_log(tmp_path, [bypass()], close=False)
    tail = Tail(tmp_path, everything)
    tail.newest(10)
    assert list(tail.poll()) == []
    (line,) = more(path, [bypass()])
    with path.open("ab", buffering=0) as file:
        for piece in (line[:5], line[5:]):
            file.write(piece)
            assert list(tail.poll()) == []
        file.write(b"\n")
        assert places(tail.poll()) == [(LOG, 2)]
        assert list(tail.poll()) == []


def test_a_line_that_was_being_written_at_the_start_is_shown_later(tmp_path):
    path = write_log(tmp_path, [bypass()], close=False)
    (line,) = more(path, [bypass()])
    with path.open("ab", buffering=0) as file:
        file.write(line[:20])
        tail = Tail(tmp_path, everything)
        assert places(tail.newest(1)) == [(LOG, 1)]
        file.write(line[20:] + b"\n")
    assert places(tail.poll()) == [(LOG, 2)]


def test_following_goes_over_to_new_segments_and_new_logs(tmp_path):
    path = write_log(tmp_path, [bypass()], close=False)
    tail = Tail(tmp_path, everything)
    tail.newest(10)
    last, first, second = more(path, [bypass(), bypass(), bypass()])
    append(path, last)
    (tmp_path / segment_name(LOG, 1)).write_bytes(content([first]))
    (tmp_path / segment_name(LOG, 2)).write_bytes(content([second]))
    write_log(tmp_path, [bypass()], log=THIRD_LOG, close=False)
    assert places(tail.poll()) == [(LOG, 2), (LOG, 3), (LOG, 4), (THIRD_LOG, 0), (THIRD_LOG, 1)]
    assert list(tail.poll()) == []


def test_following_one_log_leaves_others_alone(tmp_path):
    path = write_log(tmp_path, [bypass()], close=False)
    tail = Tail(path, everything)
    tail.newest(0)
    write_log(tmp_path, [bypass()], log=THIRD_LOG)
    append(path, *more(path, [bypass()]))
    assert places(tail.poll()) == [(LOG, 2)]


def test_a_directory_that_is_empty_yet_can_be_followed(tmp_path):
    tail = Tail(tmp_path, everything)
    assert tail.newest(5) == []
    (tmp_path / checkpoints_name(LOG)).write_bytes(b"")
    assert list(tail.poll()) == []
    write_log(tmp_path, [bypass()])
    assert places(tail.poll()) == [(LOG, 0), (LOG, 1), (LOG, 2)]


def test_a_log_that_was_pruned_is_left(tmp_path):
    path = write_log(tmp_path, [bypass()])
    tail = Tail(tmp_path, everything)
    tail.newest(5)
    path.unlink()
    assert list(tail.poll()) == []


def test_a_log_whose_first_segments_were_pruned_is_followed_from_what_is_left(tmp_path):
    lines = chained([OPEN, *[bypass()] * 4])
    tail = Tail(tmp_path, everything)
    tail.newest(5)
    (tmp_path / segment_name(LOG, 3)).write_bytes(content(lines[3:]))
    assert places(tail.poll()) == [(LOG, 3), (LOG, 4)]


@pytest.mark.parametrize("following", [False, True])
def test_a_changed_line_breaks_the_chain(tmp_path, following):
    lines = chained([OPEN, *[bypass()] * 4])
    lines[2] = lines[2].replace(b"scoring", b"scorin9")
    path = tmp_path / segment_name(LOG, 0)
    tail = Tail(tmp_path, everything)
    if following:
        assert tail.newest(10) == []
        path.write_bytes(content(lines))
        found = list(tail.poll())
        assert places(found)[3].startswith("the hash of the line before")
    else:
        path.write_bytes(content(lines))
        found = tail.newest(10)
        assert places(found)[0].startswith("a line's hash is not the `prev`")
    assert [item.record["seq"] for item in found if isinstance(item, TailLine)] == [0, 1, 2, 3, 4]
    assert [item.segment for item in found if isinstance(item, TailBreak)] == [path.name]


def test_a_line_that_was_left_out_breaks_the_chain_across_segments(tmp_path):
    lines = chained([OPEN, *[bypass()] * 4])
    (tmp_path / segment_name(LOG, 0)).write_bytes(content(lines[:2]))
    tail = Tail(tmp_path, everything)
    tail.newest(1)
    (tmp_path / segment_name(LOG, 1)).write_bytes(content(lines[3:]))
    assert places(tail.poll()) == ["the hash of the line before is not the `prev` of this one", (LOG, 3), (LOG, 4)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json", "a line is no JSON object"),
        (b"[1]", "a line is no JSON object"),
        (b"\xff\xfe", "a line is no JSON object"),
        (b"", "a line is no JSON object"),
        (canonical_line(record(bypass(), log=OTHER_LOG)), "a record of another log is in it"),
    ],
)
def test_what_is_no_record_of_the_log_is_a_break(tmp_path, line, reason):
    path = tmp_path / segment_name(LOG, 0)
    path.write_bytes(content([line]))
    assert reason in places(Tail(tmp_path, everything).newest(5))
    tail = Tail(tmp_path, everything)
    path.write_bytes(b"")
    tail.newest(5)
    path.write_bytes(content([line]))
    assert reason in places(tail.poll())


def test_a_log_that_became_shorter_is_a_break_once(tmp_path):
    path = write_log(tmp_path, [bypass()] * 3, close=False)
    tail = Tail(tmp_path, everything)
    tail.newest(1)
    lines = path.read_bytes().splitlines()
    path.write_bytes(content(lines[:-1]))
    assert places(tail.poll()) == ["it is shorter than what was read of it"]
    assert list(tail.poll()) == []
    append(path, lines[-1])
    assert places(tail.poll()) == [(LOG, 3)]


def test_a_segment_that_ends_without_a_newline_is_a_break_once_another_follows(tmp_path):
    path = write_log(tmp_path, [bypass()], close=False)
    with path.open("ab") as file:
        file.write(b'{"torn')
    tail = Tail(tmp_path, everything)
    tail.newest(1)
    (tmp_path / segment_name(LOG, 1)).write_bytes(content(more(path, [bypass()])))
    assert places(tail.poll())[0] == "it ends without a newline though another segment follows"
    assert list(tail.poll()) == []


def test_a_line_that_is_too_long_ends_the_following_of_its_log(tmp_path):
    path = write_log(tmp_path, [bypass()], close=False)
    tail = Tail(tmp_path, everything)
    tail.newest(1)
    with path.open("ab") as file:
        file.write(b"x" * (MAX_LINE_BYTES + 2**19))
    assert [place.partition(";")[0] for place in places(tail.poll())] == ["a line is longer than a record may be"]
    assert list(tail.poll()) == []
    append(path, b"")
    with pytest.raises(AuditVerificationError, match="longer than a record"):
        Tail(tmp_path, everything).newest(1)


def test_a_link_and_a_pipe_are_not_read(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(content(chained([OPEN])))
    (tmp_path / segment_name(LOG, 0)).symlink_to(target)
    with pytest.raises(AuditVerificationError, match="cannot be read"):
        Tail(tmp_path, everything).newest(1)
    (tmp_path / segment_name(LOG, 0)).unlink()
    os.mkfifo(tmp_path / segment_name(LOG, 0))
    with pytest.raises(AuditVerificationError, match="cannot be read"):
        Tail(tmp_path, everything).newest(1)


def test_what_is_no_directory_and_no_log_is_refused(tmp_path):
    with pytest.raises(AuditVerificationError, match="not a file of an audit log"):
        Tail(tmp_path / "absent", everything).newest(1)


def test_times_decide_between_logs_and_the_chain_within_one(tmp_path):
    def at(*seconds):
        return [{**fields(bypass()), "t": f"2026-11-22T08:00:0{second}.000000Z"} for second in seconds]

    write_log(tmp_path, at(1, 4, 2), log=OTHER_LOG, close=False)
    write_log(tmp_path, at(3), log=LOG, close=False)
    # The clock was set back before the last record of the first log.
    assert places(Tail(tmp_path, everything).newest(4)) == [(OTHER_LOG, 1), (OTHER_LOG, 2), (OTHER_LOG, 3), (LOG, 1)]
