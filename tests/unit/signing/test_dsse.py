from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from steerguard.canonical import canonical_bytes
from steerguard.errors import SignatureError, SigningKeyError
from steerguard.signing import dsse
from steerguard.signing.dsse import (
    MAX_SIGNATURES,
    add_signature,
    parse_envelope,
    pre_authentication_encoding,
    sign,
    signers_of,
    verified_payload,
)
from steerguard.signing.keys import SigningKey

TYPE = "application/vnd.example+json"
KEYS = [SigningKey(bytes([number]) * 32) for number in range(1, 4)]
PUBLIC = [key.public for key in KEYS]


def envelope(payload=b'{"a":1}', kind=TYPE, signers=KEYS[:1]):
    return sign(payload, kind, signers)


def edited(content, edit):
    data = json.loads(content)
    edit(data)
    return canonical_bytes(data)


def test_the_encoding_is_that_of_the_dsse_specification():
    # DSSE protocol 1.0.0, section "Test Vectors": body, type, encoding, key and signature (P-256, raw r and s).
    encoded = pre_authentication_encoding(b"hello world", "http://example.com/HelloWorld")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    public = EllipticCurvePublicNumbers(
        46950820868899156662930047687818585632848591499744589407958293238635476079160,
        5640078356564379163099075877009565129882514886557779369047442380624545832820,
        SECP256R1(),
    ).public_key()
    raw = base64.b64decode("A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==")
    signature = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public.verify(signature, encoded, ECDSA(SHA256()))


def test_lengths_are_of_bytes_not_of_characters():
    assert pre_authentication_encoding("ü".encode(), "tüpe") == "DSSEv1 5 tüpe 2 ü".encode()
    assert pre_authentication_encoding(b"", "") == b"DSSEv1 0  0 "


def test_a_signed_payload_comes_back_with_its_signers():
    payload, signers = verified_payload(envelope(signers=KEYS[:2]), TYPE, PUBLIC, where="e")
    assert payload == b'{"a":1}'
    assert signers == tuple(PUBLIC[:2])


def test_the_signature_is_over_the_encoding():
    parsed = parse_envelope(envelope(), where="e")
    assert PUBLIC[0].verifies(b"DSSEv1 28 application/vnd.example+json 7 " + b'{"a":1}', parsed.signatures[0].sig)
    assert not PUBLIC[0].verifies(b'{"a":1}', parsed.signatures[0].sig)


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data.update(payload=base64.b64encode(b'{"a":2}').decode()),
        lambda data: data.update(payloadType="application/vnd.other+json"),
        lambda data: data["signatures"][0].update(sig=base64.b64encode(bytes(64)).decode()),
        lambda data: data["signatures"][0].update(sig=base64.b64encode(bytes(3)).decode()),
    ],
)
def test_a_changed_envelope_verifies_no_more(edit):
    content = edited(envelope(), edit)
    kind = parse_envelope(content, where="e").payload_type
    with pytest.raises(SignatureError, match="not signed by a key"):
        verified_payload(content, kind, PUBLIC, where="e")


def test_a_payload_of_one_type_is_not_one_of_another():
    with pytest.raises(SignatureError, match="another kind"):
        verified_payload(envelope(), "application/vnd.other+json", PUBLIC, where="e")


def test_the_key_id_is_a_hint_only():
    named = edited(envelope(), lambda data: data["signatures"][0].update(keyid=PUBLIC[1].id))
    assert verified_payload(named, TYPE, PUBLIC, where="e")[1] == (PUBLIC[0],)
    with pytest.raises(SignatureError):
        verified_payload(named, TYPE, [PUBLIC[1]], where="e")


def test_the_error_names_expected_and_found_keys():
    with pytest.raises(SignatureError) as caught:
        verified_payload(envelope(), TYPE, PUBLIC[1:], where="index.dsse.json")
    assert caught.value.where == "index.dsse.json"
    assert PUBLIC[1].id in caught.value.expected
    assert PUBLIC[2].id in caught.value.expected
    assert PUBLIC[0].id in caught.value.found


def test_no_keys_accept_nothing():
    with pytest.raises(SignatureError, match="no key may sign"):
        verified_payload(envelope(), TYPE, [], where="e")


@pytest.mark.parametrize("threshold", [0, -1])
def test_a_threshold_below_one_still_needs_a_signature(threshold):
    with pytest.raises(SignatureError):
        verified_payload(envelope(), TYPE, PUBLIC[1:], where="e", threshold=threshold)


