"""Sealing keys: they wrap the data key of every sealed row, and never encrypt content themselves.

Each row of content has a fresh data key (AES-256-GCM). The data key is stored wrapped by the sealing key, beside the
content; destroying the wrapped key makes the row unreadable for good, for the holder of the sealing key too.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from steerguard.audit.privacy.keys import secret_from_hex
from steerguard.audit.records.fields import class_name
from steerguard.canonical import sha256_hex
from steerguard.errors import AuditKeyError, ContentAlteredError
from steerguard.signing.key_files import SecretKind, read_secret, write_secret

SEALING_KEY_BYTES: Final = 32
DATA_KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
MAX_WRAPPED_BYTES: Final = 344
"""So much room has a slot for a wrapped data key; what key services return for 32 bytes is shorter."""
SEALING_VARIABLE: Final = "STEERGUARD_AUDIT_SEALING_KEY"
MAKE_SEALING_KEY: Final = "Make one with SealingKey.create(path), and keep it away from the log."
_PURPOSE: Final = "sealing content"
_KIND: Final = SecretKind(purpose=_PURPOSE, error=AuditKeyError, make_one=MAKE_SEALING_KEY)

Wrap = Callable[[bytes, bytes], bytes]
"""Takes a data key, or a wrapped one, and associated data; returns the wrapped one, or the data key."""


@dataclass(frozen=True, slots=True)
class SealingKey:
    """What wraps data keys: 32 secret bytes, or the functions of a key service that never shows them.

    Make one with `from_file`, `from_environment`, `create`, `of_secret` or `of_functions`.
    """

    id: str
    """8 hexadecimal digits: of a secret, the first of its SHA-256."""
    _wrap: Wrap = field(repr=False, compare=False)
    _unwrap: Wrap = field(repr=False, compare=False)

    def wrap(self, data_key: bytes, associated: bytes) -> bytes:
        """Return the wrapped data key, bound to the associated data.

        Raises:
            AuditKeyError: the key service failed, or returned something else than 1 to 344 bytes that are not all zero.
        """
        wrapped = _called(self._wrap, data_key, associated, where=f"sealing key {self.id}, wrap")
        if not 1 <= len(wrapped) <= MAX_WRAPPED_BYTES or not any(wrapped) or data_key in wrapped:
            raise AuditKeyError(
                "What the key service returned is not a wrapped key.",
                where=f"sealing key {self.id}, wrap",
                expected=f"1 to {MAX_WRAPPED_BYTES} bytes that do not show the key",
                found=f"{len(wrapped)} bytes",
            )
        return wrapped

    def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        """Return the data key.

        Raises:
            ContentAlteredError: the wrapped key was changed, or belongs to another slot.
            AuditKeyError: the key service failed, or returned something else than 32 bytes.
        """
        data_key = _called(self._unwrap, wrapped, associated, where=f"sealing key {self.id}, unwrap")
        if len(data_key) != DATA_KEY_BYTES:
            raise AuditKeyError(
                "What the key service returned is not a data key.",
                where=f"sealing key {self.id}, unwrap",
                expected=f"{DATA_KEY_BYTES} bytes",
                found=f"{len(data_key)} bytes",
            )
        return data_key

    @classmethod
    def of_secret(cls, secret: bytes) -> Self:
        """Return the key that wraps with AES-256-GCM under these bytes.

        Raises:
            AuditKeyError: not exactly 32 bytes.
        """
        if len(secret) != SEALING_KEY_BYTES:
            raise AuditKeyError(
                "The key for sealing content has the wrong length.",
                expected=f"{SEALING_KEY_BYTES} bytes",
                found=f"{len(secret)} bytes",
                next_step=MAKE_SEALING_KEY,
            )
        cipher = AESGCM(secret)

        def wrap(data_key: bytes, associated: bytes) -> bytes:
            # A 96-bit random nonce under one key is sound for 2^32 rows (NIST SP 800-38D, section 8.3).
            nonce = secrets.token_bytes(NONCE_BYTES)
            return nonce + cipher.encrypt(nonce, data_key, associated)

        def unwrap(wrapped: bytes, associated: bytes) -> bytes:
            if len(wrapped) != NONCE_BYTES + DATA_KEY_BYTES + TAG_BYTES:
                raise InvalidTag
            return cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], associated)

        return cls(sha256_hex(secret)[:8], wrap, unwrap)

    @classmethod
    def of_functions(cls, key_id: str, wrap: Wrap, unwrap: Wrap) -> Self:
        """Return the key whose work functions do, for a key that stays in a key service.

        Args:
            key_id: 8 hexadecimal digits that name the key in records.
            wrap: takes 32 bytes and associated data, returns at most 344 bytes. It is called once per recorded row,
                before the output is released: how long it takes is added to every request.
            unwrap: takes what `wrap` returned and the same associated data, and must fail for other data.

        Raises:
            AuditKeyError: the id is no 8 hexadecimal digits in lower case.
        """
        if len(key_id) != 8 or not set(key_id) <= set("0123456789abcdef"):
            raise AuditKeyError(
                "The id of the sealing key is not allowed.",
                expected="8 hexadecimal digits in lower case",
                found=f"{len(key_id)} characters",
            )
        return cls(key_id, wrap, unwrap)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a key file: 64 hexadecimal digits, readable by its owner only.

        Raises:
            AuditKeyError: missing, open to others, a symbolic link, not hexadecimal, or not 32 bytes.
        """
        text = read_secret(path, _KIND).decode("ascii", "replace")
        return cls.of_secret(secret_from_hex(text, where=str(path), purpose=_PURPOSE))

    @classmethod
    def from_environment(cls, variable: str = SEALING_VARIABLE) -> Self | None:
        """Read a key of 64 hexadecimal digits from an environment variable; None when it is not set.

        Raises:
            AuditKeyError: the variable is set, but does not hold 64 hexadecimal digits.
        """
        text = os.environ.get(variable)
        if text is None:
            return None
        return cls.of_secret(secret_from_hex(text, where=f"environment variable {variable}", purpose=_PURPOSE))

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a new random key and write it to a file that must not exist yet, mode 0600, all of it or nothing.

        Raises:
            AuditKeyError: the file exists or cannot be written.
        """
        secret = secrets.token_bytes(SEALING_KEY_BYTES)
        write_secret(path, secret.hex().encode("ascii") + b"\n", _KIND)
        return cls.of_secret(secret)


def required_sealing_key(given: SealingKey | None = None) -> SealingKey:
    """Return the given key, else the one of the environment: a log for encrypted content must have one.

    Raises:
        AuditKeyError: there is none, or the variable does not hold one.
    """
    key = given or SealingKey.from_environment()
    if key is None:
        raise AuditKeyError(
            "Encrypted content needs a sealing key.",
            expected=f"AuditLog.open(..., content='encrypted', sealing=SealingKey...), or {SEALING_VARIABLE}",
            found="neither",
            next_step=f"{MAKE_SEALING_KEY} Then pass SealingKey.from_file(path), or put the 64 hexadecimal digits into "
            f"{SEALING_VARIABLE}.",
        )
    return key


def _called(function: Wrap, content: bytes, associated: bytes, *, where: str) -> bytes:
    """Call a function for keys; what it raises may show keys, so only the name of the class is kept."""
    failure: str | None = None
    result: object = None
    try:
        result = function(content, associated)
    except (InvalidTag, ContentAlteredError):
        failure = ""
    except Exception as error:  # noqa: BLE001 - a key service can raise anything; told by name and refused
        failure = class_name(error, "an error")
    # Raised outside of the handler, so that the error carries no trace of the first one.
    if failure == "":
        raise ContentAlteredError(
            "A wrapped key does not open.",
            where=where,
            next_step="The file of wrapped keys was changed, or is not that of this log: restore it from a copy.",
        )
    if failure is not None or not isinstance(result, bytes):
        raise AuditKeyError(
            "The key service failed.",
            where=where,
            found=failure or class_name(result, "something else"),
            expected="bytes",
        )
    return result
