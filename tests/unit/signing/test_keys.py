from __future__ import annotations

import base64
import os
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from steerguard.errors import SigningKeyError
from steerguard.signing.keys import KEY_VARIABLE, CallableSigner, PublicKey, SigningKey

# RFC 8032, section 7.1, tests 1 to 3: seed, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_signatures_are_those_of_rfc_8032(seed, public, message, signature):
    key = SigningKey(bytes.fromhex(seed))
    assert key.public.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert key.public.verifies(bytes.fromhex(message), bytes.fromhex(signature))


def test_a_signature_holds_for_its_message_and_key_only():
    key, other = SigningKey.generate(), SigningKey.generate()
    signature = key.sign(b"message")
    assert not key.public.verifies(b"messagE", signature)
    assert not other.public.verifies(b"message", signature)
    for position in range(len(signature)):
        changed = bytearray(signature)
        changed[position] ^= 1
        assert not key.public.verifies(b"message", bytes(changed))
    for wrong in (b"", signature[:-1], signature + b"\0"):
        assert not key.public.verifies(b"message", wrong)


def test_the_text_of_a_public_key_parses_to_itself():
    public = SigningKey.generate().public
    assert PublicKey.parse(public.text) == public
    assert public.text.startswith("ed25519:")
    assert public.id.startswith("ed25519-")
    assert len(public.id) == len("ed25519-") + 16


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "",
        lambda text: text.removeprefix("ed25519:"),
        lambda text: text + "\n",
        lambda text: text + "=",
        lambda text: text[:-1],
        lambda text: text.replace("ed25519:", "ed25519: "),
        lambda text: text.replace("ed25519:", "ed25519:é"),
        lambda _: "ed25519:" + base64.b64encode(b"x" * 31).decode(),
        lambda _: "ed25519:" + base64.b64encode(b"x" * 33).decode(),
        # The last character holds two bits that no byte needs: a second spelling of the same key.
        lambda _: "ed25519:" + base64.b64encode(bytes(31) + b"\x01").decode()[:-2] + "F=",
    ],
)
def test_another_text_is_no_public_key(change):
    with pytest.raises(SigningKeyError):
        PublicKey.parse(change(SigningKey.generate().public.text))