def test_a_threshold_counts_keys_not_signatures():
    twice = edited(envelope(), lambda data: data["signatures"].append(dict(data["signatures"][0], keyid="other")))
    with pytest.raises(SignatureError, match="Too few"):
        verified_payload(twice, TYPE, [PUBLIC[0], PUBLIC[0], PUBLIC[1]], where="e", threshold=2)
    both = add_signature(envelope(), KEYS[1], where="e")
    assert verified_payload(both, TYPE, PUBLIC, where="e", threshold=2)[1] == tuple(PUBLIC[:2])


def test_adding_a_signature_keeps_the_others_and_happens_once():
    one = envelope()
    both = add_signature(one, KEYS[1], where="e")
    assert signers_of(parse_envelope(both, where="e"), PUBLIC) == tuple(PUBLIC[:2])
    assert add_signature(both, KEYS[1], where="e") == both


def test_an_envelope_has_room_for_so_many_signatures():
    keys = [SigningKey.generate() for _ in range(MAX_SIGNATURES + 1)]
    full = sign(b"x", TYPE, keys[:-1])
    with pytest.raises(SignatureError, match="full"):
        add_signature(full, keys[-1], where="e")
    for signers in (keys, []):
        with pytest.raises(SigningKeyError, match="1 to 16"):
            sign(b"x", TYPE, signers)


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        (lambda data: data.pop("payload"), "e"),
        (lambda data: data.update(extra=1), "e"),
        (lambda data: data.update(payload=None), "e: payload"),
        (lambda data: data.update(payload="e30"), "e: payload"),
        (lambda data: data.update(payload="e30=\n"), "e: payload"),
        (lambda data: data.update(payload="-_-_"), "e: payload"),
        (lambda data: data.update(payload="e31="), "e: payload"),
        (lambda data: data.update(payload="ü"), "e: payload"),
        (lambda data: data.update(payloadType=""), "e: payloadType"),
        (lambda data: data.update(payloadType="x" * 201), "e: payloadType"),
        (lambda data: data.update(payloadType=7), "e: payloadType"),
        (lambda data: data.update(signatures=[]), "e: signatures"),
        (lambda data: data.update(signatures={}), "e: signatures"),
        (lambda data: data.update(signatures=data["signatures"] * (MAX_SIGNATURES + 1)), "e: signatures"),
        (lambda data: data.update(signatures=["x"]), "e: signatures[0]"),
        (lambda data: data["signatures"][0].update(extra=1), "e: signatures[0]"),
        (lambda data: data["signatures"][0].update(sig=""), "e: signatures[0].sig"),
        (lambda data: data["signatures"][0].update(sig="A" * 4096), "e: signatures[0].sig"),
        (lambda data: data["signatures"][0].update(keyid=None), "e: signatures[0].keyid"),
    ],
)
def test_a_malformed_envelope_is_refused_by_field(edit, where):
    with pytest.raises(SignatureError) as caught:
        parse_envelope(edited(envelope(), edit), where="e")
    assert caught.value.where == where


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":1e999}',
        b'{"a":NaN}',
        b'{"a":"\\ud800"}',
        envelope() + b"\n",
        envelope().replace(b'{"payload"', b'{ "payload"'),
        b'{"payload":"",' + envelope()[1:],
    ],
)
def test_bytes_that_are_no_canonical_envelope_are_refused(content):
    with pytest.raises(SignatureError, match="not a signature envelope"):
        parse_envelope(content, where="e")


def test_a_large_envelope_is_neither_written_nor_parsed(monkeypatch):
    content = envelope()
    monkeypatch.setattr(dsse, "MAX_ENVELOPE_BYTES", len(content) - 1)
    with pytest.raises(SignatureError, match="bytes"):
        parse_envelope(content, where="e")
    with pytest.raises(SignatureError, match="too large"):
        envelope()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000, 65_536])
def test_the_largest_envelope_around_a_payload_is_within_its_limit(size):
    signature = dsse.Signature("é" * dsse.MAX_TEXT, b"\xff" * dsse.MAX_SIGNATURE_BYTES)
    whole = dsse.Envelope(b"\xff" * size, "\x01" * dsse.MAX_TEXT, (signature,) * MAX_SIGNATURES)
    content = dsse.envelope_bytes(whole)
    assert parse_envelope(content, where="e", max_bytes=dsse.envelope_limit(size)) == whole


def test_an_envelope_above_its_limit_is_refused_before_it_is_parsed():
    with pytest.raises(SignatureError, match="at most 20 bytes"):
        parse_envelope(b"{" * 21, where="e", max_bytes=20)
