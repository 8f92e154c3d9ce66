from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from copy import deepcopy

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proven_logs import KEY, LOG, OTHER_KEY, SIGNER, head_over, lines_of

from steerguard.audit.evidence.checkpoint import TreeHead
from steerguard.audit.evidence.note import sign_note
from steerguard.audit.evidence.tree import inclusion_path
from steerguard.audit.proving.proof import PROOF_FORMAT, SCRIPT_NAME, Proof, proof_document, script_content
from steerguard.audit.proving.standalone import verify_proof as script
from steerguard.signing.keys import SigningKey

SIZE = 11


def proof_of(seq, size=SIZE, *, lines=None, head=None, key=KEY):
    lines = lines_of(size) if lines is None else lines
    leaves = [hashlib.sha256(b"\x00" + line).digest() for line in lines[:size]]
    head = head_over(lines, size) if head is None else head
    return Proof.of(seq, lines[seq], head.note.content, inclusion_path(seq, size, leaves), key.text)


def fields_of(proof):
    return json.loads(proof_document([proof]))["proofs"][0]


def accepts(fields, key=KEY.text):
    """Whether the script's own function takes the proof; what it raises is what `main` reports."""
    try:
        script._checked(key, **fields)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return False
    return True


# The script as somebody without this package runs it.


@pytest.fixture
def alone(tmp_path):
    """Run the script in a folder that holds nothing else, without site packages and without the environment."""
    (tmp_path / SCRIPT_NAME).write_bytes(script_content())

    def run(document, *arguments):
        (tmp_path / "proof.json").write_text(document, encoding="utf-8")
        command = [sys.executable, "-I", "-S", "-W", "error", SCRIPT_NAME, *arguments]
        return subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_a_proof_is_proven_by_python_alone(alone):
    proof = proof_of(7)
    result = alone(proof_document([proof]), "proof.json", "--key", KEY.text)
    assert (result.returncode, result.stderr) == (0, "")
    name = f"{KEY.name}+{KEY.hash}"
    assert (
        result.stdout
        == f"Proven: record 7 of log {LOG} is in the tree of 11 records that {name} signed:\n{proof.record}\n"
    )


def test_several_proofs_are_proven_together_or_not_at_all(alone):
    good, altered = proof_of(3), fields_of(proof_of(8))
    result = alone(proof_document([good, proof_of(8)]), "proof.json", "--key", KEY.text)
    assert (result.returncode, result.stdout.count("Proven: ")) == (0, 2)
    altered["record"] = altered["record"].replace("request-3", "request-4")
    result = alone(
        json.dumps({"format": PROOF_FORMAT, "proofs": [fields_of(good), altered]}), "proof.json", "--key", KEY.text
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert "not at this place in the tree" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [(), ("proof.json",), ("proof.json", "--key"), ("proof.json", KEY.text), ("--key", KEY.text), ("a", "b", "c", "d")],
)
def test_without_a_key_nothing_is_proven(alone, arguments):
    result = alone(proof_document([proof_of(7)]), *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert "KEY FROM ITS OWNER" in result.stderr


@pytest.mark.parametrize("key", ["", "a", "a+b", KEY.text + "=", KEY.text[:-1], OTHER_KEY.text, f" {KEY.text}"])
def test_under_another_key_nothing_is_proven(alone, key):
    result = alone(proof_document([proof_of(7)]), "proof.json", "--key", key)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Not proven: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{}",
        "[]",
        "null",
        "[" * 100_000,
        '{"format": "' + PROOF_FORMAT + '", "proofs": []}',
        '{"format": "' + PROOF_FORMAT + '", "proofs": {}}',
        '{"format": "' + PROOF_FORMAT + '", "proofs": [{}]}',
        '{"format": "' + PROOF_FORMAT + '", "proofs": ["key"]}',
        '{"format": "' + PROOF_FORMAT + '", "proofs": [{"\\u001b[2J": 1}]}',
    ],
)
def test_what_is_no_proof_proves_nothing(alone, document):
    result = alone(document, "proof.json", "--key", KEY.text)
    assert (result.returncode, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stderr


def test_another_version_of_the_document_proves_nothing(alone):
    document = proof_document([proof_of(7)]).replace("version 1", "version 2")
    assert alone(document, "proof.json", "--key", KEY.text).returncode == 1


def test_a_file_that_is_not_there_proves_nothing(alone):
    result = alone("", "other.json", "--key", KEY.text)
    assert (result.returncode, result.stdout) == (1, "")
    assert "other.json" in result.stderr


def test_the_script_is_short_and_needs_only_the_standard_library():
    text = script_content().decode("utf-8")
    assert len(text.splitlines()) <= 80
    modules = re.findall(r"^\s*(?:from|import) (\w+)", text, flags=re.MULTILINE)
    assert modules
    assert set(modules) <= sys.stdlib_module_names
    assert "steerguard." not in text.replace("steerguard.errors", "")


# What it accepts.


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31])
def test_every_record_of_a_tree_is_accepted(size):
    lines = lines_of(size)
    head = head_over(lines, size)
    for seq in range(size):
        assert accepts(fields_of(proof_of(seq, size, lines=lines, head=head)))


