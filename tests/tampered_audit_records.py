"""Ways to tamper with the records of an audit log, and with its segments; see `audit_tampering`."""

from __future__ import annotations

import random

import orjson
from tests.tampered_audit_case import Case, Expected

from steerguard.audit.evidence.layout import segment_name
from steerguard.audit.records.chain import FIRST_PREV, canonical_line, leaf_hash


def flip(case: Case) -> Expected:
    """Flip one bit of a record that a checkpoint covers, of a checkpoint, or of the torn bytes."""
    chance = case.random.random()
    log = case.victim.log
    if case.victim.torn and chance < 0.2:
        ((name, content),) = case.victim.torn.items()
        (case.directory / name).write_bytes(_flipped(case.random, content))
        seq = next(seq for seq, line in enumerate(case.victim.lines) if b'"log.recovered"' in line)
        return Expected(log, exact=seq)
    if chance < 0.35:
        index = case.random.randrange(len(case.victim.notes))
        notes = [note for _, note in case.victim.notes]
        notes[index] = _flipped(case.random, notes[index])
        case.write_notes(notes)
        return Expected(log, exact=case.notes_before(index))
    position = case.some_record()
    segment, index = case.place(position)
    rows = case.rows()
    path = case.directory / segment_name(log, segment)
    before = b"".join(line + b"\n" for line in rows[segment][:index])
    after = b"".join(line + b"\n" for line in rows[segment][index + 1 :])
    path.write_bytes(before + _flipped(case.random, rows[segment][index] + b"\n") + after)
    return Expected(log, at=position, width=2)


def delete(case: Case) -> Expected:
    """Delete one to three records that follow one another."""
    position = case.some_record()
    rows = case.rows()
    segment, index = case.place(position)
    count = len(rows[segment][index : index + case.random.randrange(1, 4)])
    del rows[segment][index : index + count]
    case.write_rows(rows)
    # At the end of the log all that is missing is told: a later log may know how many records there were.
    width = max(2, count) if position + count == len(case.victim.lines) else 2
    return Expected(case.victim.log, at=position, width=width)


def insert(case: Case) -> Expected:
    """Insert a line: a record of another place or log, a forged one that is rightly chained, or something else."""
    position = case.random.randrange(case.fixed + (1 if case.closed else 0))
    lines = case.victim.lines
    kind = case.random.choice(["own", "other", "forged", "junk"])
    if kind == "own":
        line = case.random.choice([one for one in lines if position == 0 or one != lines[position - 1]])
    elif kind == "other":
        line = case.random.choice(case.random.choice([log for log in case.logs if log is not case.victim]).lines)
    elif kind == "forged":
        model = orjson.loads(case.random.choice(lines))
        prev = leaf_hash(lines[position - 1]) if position else FIRST_PREV
        line = canonical_line({**model, "seq": position, "prev": prev})
    else:
        line = case.random.choice([b"", b"{}", b"null", b"[1]", b"\x00", b"\xff", b'{"seq":' + b"9" * 400 + b"}"])
    if position < len(lines) and line == lines[position]:
        # The same record twice: the second one is too many.
        position += 1
    rows = case.rows()
    segment, index = case.place(min(position, len(lines)))
    rows[segment].insert(index, line)
    case.write_rows(rows)
    return Expected(case.victim.log, at=position, width=2)


def duplicate(case: Case) -> Expected:
    """Repeat a record."""
    position = case.some_record()
    rows = case.rows()
    segment, index = case.place(position)
    rows[segment].insert(index, rows[segment][index])
    case.write_rows(rows)
    return Expected(case.victim.log, at=position + 1, width=1)


def reorder(case: Case) -> Expected:
    """Exchange two records."""
    lines = case.victim.lines
    first = case.some_record()
    second = case.random.choice([min(first + 1, len(lines) - 1), case.random.randrange(len(lines))])
    if first == second:
        second = first - 1 if first else 1
    first, second = sorted((first, second))
    rows = case.rows()
    (one, i), (other, j) = case.place(first), case.place(second)
    rows[one][i], rows[other][j] = rows[other][j], rows[one][i]
    case.write_rows(rows)
    return Expected(case.victim.log, at=first, width=2)


def truncate(case: Case) -> Expected:
    """Cut the log off before its last checkpoint, at a line or inside one."""
    size = case.some_record()
    segment, index = case.place(size)
    rows = [*case.rows()[:segment], case.rows()[segment][:index]]
    case.write_rows(rows)
    if case.random.random() < 0.5:
        line = case.victim.lines[size]
        with (case.directory / segment_name(case.victim.log, segment)).open("ab") as file:
            file.write(line[: case.random.randrange(1, len(line) + 1)])
    return Expected(case.victim.log, at=size, exact=size, width=None)


def swap_segments(case: Case) -> Expected:
    """Exchange the content of segments, take one away, repeat one, or move a line over the border of two."""
    rows = case.rows()
    starts = case.victim.segments
    log = case.victim.log
    kind = case.random.choice(["foreign", "exchange", "missing", "repeat", "back", "forth", "join"])
    if len(rows) == 1 and kind not in {"foreign", "repeat"}:
        kind = "foreign"
    if kind == "foreign":
        other = case.random.choice([one for one in case.logs if one is not case.victim])
        number = case.random.randrange(len(rows)) if case.closed else 0
        content = other.content(case.random.randrange(len(other.segments)))
        (case.directory / segment_name(log, number)).write_bytes(content)
        return Expected(log, at=starts[number], width=1)
    if kind == "repeat":
        number = case.random.randrange(len(rows))
        (case.directory / segment_name(log, len(rows))).write_bytes(case.victim.content(number))
        return Expected(log, at=len(case.victim.lines), width=None)
    first, second = sorted(case.random.sample(range(len(rows)), 2))
    if kind == "exchange":
        rows[first], rows[second] = rows[second], rows[first]
        case.write_rows(rows)
        return Expected(log, at=starts[first], width=1)
    if kind == "missing":
        number = case.random.randrange(len(rows) if case.closed else len(rows) - 1)
        (case.directory / segment_name(log, number)).unlink()
        return Expected(log, at=starts[number])
    second = case.random.randrange(1, len(rows))
    if kind == "back":
        rows[second - 1].append(rows[second].pop(0))
        case.write_rows(rows)
        return Expected(log, at=starts[second], width=1)
    if kind == "forth":
        rows[second].insert(0, rows[second - 1].pop())
        case.write_rows(rows)
        return Expected(log, at=starts[second] - 1, width=1)
    joined = [*rows[: second - 1], rows[second - 1] + rows[second], *rows[second + 1 :]]
    case.write_rows(joined)
    return Expected(log, at=starts[second], width=1)


def _flipped(source: random.Random, content: bytes) -> bytes:
    at = source.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << source.randrange(8)]) + content[at + 1 :]
