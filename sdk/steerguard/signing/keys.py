"""Ed25519 keys (RFC 8032): who signs, and who is trusted.

A *signing key* is secret; its *public key* has a text form for trust policies and a short id for file names and
messages. The id is a hint: what counts is whether the signature verifies under the whole public key.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from steerguard.canonical import sha256_hex
from steerguard.errors import SigningKeyError
from steerguard.signing.key_files import SecretKind, read_secret, write_secret

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
KEY_VARIABLE: Final = "STEERGUARD_SIGNING_KEY"
_KIND: Final = SecretKind(
    purpose="signing",
    error=SigningKeyError,
    make_one="Make one with `steerguard keys new PATH`.",
    if_exposed="; if others could read it, revoke the key and make a new one.",
)
KEY_ID_PATTERN: Final = r"^ed25519-[0-9a-f]{16}$"
KEY_TEXT_PATTERN: Final = r"^ed25519:[A-Za-z0-9+/]{43}=$"
_PREFIX: Final = "ed25519:"

_PRIME: Final = 2**255 - 19
_SMALL_ORDER: Final = frozenset(
    {
        0,
        1,
        _PRIME - 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
    }
)
"""The y coordinates of the eight points whose order divides 8: such a key accepts signatures that nobody made."""


@dataclass(frozen=True, slots=True, repr=False)
class PublicKey:
    """A public key: 32 bytes.

    Raises:
        SigningKeyError: not 32 bytes, not in canonical form, or a point of small order.
    """

    raw: bytes

    def __post_init__(self) -> None:
        y = int.from_bytes(self.raw, "little") & (2**255 - 1)
        if len(self.raw) != KEY_BYTES or y >= _PRIME or y in _SMALL_ORDER:
            raise SigningKeyError(
                "This is not an Ed25519 public key.",
                expected=f"{KEY_BYTES} bytes, a point of large order in canonical form",
                found=f"{len(self.raw)} bytes",
                next_step="Ask the owner of the key for what `steerguard keys show` prints.",
            )

    def __repr__(self) -> str:
        return f"PublicKey({self.id})"

    @property
    def id(self) -> str:
        """`ed25519-` and the first 16 hexadecimal digits of the SHA-256 of the raw key."""
        return f"ed25519-{sha256_hex(self.raw)[:16]}"

    @property
    def text(self) -> str:
        """`ed25519:` and the standard base64 form of the raw key, as trust policies write it."""
        return _PREFIX + base64.b64encode(self.raw).decode("ascii")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the key that `text` spells.

        Raises:
            SigningKeyError: not `ed25519:` and 44 characters of base64, or no acceptable key.
        """
        try:
            raw = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except ValueError:
            raw = b""
        if not text.startswith(_PREFIX) or base64.b64encode(raw).decode("ascii") != text.removeprefix(_PREFIX):
            raise SigningKeyError(
                "This is not the text of a public key.",
                expected=f"{_PREFIX} and the base64 form of {KEY_BYTES} bytes",
                found=f"{len(text)} characters",
                next_step="Copy what `steerguard keys show` prints.",
            )
        return cls(raw)

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Return whether the signature is this key's signature of the message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            # ValueError: the 32 bytes are no point of the curve, so that nothing verifies under them.
            return False
        return True


class Signer(Protocol):
    """What can sign: a key in memory, or a device that never shows its key."""

    @property
    def public(self) -> PublicKey:
        """The public key that verifies what `sign` returns."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the Ed25519 signature of the message.

        Raises:
            SigningKeyError: it could not be made.
        """
        ...


class SigningKey:
    """A secret key in memory; implements `Signer`.

    Args:
        seed: the 32 secret bytes (RFC 8032, section 5.1.5).

    Raises:
        SigningKeyError: not 32 bytes.
    """

    __slots__ = ("_private", "_public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise SigningKeyError(
                "This is not an Ed25519 signing key.", expected=f"{KEY_BYTES} bytes", found=f"{len(seed)} bytes"
            )
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self._public = PublicKey(self._private.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"SigningKey({self.public.id})"

    @property
    def public(self) -> PublicKey:
        """The public key."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the Ed25519 signature of the message."""
        return self._private.sign(message)

    @classmethod
    def generate(cls) -> Self:
        """Return a new random key that is in memory only."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a new random key and write it to a file that must not exist yet: PKCS #8 in PEM, mode 0600.

        Raises:
            SigningKeyError: the file exists or cannot be written.
        """
        private = Ed25519PrivateKey.generate()
        write_secret(
            path,
            private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            _KIND,
        )
        return cls(private.private_bytes_raw())

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a key file (PKCS #8 in PEM) that only its owner can read.

        Raises:
            SigningKeyError: missing, a symbolic link, open to other users, encrypted, or no Ed25519 key.
        """
        return cls(_seed_of_pem(read_secret(path, _KIND), where=str(path)))

    @classmethod
    def from_environment(cls, variable: str = KEY_VARIABLE) -> Self | None:
        """Read a key from an environment variable: PEM, or the base64 form of its 32 bytes; None when it is not set.

        Raises:
            SigningKeyError: the variable is set but holds neither.
        """
        text = os.environ.get(variable)
        if text is None:
            return None
        where = f"environment variable {variable}"
        if text.lstrip().startswith("-----BEGIN"):
            return cls(_seed_of_pem(text.encode("utf-8", "replace"), where=where))
        try:
            seed = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            seed = b""
        if len(seed) != KEY_BYTES:
            # The text is a secret, so nothing of it is shown.
            raise SigningKeyError(
                "The variable does not hold a signing key.",
                where=where,
                expected=f"a PKCS #8 key in PEM, or the base64 form of {KEY_BYTES} bytes",
            )
        return cls(seed)


@dataclass(frozen=True, slots=True)
class CallableSigner:
    """A signer around a function, for keys that stay in a key management service or a token; implements `Signer`.

    Args:
        public: the public key of the service's key.
        call: takes the message, returns its Ed25519 signature.
    """

    public: PublicKey
    call: Callable[[bytes], bytes]

    def sign(self, message: bytes) -> bytes:
        """Return the signature that the function made, after it was verified.

        Raises:
            SigningKeyError: the function failed, or what it returned is not this key's signature.
        """
        try:
            signature: object = self.call(message)
        except Exception as error:
            raise SigningKeyError(
                "The signing function failed.", where=self.public.id, found=type(error).__name__
            ) from error
        if not isinstance(signature, bytes) or not self.public.verifies(message, signature):
            raise SigningKeyError(
                "What the signing function returned is not a signature by its key.",
                where=self.public.id,
                expected=f"{SIGNATURE_BYTES} bytes that verify under the public key",
                found=f"{len(signature)} bytes" if isinstance(signature, bytes) else type(signature).__name__,
                next_step="Check that the public key is the one of the service's key, and that it signs with Ed25519.",
            )
        return signature


def _seed_of_pem(content: bytes, *, where: str) -> bytes:
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        # The cause may quote the content, so it stays out of the message and of the traceback.
        raise SigningKeyError(
            "This is not an Ed25519 signing key.",
            where=where,
            expected="an unencrypted Ed25519 key, PKCS #8 in PEM",
            found="something else" if key is None else type(key).__name__,
            next_step="Make one with `steerguard keys new PATH`.",
        )
    return key.private_bytes_raw()
