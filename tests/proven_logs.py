"""Logs that are made line by line, with signed checkpoints where a test wants them: what proofs are made of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from steerguard.audit.evidence.checkpoint import DEFAULT_KEY_NAME, SignedHead, TreeHead, sign_head, stored
from steerguard.audit.evidence.layout import checkpoints_name, segment_name
from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.evidence.tree import Frontier
from steerguard.audit.records.chain import FIRST_PREV, canonical_line, leaf_hash
from steerguard.signing.keys import SigningKey

LOG = "20261122T071532Z-7809bc8c2669ad56"
SIGNER = SigningKey(bytes(range(32)))
OTHER = SigningKey(bytes(range(1, 33)))
KEY = NoteKey(DEFAULT_KEY_NAME, SIGNER.public)
OTHER_KEY = NoteKey(DEFAULT_KEY_NAME, OTHER.public)


def lines_of(count: int, *, log: str = LOG, key: NoteKey = KEY, rotations: Iterable[int] = ()) -> list[bytes]:
    """The lines of a log: log.open, a bypass per record whose request is its number modulo 5, log.rotate where asked for."""
    starts = sorted(rotations)
    lines: list[bytes] = []
    frontier = Frontier()
    for seq in range(count):
        if seq == 0:
            fields = {"type": "log.open", "checkpoint_key": key.text}
        elif seq in starts:
            fields = {"type": "log.rotate", "size": seq, "root": frontier.root().hex()}
            fields |= {"peaks": [peak.hex() for peak in frontier.peaks], "segment": starts.index(seq) + 1}
        else:
            fields = {"type": "guard.bypass", "req": f"request-{seq % 5}", "reason": "a test"}
        prev = leaf_hash(lines[-1]) if lines else FIRST_PREV
        envelope = {"v": 1, "log": log, "seq": seq, "t": "2026-11-22T07:15:32.000000Z", "mono": seq, "prev": prev}
        lines.append(canonical_line({**envelope, **fields}))
        frontier.append(bytes.fromhex(leaf_hash(lines[-1])))
    return lines


def head_over(
    lines: Sequence[bytes], size: int, *, log: str = LOG, signers: Sequence[SigningKey] = (SIGNER,)
) -> SignedHead:
    """The signed checkpoint over the first `size` lines."""
    frontier = Frontier()
    for line in lines[:size]:
        frontier.append(bytes.fromhex(leaf_hash(line)))
    return sign_head(TreeHead(log, size, frontier.root()), [(DEFAULT_KEY_NAME, signer) for signer in signers])


def write_log(
    directory: Path,
    lines: Sequence[bytes],
    heads: Iterable[SignedHead],
    *,
    log: str = LOG,
    rotations: Iterable[int] = (),
    finished: bool = False,
) -> None:
    """Write a log as its process would, in segments that begin at the rotations."""
    starts = [0, *sorted(rotations), len(lines)]
    for number, (start, end) in enumerate(pairwise(starts)):
        (directory / segment_name(log, number)).write_bytes(b"".join(line + b"\n" for line in lines[start:end]))
    checkpoints = directory / checkpoints_name(log)
    checkpoints.write_bytes(b"".join(stored(head) for head in heads))
    checkpoints.chmod(0o400 if finished else 0o600)


def requests_of(lines: Sequence[bytes]) -> list[str | None]:
    """The request of each line."""
    return [json.loads(line).get("req") for line in lines]