def test_a_checkpoint_by_two_keys_counts_under_either():
    lines = lines_of(SIZE)
    head = head_over(lines, SIZE, signers=(SIGNER, SigningKey(bytes(range(1, 33)))))
    for key in (KEY, OTHER_KEY):
        assert accepts(fields_of(proof_of(7, lines=lines, head=head, key=key)), key.text)


def test_a_wrong_signature_by_the_key_spoils_a_good_one():
    fields = fields_of(proof_of(7))
    text, _, line = fields["checkpoint"].rpartition("\n\n")
    wrong = sign_note("other\n", [(KEY.name, SIGNER)]).content.decode().rpartition("\n\n")[2]
    assert accepts({**fields, "checkpoint": f"{text}\n\n{line}"})
    assert not accepts({**fields, "checkpoint": f"{text}\n\n{line}{wrong}"})
    assert not accepts({**fields, "checkpoint": f"{text}\n\n{wrong}{line}"})


def test_a_signed_text_that_is_no_checkpoint_is_not_accepted():
    lines = lines_of(SIZE)
    good = head_over(lines, SIZE).head.text
    for text in (
        good.replace("steerguard-audit/", "example.com/"),
        good + "more\n",
        good.replace("\n11\n", "\n 11\n"),
        good.replace("\n11\n", "\neleven\n"),
        TreeHead(LOG.replace("7809", "7808"), SIZE, head_over(lines, SIZE).head.root).text,
    ):
        note = sign_note(text, [(KEY.name, SIGNER)])
        assert not accepts({**fields_of(proof_of(7)), "checkpoint": note.content.decode()})


@pytest.mark.parametrize("seq", [True, 7.0, "7", None, -1, SIZE, [7], 2**70])
def test_a_place_of_another_kind_is_not_accepted(seq):
    assert not accepts({**fields_of(proof_of(7)), "seq": seq})
    assert not accepts({**fields_of(proof_of(1)), "seq": seq})


def test_a_record_that_would_change_a_terminal_is_not_accepted():
    line = b'{"log":"%s",\t"seq":0}' % LOG.encode()
    leaf = hashlib.sha256(b"\x00" + line).digest()
    note = sign_note(TreeHead(LOG, 1, leaf).text, [(KEY.name, SIGNER)])
    fields = {"seq": 0, "record": line.decode(), "checkpoint": note.content.decode(), "path": [], "key": KEY.text}
    assert not accepts(fields)
    line = line.replace(b"\t", b"")
    note = sign_note(TreeHead(LOG, 1, hashlib.sha256(b"\x00" + line).digest()).text, [(KEY.name, SIGNER)])
    assert accepts({**fields, "record": line.decode(), "checkpoint": note.content.decode()})


@st.composite
def alterations(draw):
    """A proof with something in one of its fields altered."""
    fields = deepcopy(GOOD)
    name = draw(st.sampled_from(sorted(fields)))
    value = fields[name]
    if name == "seq":
        fields[name] = draw(st.integers(-2, 2 * SIZE).filter(lambda one: one != value))
    elif name == "path":
        fields[name] = draw(st.sampled_from([path for path in _altered_paths(value, draw) if path != value]))
    else:
        fields[name] = _altered_text(value, draw)
    return fields


def _altered_paths(path, draw):
    at = draw(st.integers(0, len(path) - 1))
    yield path[:at] + path[at + 1 :]
    yield [*path[:at], path[at], *path[at:]]
    yield [*path[:at], _altered_text(path[at], draw), *path[at + 1 :]]
    yield path[::-1]
    yield []


def _altered_text(text, draw):
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(start + 3, len(text))))
    piece = draw(st.text(st.sampled_from(text) | st.characters(exclude_categories=["Cs"]), max_size=3))
    altered = text[:start] + piece + text[end:]
    return altered if altered != text else text + "\n"


GOOD = fields_of(proof_of(6))


@settings(max_examples=200)
@given(alterations())
def test_a_proof_that_was_altered_in_any_field_is_not_accepted(fields):
    assert not accepts(fields) or _is_good_with_a_cosignature(fields)


def _is_good_with_a_cosignature(fields):
    """A signature line of another key may stand below: that is what cosigning is."""
    rest = {name: value for name, value in fields.items() if name != "checkpoint"}
    return rest == {name: GOOD[name] for name in rest} and fields["checkpoint"].startswith(GOOD["checkpoint"] + "— ")


