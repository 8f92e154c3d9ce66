"""Keyed hashes of content: they link equal prompts for the key holder and tell nothing to anyone else.

A plain SHA-256 of a prompt can be guessed from a list of prompts; HMAC-SHA256 under a secret key cannot.
Destroying the key cuts the link for good, and the log stays valid.
"""

from __future__ import annotations

import hmac
import os
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from steerguard.canonical import sha256_hex
from steerguard.errors import AuditError, AuditKeyError
from steerguard.signing.key_files import SecretKind, read_secret, write_secret

KEY_BYTES: Final = 32
KEY_VARIABLE: Final = "STEERGUARD_AUDIT_KEY"
_KIND: Final = SecretKind(
    purpose="hashing content", error=AuditKeyError, make_one="Make one with ContentKey.create(path)."
)
_TOKENS_PREFIX: Final = b"steerguard/token-ids/1\x00"


def token_bytes(token_ids: Sequence[int]) -> bytes:
    r"""Return the bytes that stand for a sequence of token ids: a fixed prefix, then 4 bytes big-endian per id.

    The prefix `steerguard/token-ids/1\0` keeps token sequences apart from texts.

    Raises:
        AuditError: an id is not an integer from 0 to 2^32 - 1.
    """
    try:
        return _TOKENS_PREFIX + struct.pack(f">{len(token_ids)}I", *token_ids)
    except struct.error:
        raise AuditError("A token id cannot be hashed.", expected="integers from 0 to 2^32 - 1") from None


@dataclass(frozen=True, slots=True)
class ContentKey:
    """A secret of at least 32 bytes and its short public id.

    Raises:
        AuditKeyError: the secret is shorter than 32 bytes.
    """

    secret: bytes = field(repr=False)
    id: str = field(init=False)
    """First 8 hexadecimal digits of the SHA-256 of the secret."""

    def __post_init__(self) -> None:
        if len(self.secret) < KEY_BYTES:
            raise AuditKeyError(
                "The key for hashing content is too short.",
                expected=f"at least {KEY_BYTES} bytes",
                found=f"{len(self.secret)} bytes",
                next_step="Make one with ContentKey.create(path).",
            )
        object.__setattr__(self, "id", sha256_hex(self.secret)[:8])

    def tag(self, content: bytes) -> str:
        """Return `hmac:<key id>:<hex>` for the bytes."""
        return f"hmac:{self.id}:{hmac.digest(self.secret, content, 'sha256').hex()}"

    def tag_tokens(self, token_ids: Sequence[int]) -> str:
        """Return the tag of a sequence of token ids."""
        return self.tag(token_bytes(token_ids))

    def tag_text(self, text: str) -> str:
        """Return the tag of a text in UTF-8."""
        return self.tag(text.encode("utf-8", "surrogatepass"))

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a key file: hexadecimal digits, readable by its owner only.

        Raises:
            AuditKeyError: the file is missing, open to others, a symbolic link, not hexadecimal or too short.
        """
        text = read_secret(path, _KIND).decode("ascii", "replace")
        return cls(secret_from_hex(text, where=str(path), purpose=_KIND.purpose))

    @classmethod
    def from_environment(cls, variable: str = KEY_VARIABLE) -> Self | None:
        """Read a hexadecimal key from an environment variable; None when the variable is not set.

        Raises:
            AuditKeyError: the variable is set but is not hexadecimal or too short.
        """
        text = os.environ.get(variable)
        if text is None:
            return None
        return cls(secret_from_hex(text, where=f"environment variable {variable}", purpose=_KIND.purpose))

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a new random key and write it to a file that must not exist yet, mode 0600, all of it or nothing.

        Raises:
            AuditKeyError: the file exists or cannot be written.
        """
        key = cls(secrets.token_bytes(KEY_BYTES))
        write_secret(path, key.secret.hex().encode("ascii") + b"\n", _KIND)
        return key


def secret_from_hex(text: str, *, where: str, purpose: str) -> bytes:
    """Return the bytes that hexadecimal digits spell.

    Args:
        text: digits, with white space around them.
        where: the file or variable, for the message.
        purpose: what the key is for, for the message.

    Raises:
        AuditKeyError: something else than hexadecimal digits; the message shows none of it.
    """
    try:
        return bytes.fromhex(text.strip())
    except ValueError:
        # The cause names the offending digit, so it stays out of the message and of the traceback.
        raise AuditKeyError(
            f"The key for {purpose} is not hexadecimal.",
            where=where,
            expected=f"at least {2 * KEY_BYTES} hexadecimal digits",
        ) from None
