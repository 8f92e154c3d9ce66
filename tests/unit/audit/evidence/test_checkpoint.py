from __future__ import annotations

import base64

import pytest

from steerguard.audit.evidence.checkpoint import SignedHead, TreeHead, parse_head, sign_head, split_notes, stored
from steerguard.audit.evidence.note import NoteKey, sign_note
from steerguard.audit.evidence.tree import EMPTY_ROOT
from steerguard.errors import AuditVerificationError
from steerguard.signing.keys import SigningKey

LOG = "20261122T071532Z-7809bc8c2669ad56"
ROOT = bytes(range(32))


@pytest.fixture(scope="module")
def signer():
    return SigningKey(bytes(range(32)))


def head_at(size):
    return TreeHead(LOG, size, ROOT)


def test_the_text_is_origin_size_and_root():
    assert TreeHead(LOG, 0, EMPTY_ROOT).text == (
        f"steerguard-audit/{LOG}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
    )


@pytest.mark.parametrize("size", [0, 1, 9, 10, 2**53 - 1])
def test_a_signed_head_reads_back_and_verifies(signer, size):
    signed = sign_head(head_at(size), [("steerguard-audit", signer)])
    key = NoteKey("steerguard-audit", signer.public)
    assert parse_head(signed.note.content) == signed
    assert signed.note.signed_by([key]) == (key,)


def test_a_signature_is_over_one_log_one_size_and_one_root(signer):
    key = NoteKey("steerguard-audit", signer.public)
    signed = sign_head(head_at(7), [("steerguard-audit", signer)])
    for head in (
        TreeHead(LOG.replace("7809", "7808"), 7, ROOT),
        TreeHead(LOG, 8, ROOT),
        TreeHead(LOG, 7, EMPTY_ROOT),
    ):
        moved = SignedHead(head, type(signed.note)(head.text, signed.note.signatures))
        with pytest.raises(AuditVerificationError, match="signature of a checkpoint is wrong"):
            moved.note.signed_by([key])


TEXT = head_at(7).text
ENCODED = base64.b64encode(ROOT).decode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("steerguard-audit/", "example.com/"),
        TEXT.replace("steerguard-audit/", ""),
        TEXT.replace(LOG, LOG.upper()),
        TEXT.replace(LOG, LOG[:-1]),
        TEXT.replace("\n7\n", "\n07\n"),
        TEXT.replace("\n7\n", "\n-7\n"),
        TEXT.replace("\n7\n", "\n7 \n"),
        TEXT.replace("\n7\n", "\n\u0667\n"),
        TEXT.replace("\n7\n", "\n\n"),
        TEXT.replace("\n7\n", f"\n{10**16}\n"),
        TEXT.replace(ENCODED, ENCODED[:-1]),
        TEXT.replace(ENCODED, ENCODED[:-2] + "9="),
        TEXT.replace(ENCODED, base64.b64encode(ROOT + b"\x00").decode()),
        TEXT.replace(ENCODED, base64.b64encode(ROOT[:-1]).decode()),
        TEXT + "an extension\n",
        TEXT + "\n",
        "\n" + TEXT,
    ],
)
def test_a_note_about_something_else_is_no_checkpoint(signer, text):
    assert text != TEXT
    with pytest.raises(AuditVerificationError, match="not a checkpoint of an audit log"):
        parse_head(sign_note(text, [("steerguard-audit", signer)]).content)


def test_what_is_no_note_is_no_checkpoint():
    with pytest.raises(AuditVerificationError, match="not a signed note"):
        parse_head(TEXT.encode())


def test_a_file_of_checkpoints_splits_into_its_notes(signer):
    signed = [sign_head(head_at(size), [("a", signer), ("b", signer)]) for size in (1, 20, 300)]
    content = b"".join(stored(one) for one in signed)
    assert [parse_head(note) for note in split_notes(content)] == signed
    assert list(split_notes(b"")) == []


def test_every_cut_leaves_the_whole_notes_and_a_rest_that_is_no_whole_note(signer):
    signed = [sign_head(head_at(size), [("a", signer)]) for size in (1, 20, 300)]
    pieces = [stored(one) for one in signed]
    content = b"".join(pieces)
    whole_ends = [sum(map(len, pieces[:count])) for count in range(4)]
    for cut in range(len(content)):
        notes = list(split_notes(content[:cut]))
        whole = sum(end <= cut for end in whole_ends) - 1
        assert [parse_head(note) for note in notes[:whole]] == signed[:whole]
        assert b"".join(note + b"\n" for note in notes[:whole]) + b"".join(notes[whole:]) == content[:cut]
        assert len(notes) - whole == (cut not in whole_ends)
