"""Ed25519 as the script checks it, held against RFC 8032 and against the cryptography package."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from steerguard.audit.proving.standalone import verify_proof as script

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
