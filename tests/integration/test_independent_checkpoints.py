"""Checkpoints and proofs of a real log under an implementation of the formats that shares no code with this package.

`metamorphic-log` is a verifier for c2sp.org/signed-note, c2sp.org/tlog-checkpoint and RFC 6962, written in Rust by others.
"""

from __future__ import annotations

import base64
import hashlib
import json

import metamorphic_log
import pytest

from steerguard.audit.evidence.checkpoint import parse_head, split_notes
from steerguard.audit.evidence.layout import checkpoints_name
from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.log import AuditLog
from steerguard.audit.proving.prove import prove_record
from steerguard.audit.records.record import bypass_event
from steerguard.audit.settings import CheckpointSettings
from steerguard.audit.verification.pins import Pins
from steerguard.audit.verify import verify_directory
from steerguard.signing.keys import SigningKey

OLD, NEW, STRANGER = (SigningKey(bytes([number]) * 32) for number in (1, 2, 3))
NAME = "example.com/audit"
OLD_KEY, NEW_KEY, STRANGER_KEY = (NoteKey(NAME, signer.public) for signer in (OLD, NEW, STRANGER))


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A finished log of two segments whose checkpoint key was replaced on the way, and the notes that it wrote."""
    directory = tmp_path_factory.mktemp("audit")
    settings = CheckpointSettings(signer=OLD, name=NAME, every_records=3)
    with AuditLog.open(directory, content="none", checkpoints=settings) as open_log:
        for number in range(8):
            open_log.record(bypass_event("unguided", "a test", request=f"request-{number}"))
        open_log.rotate()
        open_log.rotate_checkpoint_key(NEW)
        for number in range(8, 12):
            open_log.record(bypass_event("unguided", "a test", request=f"request-{number}"))
        name = open_log.log_id
    notes = [note.decode() for note in split_notes((directory / checkpoints_name(name)).read_bytes())]
    return directory, name, notes


def signers(note):
    """Which keys the independent implementation accepts the note under."""
    return [key for key in (OLD_KEY, NEW_KEY, STRANGER_KEY) if accepted(note, key)]


def accepted(note, key):
    try:
        metamorphic_log.checkpoint_verify(note, [key.text])
    except metamorphic_log.VerifyError:
        return False
    return True


def included(proof, **changes):
    """Whether the independent implementation takes the proof, with some of its fields replaced."""
    fields = {"seq": proof.seq, "record": proof.record, "checkpoint": proof.checkpoint, "path": proof.path} | changes
    leaf = hashlib.sha256(b"\x00" + fields["record"].encode()).digest()
    path = [base64.b64decode(one) for one in fields["path"]]
    try:
        metamorphic_log.checkpoint_verify_inclusion(fields["checkpoint"], [proof.key], fields["seq"], leaf, path)
    except metamorphic_log.VerifyError:
        return False
    return True


def test_every_checkpoint_is_accepted_under_the_keys_that_signed_it(log):
    directory, _, notes = log
    by_keys = [signers(note) for note in notes]
    turn = by_keys.index([OLD_KEY, NEW_KEY])
    assert turn > 2
    assert by_keys == [[OLD_KEY]] * turn + [[OLD_KEY, NEW_KEY]] + [[NEW_KEY]] * (len(notes) - turn - 1)
    assert verify_directory(directory, Pins(keys=(OLD_KEY,)), strict=True).status == "ok"


def test_every_checkpoint_is_read_alike(log):
    _, name, notes = log
    for note in notes:
        ours = parse_head(note.encode()).head
        theirs = metamorphic_log.checkpoint_verify(note, [OLD_KEY.text, NEW_KEY.text])
        assert (theirs.origin, theirs.size, theirs.root) == (f"steerguard-audit/{name}", ours.size, ours.root)
        assert theirs.extensions == []


def test_no_altered_checkpoint_is_accepted(log):
    _, _, notes = log
    note = notes[0]
    for at in range(len(note)):
        altered = note[:at] + ("A" if note[at] != "A" else "B") + note[at + 1 :]
        assert not accepted(altered, OLD_KEY)
    assert accepted(note, OLD_KEY)


def test_every_record_is_included_where_it_lies_and_nowhere_else(log):
    directory, name, notes = log
    size = parse_head(notes[-1].encode()).head.size
    for seq in range(size):
        [proof] = prove_record(directory, name, seq, Pins(keys=(NEW_KEY,))).proofs
        assert included(proof)
        assert not included(proof, seq=(seq + 1) % size)
        assert not included(proof, record=proof.record.replace('"v":1', '"v":2'))
        assert not included(proof, path=proof.path[::-1])
        assert not included(proof, path=proof.path[1:])
        assert not included(proof, checkpoint=notes[-2])


def test_an_older_key_proves_what_it_signed(log):
    directory, name, _ = log
    [proof] = prove_record(directory, name, 3, Pins(keys=(OLD_KEY,))).proofs
    assert proof.key == OLD_KEY.text
    assert included(proof)
    assert json.loads(proof.record)["seq"] == 3
