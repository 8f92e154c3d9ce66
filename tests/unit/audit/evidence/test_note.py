from __future__ import annotations

import base64
import hashlib

import pytest

from steerguard.audit.evidence.note import (
    ED25519,
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    NoteKey,
    NoteSignature,
    key_hash,
    parse_note,
    sign_note,
)
from steerguard.errors import AuditKeyError, AuditVerificationError
from steerguard.signing.keys import PublicKey, SigningKey

# The example in the documentation of Go's package golang.org/x/mod/sumdb/note.
KNOWN_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
KNOWN_TEXT = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.
"""
KNOWN_NOTE = (
    KNOWN_TEXT
    + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

TEXT = "a text\nof two lines\n"


@pytest.fixture(scope="module")
def signer():
    return SigningKey(bytes(range(32)))


@pytest.fixture(scope="module")
def other():
    return SigningKey(bytes(range(1, 33)))


def key_of(signer, name="example.com/audit"):
    return NoteKey(name, signer.public)


def test_a_known_note_verifies_under_its_known_key():
    key = NoteKey.parse(KNOWN_KEY)
    note = parse_note(KNOWN_NOTE.encode())
    assert note.text == KNOWN_TEXT
    assert [(one.name, one.hash) for one in note.signatures] == [("PeterNeumann", "c74f20a3")]
    assert note.signed_by([key]) == (key,)
    assert note.content == KNOWN_NOTE.encode()


def test_a_known_key_reads_back():
    key = NoteKey.parse(KNOWN_KEY)
    assert (key.name, key.hash, key.text) == ("PeterNeumann", "c74f20a3", KNOWN_KEY)
    assert NoteKey.parse(f"  {KNOWN_KEY}\n") == key


def test_the_hash_of_a_key_is_over_its_name_its_kind_and_its_bytes(signer):
    raw = signer.public.raw
    expected = hashlib.sha256(b"a.b\n\x01" + raw).digest()[:4]
    assert key_hash("a.b", signer.public) == expected
    assert NoteKey("a.b", signer.public).text == f"a.b+{expected.hex()}+{base64.b64encode(ED25519 + raw).decode()}"


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n", "ä", "a\x7f", "a\u2028", "n" * 129])
def test_a_name_that_a_note_cannot_hold_is_refused(signer, name):
    with pytest.raises(AuditKeyError, match="name of a checkpoint key"):
        NoteKey(name, signer.public)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # another hash
        "PeterNeumans+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # another name
        "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # capital letters
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TX",  # another key
        "PeterNeumann+c74f20a3+Ahpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # another algorithm
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10Q=",  # a byte short
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW+",
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz",
    ],
)
def test_what_is_no_verifier_key_is_refused(text):
    with pytest.raises(AuditKeyError, match="not a verifier key"):
        NoteKey.parse(text)


def test_a_key_of_small_order_is_no_verifier_key():
    raw = bytes([1]) + bytes(31)
    digest = hashlib.sha256(b"evil\n\x01" + raw).hexdigest()[:8]
    with pytest.raises(AuditKeyError, match="not a verifier key"):
        NoteKey.parse(f"evil+{digest}+{base64.b64encode(ED25519 + raw).decode()}")


def test_a_secret_that_is_given_for_a_verifier_key_stays_out_of_the_message():
    secret = "AYEKFALVFGyNhPJ+EMzD1QIDrY7hfZx09iUvxdXHKDFz"
    with pytest.raises(AuditKeyError) as caught:
        NoteKey.parse(f"-----BEGIN PRIVATE KEY-----\n{secret}+{secret}\n-----END PRIVATE KEY-----")
    assert not any(secret[start : start + 6] in str(caught.value) for start in range(len(secret) - 6))


def test_a_signed_note_verifies_and_reads_back(signer, other):
    note = sign_note(TEXT, [("one", signer), ("two", other)])
    assert parse_note(note.content) == note
    keys = [key_of(other, "two"), key_of(signer, "one")]
    assert note.signed_by(keys) == (keys[1], keys[0])
    assert (
        note.content
        == (
            TEXT
            + "\n"
            + "".join(f"— {one.name} {_base64(bytes.fromhex(one.hash) + one.signature)}\n" for one in note.signatures)
        ).encode()
    )


def test_what_is_signed_is_the_text_with_its_last_newline(signer):
    [signature] = sign_note(TEXT, [("one", signer)]).signatures
    assert signer.public.verifies(TEXT.encode(), signature.signature)


def test_signatures_by_other_keys_are_passed_over(signer, other):
    note = sign_note(TEXT, [("one", signer)])
    assert note.signed_by([key_of(other, "one")]) == ()
    assert note.signed_by([key_of(signer, "two")]) == ()
    assert note.signed_by([]) == ()


def test_a_wrong_signature_by_a_known_key_spoils_the_note(signer, other):
    good = sign_note(TEXT, [("one", signer), ("two", other)])
    first, second = good.signatures
    wrong = NoteSignature(second.name, second.hash, first.signature)
    note = type(good)(TEXT, (first, wrong))
    assert note.signed_by([key_of(signer, "one")]) == (key_of(signer, "one"),)
    with pytest.raises(AuditVerificationError, match="signature of a checkpoint is wrong"):
        note.signed_by([key_of(signer, "one"), key_of(other, "two")])


def test_a_key_that_signed_twice_counts_once(signer):
    note = sign_note(TEXT, [("one", signer), ("one", signer)])
    assert note.signed_by([key_of(signer, "one")]) == (key_of(signer, "one"),)


def test_a_text_may_hold_empty_lines(signer):
    text = "first\n\n— not a signature\n\n\nlast\n"
    note = sign_note(text, [("one", signer)])
    assert parse_note(note.content) == note
    assert parse_note(note.content).signed_by([key_of(signer, "one")])


LINE = "— one " + base64.b64encode(bytes(68)).decode() + "\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"text\n",
        b"text\n\n",
        f"text\n{LINE}".encode(),
        f"text\n\n{LINE}".encode()[:-1],
        f"text\n\n{LINE}\n".encode(),
        f"text\n\n{LINE}more\n".encode(),
        f"text\r\n\n{LINE}".encode(),
        f"te\txt\n\n{LINE}".encode(),
        f"te\x00xt\n\n{LINE}".encode(),
        f"text\n\n{LINE}".encode("utf-16"),
        b"\xff" + f"text\n\n{LINE}".encode(),
        f"text\n\n{LINE.replace('—', '-')}".encode(),
        f"text\n\n{LINE.replace('one', 'o+e')}".encode(),
        f"text\n\n{LINE.replace('one', '')}".encode(),
        f"text\n\n{LINE.replace('one ', 'one  ')}".encode(),
        f"text\n\n{LINE.replace('=', '')}".encode(),
        f"text\n\n{LINE.replace('A=', 'B=')}".encode(),
        "text\n\n— one AAAAAA==\n".encode(),
        "text\n\n— one \n".encode(),
        f"text\n\n{LINE * (MAX_SIGNATURES + 1)}".encode(),
        f"{'x' * MAX_NOTE_BYTES}\n\n{LINE}".encode(),
    ],
)
def test_what_is_no_signed_note_is_refused(content):
    with pytest.raises(AuditVerificationError, match="not a signed note"):
        parse_note(content)


def test_signatures_of_another_kind_are_read_and_passed_over(signer):
    cosignature = "— witness " + base64.b64encode(bytes(80)).decode() + "\n"
    note = parse_note(sign_note(TEXT, [("one", signer)]).content + cosignature.encode())
    assert [one.name for one in note.signatures] == ["one", "witness"]
    assert note.signed_by([key_of(signer, "one")]) == (key_of(signer, "one"),)


def test_a_public_key_that_is_no_point_verifies_nothing(signer):
    no_point = PublicKey(bytes([2]) + bytes(31))
    note = sign_note(TEXT, [("one", signer)])
    claimed = type(note)(TEXT, (NoteSignature("one", NoteKey("one", no_point).hash, note.signatures[0].signature),))
    with pytest.raises(AuditVerificationError, match="signature of a checkpoint is wrong"):
        claimed.signed_by([NoteKey("one", no_point)])


def _base64(raw):
    return base64.b64encode(raw).decode("ascii")