@pytest.mark.parametrize("name", sorted(GOOD))
def test_no_field_may_be_missing_or_of_another_kind(name):
    assert accepts(GOOD)
    assert not accepts({field: value for field, value in GOOD.items() if field != name})
    for value in (None, 0, "", [], {}, True, [None], ["A"]):
        assert not accepts({**GOOD, name: value})
    assert not accepts({**GOOD, "other": 1})
    assert not accepts({**GOOD, "given": KEY.text})


# Ed25519.

VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]
"""Tests 1 to 3 of RFC 8032, section 7.1: public key, message, signature."""
SMALL_ORDER = [
    bytes.fromhex(one)
    for one in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    )
]


def valid(public, message, signature):
    try:
        return script._valid(public, message, signature)
    except (ValueError, IndexError):
        return False


def valid_by_cryptography(public, message, signature):
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def encoded(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


@pytest.mark.parametrize(("public", "message", "signature"), VECTORS)
def test_the_vectors_of_rfc_8032_verify(public, message, signature):
    assert valid(*map(bytes.fromhex, (public, message, signature)))
    assert not valid(*map(bytes.fromhex, (public, message + "00", signature)))


@pytest.mark.parametrize("vector", VECTORS)
def test_a_malleated_signature_does_not_verify(vector):
    public, message, signature = map(bytes.fromhex, vector)
    s = int.from_bytes(signature[32:], "little")
    for factor in range(1, 15):
        malleated = signature[:32] + (s + factor * script.ORDER).to_bytes(32, "little")
        assert not valid(public, message, malleated)
        assert not valid_by_cryptography(public, message, malleated)
    for other in (
        signature + b"\x00",
        signature[:-1],
        signature[:32],
        b"",
        signature + bytes(32),
        bytes(32) + signature,
    ):
        assert not valid(public, message, other)


@pytest.mark.parametrize("public", SMALL_ORDER)
def test_a_key_of_small_order_verifies_nothing(public):
    assert script._times(8, script._point(public)) == (0, 1)
    messages = [b"%d" % number for number in range(20)]
    identity = encoded((0, 1))
    for message in messages:
        assert not valid(public, message, identity + bytes(32))
    # The same forgery passes where small orders are not looked at, for one message in at most eight.
    forged = [message for message in messages if valid_by_cryptography(public, message, identity + bytes(32))]
    assert forged


@pytest.mark.parametrize("y", [script.P, script.P + 1, 2**255 - 1, script.P + 3])
@pytest.mark.parametrize("sign", [0, 1])
def test_a_point_in_another_form_is_none(y, sign):
    raw = (y | sign << 255).to_bytes(32, "little")
    with pytest.raises(ValueError, match="no point"):
        script._point(raw)


@pytest.mark.parametrize("y", [1, script.P - 1])
def test_minus_zero_is_no_coordinate(y):
    assert script._point(y.to_bytes(32, "little")) == (0, y)
    with pytest.raises(ValueError, match="no point"):
        script._point((y | 1 << 255).to_bytes(32, "little"))


def test_half_of_all_values_are_no_coordinate():
    found = 0
    for y in range(100):
        raw = y.to_bytes(32, "little")
        try:
            x, _ = script._point(raw)
        except ValueError:
            continue
        found += 1
        assert (y * y - x * x - 1 - script.D * x * x * y * y) % script.P == 0
        assert encoded((x, y)) == raw
    assert 30 < found < 70


@settings(max_examples=60)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100), st.data())
def test_signatures_are_judged_as_cryptography_judges_them(seed, message, data):
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = private.public_key().public_bytes_raw(), private.sign(message)
    assert valid(public, message, signature)
    parts = [bytearray(public), bytearray(message), bytearray(signature)]
    part = data.draw(st.sampled_from([one for one in parts if one]))
    at = data.draw(st.integers(0, len(part) - 1))
    part[at] ^= data.draw(st.integers(1, 255))
    altered = [bytes(one) for one in parts]
    assert valid(*altered) == valid_by_cryptography(*altered)


def test_keys_of_mixed_order_are_judged_as_cryptography_judges_them():
    scalar, nonce = 12345, 67890
    base = script._point(bytes([0x58]) + bytes([0x66]) * 31)
    twisted = script._add(script._times(scalar, base), script._point(SMALL_ORDER[4]))
    public, commitment = encoded(twisted), encoded(script._times(nonce, base))
    verdicts = []
    for number in range(40):
        message = b"%d" % number
        k = int.from_bytes(hashlib.sha512(commitment + public + message).digest(), "little") % script.ORDER
        signature = commitment + ((nonce + k * scalar) % script.ORDER).to_bytes(32, "little")
        verdicts.append(valid(public, message, signature))
        assert verdicts[-1] == valid_by_cryptography(public, message, signature) == (k % 8 == 0)
    assert 0 < sum(verdicts) < 40