def _points_of_small_order():
    """All encodings of points P with 8 P = 0, found by doubling on the curve, not by a list."""
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p

    def add(one, two):
        (x1, y1), (x2, y2) = one, two
        t = d * x1 * x2 * y1 * y2 % p
        return (
            (x1 * y2 + x2 * y1) * pow(1 + t, -1, p) % p,
            (y1 * y2 + x1 * x2) * pow(1 - t, -1, p) % p,
        )

    def from_y(y):
        square = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
        x = pow(square, (p + 3) // 8, p)
        if x * x % p != square:
            x = x * pow(2, (p - 1) // 4, p) % p
        return (x, y) if x * x % p == square else None

    order = 2**252 + 27742317777372353535851937790883648493
    for y in range(2, 100):
        point = from_y(y)
        if point is None:
            continue
        torsion, addend, left = (0, 1), point, order
        while left:
            torsion, addend, left = (add(torsion, addend) if left & 1 else torsion), add(addend, addend), left >> 1
        multiples = [(0, 1)]
        for _ in range(7):
            multiples.append(add(multiples[-1], torsion))
        if len(set(multiples)) == 8:
            return {(y | (x & 1) << 255).to_bytes(32, "little") for x, y in multiples}
    raise AssertionError("no point of order 8 found")


def test_points_of_small_order_and_second_spellings_are_no_keys():
    points = _points_of_small_order()
    assert len(points) == 8
    prime = 2**255 - 19
    spelled_twice = {
        (y | sign << 255).to_bytes(32, "little") for y in (prime, prime + 1, 2**255 - 1) for sign in (0, 1)
    }
    for raw in points | spelled_twice:
        with pytest.raises(SigningKeyError, match="large order"):
            PublicKey(raw)


def test_bytes_that_are_no_point_verify_nothing():
    key = SigningKey.generate()
    refused = 0
    for y in range(2, 40):
        public = PublicKey(y.to_bytes(32, "little"))
        assert not public.verifies(b"m", key.sign(b"m"))
        refused += 1
    assert refused == 38


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_have_32_bytes(length):
    with pytest.raises(SigningKeyError):
        SigningKey(bytes(length))
    with pytest.raises(SigningKeyError):
        PublicKey(bytes(length))


def test_a_created_key_reads_back_and_is_private(tmp_path):
    path = tmp_path / "signing.key"
    key = SigningKey.create(path)
    assert SigningKey.from_file(path).public == key.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert list(tmp_path.iterdir()) == [path]


def test_create_never_replaces_a_key(tmp_path):
    path = tmp_path / "signing.key"
    key = SigningKey.create(path)
    with pytest.raises(SigningKeyError, match="File exists"):
        SigningKey.create(path)
    assert SigningKey.from_file(path).public == key.public
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_in_a_missing_folder_cannot_be_made(tmp_path):
    with pytest.raises(SigningKeyError, match="No such file"):
        SigningKey.create(tmp_path / "absent" / "signing.key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_key_file_open_to_others_is_refused(tmp_path, mode):
    path = tmp_path / "signing.key"
    SigningKey.create(path)
    path.chmod(mode)
    with pytest.raises(SigningKeyError, match="chmod 600"):
        SigningKey.from_file(path)


def test_symbolic_links_pipes_folders_and_missing_files_are_refused(tmp_path):
    SigningKey.create(tmp_path / "real.key")
    (tmp_path / "link.key").symlink_to(tmp_path / "real.key")
    os.mkfifo(tmp_path / "pipe.key", 0o600)
    (tmp_path / "folder.key").mkdir(mode=0o700)
    for name in ("link.key", "pipe.key", "folder.key", "missing.key", "nul\0.key"):
        with pytest.raises(SigningKeyError, match=r"\.key"):
            SigningKey.from_file(tmp_path / name)


def _pem(key, encryption=None):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        encryption or serialization.NoEncryption(),
    )


def test_other_keys_and_other_content_are_refused_without_showing_it(tmp_path):
    path = tmp_path / "signing.key"
    contents = [
        b"",
        b"secret words",
        b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
        _pem(generate_private_key(SECP256R1())),
        _pem(Ed25519PrivateKey.generate(), serialization.BestAvailableEncryption(b"pass")),
        b"x" * 20_000,
    ]
    for content in contents:
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(SigningKeyError, match=r"signing\.key") as caught:
            SigningKey.from_file(path)
        assert "secret" not in str(caught.value)
        assert "c2Vjc" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_key_in_the_environment_is_pem_or_base64(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert SigningKey.from_environment() is None
    private = Ed25519PrivateKey.generate()
    seed = private.private_bytes_raw()
    for text in (_pem(private).decode(), base64.b64encode(seed).decode() + "\n"):
        monkeypatch.setenv(KEY_VARIABLE, text)
        found = SigningKey.from_environment()
        assert found is not None
        assert found.public == SigningKey(seed).public
    monkeypatch.setenv("OTHER_KEY", base64.b64encode(seed).decode())
    assert SigningKey.from_environment("OTHER_KEY").public == SigningKey(seed).public


@pytest.mark.parametrize("text", ["", "hunter2", base64.b64encode(b"x" * 31).decode(), "-----BEGIN nothing"])
def test_a_wrong_key_in_the_environment_is_an_error_not_no_key(monkeypatch, text):
    monkeypatch.setenv(KEY_VARIABLE, text)
    with pytest.raises(SigningKeyError, match=KEY_VARIABLE) as caught:
        SigningKey.from_environment()
    assert text == "" or text not in str(caught.value)


def test_no_form_of_a_signing_key_shows_its_secret():
    seed = bytes(range(32))
    key = SigningKey(seed)
    shown = f"{key} {key!r} {vars(key) if hasattr(key, '__dict__') else ''}"
    assert key.public.id in shown
    for form in (seed.hex(), base64.b64encode(seed).decode(), repr(seed)):
        assert form not in shown


def test_a_function_signs_where_its_signature_verifies():
    key = SigningKey.generate()
    signer = CallableSigner(key.public, key.sign)
    assert signer.sign(b"message") == key.sign(b"message")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (SigningKey.generate().sign, "not a signature by its key"),
        (lambda _: b"", "0 bytes"),
        (lambda _: "text", "str"),
        (lambda _: None, "NoneType"),
        (lambda message: {}[message], "KeyError"),
    ],
)
def test_what_a_function_returns_is_checked(call, named):
    with pytest.raises(SigningKeyError, match=named):
        CallableSigner(SigningKey.generate().public, call).sign(b"message")
