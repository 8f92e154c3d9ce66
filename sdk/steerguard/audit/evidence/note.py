"""Signed notes as C2SP defines them (c2sp.org/signed-note): a text and Ed25519 signatures below it.

A note is its text, which ends with a newline, an empty line, and one line `— <key name> <base64>` for each signature.
The base64 holds the four bytes of the key hash and the 64 bytes of the signature over the text.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from steerguard.errors import AuditKeyError, AuditVerificationError, SigningKeyError
from steerguard.signing.keys import PublicKey, Signer

ED25519: Final = b"\x01"
"""Signature type of an Ed25519 key in a key hash and a verifier key."""
MAX_SIGNATURES: Final = 16
MAX_NOTE_BYTES: Final = 16 * 1024
_NAME: Final = re.compile(r"[!-*,-~]{1,128}")
_SIGNATURE: Final = re.compile(r"— ([!-*,-~]{1,128}) ([A-Za-z0-9+/]+={0,2})")


def key_hash(name: str, public: PublicKey) -> bytes:
    """Return the four bytes that name a key in a note: the first of SHA-256(name, newline, 0x01, key)."""
    return hashlib.sha256(name.encode("ascii") + b"\n" + ED25519 + public.raw).digest()[:4]


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A public key and the name it signs under: what a verifier pins.

    Raises:
        AuditKeyError: the name is empty, too long, not ASCII, or holds a space or a plus.
    """

    name: str
    public: PublicKey

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise AuditKeyError(
                "The name of a checkpoint key is not allowed.",
                expected="1 to 128 printable ASCII characters without space and plus",
                found=f"{len(self.name)} characters",
                next_step="Name it like a host or a product, for example example.com/audit.",
            )

    @property
    def hash(self) -> str:
        """Key hash, 8 hexadecimal digits."""
        return key_hash(self.name, self.public).hex()

    @property
    def text(self) -> str:
        """The verifier key: `<name>+<key hash>+<base64 of 0x01 and the key>`."""
        return f"{self.name}+{self.hash}+{base64.b64encode(ED25519 + self.public.raw).decode('ascii')}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the key that a verifier key spells.

        Raises:
            AuditKeyError: it is not a verifier key for Ed25519, or its hash is not that of its key.
        """
        name, _, rest = text.strip().partition("+")
        _, _, encoded = rest.partition("+")
        try:
            raw = base64.b64decode(encoded, validate=True)
            key = cls(name, PublicKey(raw[1:])) if raw[:1] == ED25519 else None
        except (ValueError, SigningKeyError, AuditKeyError):
            key = None
        if key is None or key.text != text.strip():
            raise AuditKeyError(
                "This is not a verifier key for checkpoints.",
                expected=f"<name>+{'<key hash>' if key is None else key.hash}+<44 characters of base64>, as `steerguard audit keygen` prints it",
                found=f"{len(text)} characters",
                next_step="Copy what `steerguard audit keygen` printed, or what the `.vkey` file beside the key holds.",
            )
        return key


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line."""

    name: str
    hash: str
    """Key hash, 8 hexadecimal digits."""
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A text with its signatures, none of them verified yet."""

    text: str
    """Ends with a newline."""
    signatures: tuple[NoteSignature, ...]

    @property
    def content(self) -> bytes:
        """The note as it is stored."""
        lines = [
            f"— {one.name} {base64.b64encode(bytes.fromhex(one.hash) + one.signature).decode('ascii')}\n"
            for one in self.signatures
        ]
        return (self.text + "\n" + "".join(lines)).encode("utf-8")

    def signed_by(self, keys: Sequence[NoteKey]) -> tuple[NoteKey, ...]:
        """Return those of the keys whose signatures verify.

        A signature that claims to be by one of the keys and does not verify makes the whole note invalid;
        signatures by other keys are passed over.

        Raises:
            AuditVerificationError: a signature by one of the keys is wrong.
        """
        message = self.text.encode("utf-8")
        good: list[NoteKey] = []
        for one in self.signatures:
            for key in keys:
                if (key.name, key.hash) != (one.name, one.hash):
                    continue
                if not key.public.verifies(message, one.signature):
                    raise AuditVerificationError(
                        "A signature of a checkpoint is wrong.",
                        where=f"key {key.name}+{key.hash}",
                        next_step="The checkpoint was altered, or is not by this key: get it from another copy.",
                    )
                if key not in good:
                    good.append(key)
        return tuple(good)


def sign_note(text: str, signers: Sequence[tuple[str, Signer]]) -> Note:
    """Sign a text, which must end with a newline, under each name and key.

    Raises:
        SigningKeyError: a signature could not be made.
        AuditKeyError: a name is not allowed.
    """
    message = text.encode("utf-8")
    signatures = []
    for name, signer in signers:
        key = NoteKey(name, signer.public)
        signatures.append(NoteSignature(key.name, key.hash, signer.sign(message)))
    return Note(text, tuple(signatures))


def parse_note(content: bytes) -> Note:
    """Read one note; nothing about its signatures is checked yet but their form.

    Raises:
        AuditVerificationError: not a signed note.
    """
    try:
        whole = content.decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed("text in UTF-8") from None
    text, separator, lines = whole.rpartition("\n\n")
    if len(content) > MAX_NOTE_BYTES or not separator or not lines.endswith("\n"):
        raise _malformed("a text, an empty line, and signature lines")
    if any(ord(character) < 0x20 and character != "\n" for character in whole):
        raise _malformed("no control characters but newlines")
    found = lines[:-1].split("\n")
    if len(found) > MAX_SIGNATURES:
        raise _malformed(f"at most {MAX_SIGNATURES} signatures")
    return Note(text + "\n", tuple(_signature(line) for line in found))


def _signature(line: str) -> NoteSignature:
    match = _SIGNATURE.fullmatch(line)
    try:
        raw = b"" if match is None else base64.b64decode(match[2], validate=True)
    except binascii.Error:
        raw = b""
    # Of the base64 forms of the same bytes only one counts, so that no character can be altered unnoticed.
    if match is None or len(raw) < 5 or base64.b64encode(raw).decode("ascii") != match[2]:
        raise _malformed("lines of an em dash, a key name and base64")
    return NoteSignature(match[1], raw[:4].hex(), raw[4:])


def _malformed(expected: str) -> AuditVerificationError:
    return AuditVerificationError(
        "This is not a signed note.",
        expected=expected,
        next_step="Give a checkpoint as the log wrote it.",
    )
