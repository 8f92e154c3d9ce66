"""Ways to tamper with checkpoints, with whole logs and with what was pruned; see `audit_tampering`."""

from __future__ import annotations

import random

import orjson
from tests.built_audit_logs import FOREIGN_KEY, KEY, KEY_NAME, NEXT_KEY, Builder, BuiltLog, events, note_key
from tests.tampered_audit_case import Case, Expected

from steerguard.audit.evidence.checkpoint import TreeHead, parse_head, sign_head, stored
from steerguard.audit.evidence.layout import checkpoints_name, segment_name
from steerguard.audit.evidence.tree import Frontier
from steerguard.audit.records.chain import FIRST_PREV, canonical_line, leaf_hash
from steerguard.audit.verify import Pins
from steerguard.signing.keys import SigningKey


def swap_checkpoints(case: Case) -> Expected:
    """Delete, repeat, exchange or replace checkpoints, or the whole file of them."""
    sizes = [size for size, _ in case.victim.notes]
    notes = [note for _, note in case.victim.notes]
    others = [log for log in case.logs if log is not case.victim]
    index = case.random.randrange(len(notes))
    kind = case.random.choice(
        ["delete", "repeat", "exchange", "other log", "other key", "other root", "file", "no file"]
    )
    log = case.victim.log
    if kind == "exchange" and len(notes) > 1:
        index, second = sorted(case.random.sample(range(len(notes)), 2))
        notes[index], notes[second] = notes[second], notes[index]
    elif kind == "repeat":
        later = case.random.randrange(index, len(notes))
        notes.insert(later + 1, notes[index])
        index = later + 1
        case.write_notes(notes)
        return Expected(log, exact=sizes[later])
    elif kind == "other log":
        notes[index] = case.random.choice(case.random.choice(others).notes)[1]
    elif kind in {"other key", "other root"}:
        head = parse_head(notes[index][:-1]).head
        root = head.root if kind == "other key" else bytes(32)
        notes[index] = stored(sign_head(TreeHead(log, head.size, root), [(KEY_NAME, FOREIGN_KEY)]))
    elif kind == "file":
        case.write_notes([note for _, note in case.random.choice(others).notes])
        return Expected(log, exact=0)
    elif kind == "no file":
        (case.directory / checkpoints_name(log)).unlink()
        return Expected(log, exact=0)
    else:
        del notes[index]
    case.write_notes(notes)
    return Expected(log, exact=case.notes_before(index))


def rewrite(case: Case) -> Expected:
    """Change a record and compute everything after it anew, with the checkpoints as they were or signed by another key."""
    kind = case.random.choice(["kept", "other key", "other log", "own key"])
    position = 0 if kind == "other log" else case.some_record(first=1)
    signers = {"own key": KEY, "other key": FOREIGN_KEY, "other log": FOREIGN_KEY}
    lines = list(case.victim.lines)
    prev = leaf_hash(lines[position - 1]) if position else FIRST_PREV
    for at in range(position, len(lines)):
        record = orjson.loads(lines[at])
        if at == position:
            record["t"] = record["t"][:-2] + ("1Z" if record["t"][-2] != "1" else "2Z")
            if kind == "other log":
                record["checkpoint_key"] = note_key(FOREIGN_KEY).text
        lines[at] = canonical_line({**record, "prev": prev})
        prev = leaf_hash(lines[at])
    ends = [*case.victim.segments[1:], len(lines)]
    case.write_rows([lines[start:end] for start, end in zip(case.victim.segments, ends, strict=True)])
    if kind == "own key":
        # Whoever owns the process has its key, so the checkpoints that were kept elsewhere are what shows it.
        case.pins = Pins(heads=tuple(parse_head(note[:-1]) for _, note in case.victim.notes))
    if kind in signers:
        case.write_notes(_resigned(case, lines, position, signers[kind]))
    last = max((size for size, _ in case.victim.notes if size <= position), default=0)
    return Expected(case.victim.log, at=position, exact=last)


def delete_log(case: Case) -> Expected:
    """Delete every file of a log that a later one names, or all but its checkpoints."""
    victim = case.logs[0]
    case.victim = victim
    keep = checkpoints_name(victim.log) if case.random.random() < 0.3 else None
    for path in list(case.directory.iterdir()):
        if path.name.startswith(victim.log) and path.name != keep:
            path.unlink()
    return Expected(victim.log, missing=True)


def tamper_tombstone(case: Case) -> Expected:
    """Prune a log whose record of pruning is then removed, altered, or forged."""
    kind = case.random.choice(["removed", "altered", "forged", "none"])
    old, by = _pruned_log(case.random)
    whole = case.random.random() < 0.3
    last = len(old.segments) - 1 if whole else case.random.randrange(len(old.segments) - 1)
    builder = Builder(by, seed=case.random.random())
    events(builder, case.random.randrange(1, 5))
    tombstone = builder.seq
    if kind in {"removed", "altered"}:
        builder.prune(old, (0, last), whole=whole)
    builder.event()
    events(builder, case.random.randrange(1, 5))
    keeper = builder.close()
    lines = list(keeper.lines)
    if kind == "removed":
        del lines[tombstone]
    elif kind == "altered":
        record = orjson.loads(lines[tombstone])
        record["root"] = "0" * 64
        lines[tombstone] = canonical_line(record)
    elif kind == "forged":
        forger = Builder(by, seed=0)
        forger.built.lines = list(lines[:tombstone])
        forger.prev = leaf_hash(lines[tombstone - 1])
        forger.prune(old, (0, last), whole=whole)
        lines[tombstone] = forger.built.lines[-1]
    for path in list(case.directory.iterdir()):
        path.unlink()
    old.write(case.directory)
    for number in range(last + 1):
        (case.directory / segment_name(old.log, number)).unlink()
    keeper.write(case.directory)
    (case.directory / segment_name(keeper.log, 0)).write_bytes(b"".join(line + b"\n" for line in lines))
    case.victim = old
    if whole:
        return Expected(old.log, missing=True)
    return Expected(old.log, at=0, exact=0)


def _resigned(case: Case, lines: list[bytes], position: int, signer: SigningKey) -> list[bytes]:
    tree = Frontier()
    roots = {}
    for size, line in enumerate(lines, start=1):
        tree.append(bytes.fromhex(leaf_hash(line)))
        roots[size] = tree.root()
    notes = []
    for size, note in case.victim.notes:
        if size <= position:
            notes.append(note)
            continue
        # The log's own keys sign again where they are had; a change of the key keeps its two signatures.
        names = {one.hash for one in parse_head(note[:-1]).note.signatures}
        own = [key for key in (KEY, NEXT_KEY) if note_key(key).hash in names]
        signers = own if signer is KEY else [signer]
        notes.append(
            stored(sign_head(TreeHead(case.victim.log, size, roots[size]), [(KEY_NAME, one) for one in signers]))
        )
    return notes


def _pruned_log(source: random.Random) -> tuple[BuiltLog, int]:
    builder = Builder(0, seed=source.random())
    for _ in range(source.randrange(1, 4)):
        events(builder, source.randrange(1, 6))
        builder.rotate()
    events(builder, source.randrange(1, 6))
    return builder.close(), 1
