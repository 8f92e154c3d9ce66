"""DSSE v1 envelopes: a payload, its type, and signatures over both.

Source: Dead Simple Signing Envelope, protocol version 1.0.0 (https://github.com/secure-systems-lab/dsse). What is signed
is the pre-authentication encoding `DSSEv1 <length of type> <type> <length of payload> <payload>`, so a payload of one
type never passes as one of another. The envelope is canonical JSON, stricter than DSSE asks for: one envelope, one form.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from steerguard.canonical import canonical_bytes
from steerguard.errors import SignatureError, SigningKeyError
from steerguard.signing.keys import PublicKey, Signer

MAX_ENVELOPE_BYTES: Final = 32 * 1024 * 1024
MAX_SIGNATURES: Final = 16
MAX_TEXT: Final = 200
"""Longest accepted payload type and key id, in characters."""
MAX_SIGNATURE_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of an envelope."""

    keyid: str
    """Which key is said to have signed: a hint, never evidence."""
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed envelope: nothing of it is verified yet."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    @property
    def message(self) -> bytes:
        """The bytes that every signature is over."""
        return pre_authentication_encoding(self.payload, self.payload_type)


def pre_authentication_encoding(payload: bytes, payload_type: str) -> bytes:
    """Return the bytes that are signed: `PAE(type, payload)` of DSSE v1."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, payload_type: str, signers: Sequence[Signer]) -> bytes:
    """Return an envelope around the payload with one signature per signer.

    Raises:
        SigningKeyError: there is no signer, there are too many, or one could not sign.
        SignatureError: the envelope would be too large.
    """
    if not 1 <= len(signers) <= MAX_SIGNATURES:
        raise SigningKeyError(
            "An envelope needs signers.", expected=f"1 to {MAX_SIGNATURES} signing keys", found=len(signers)
        )
    message = pre_authentication_encoding(payload, payload_type)
    signatures = tuple(Signature(signer.public.id, signer.sign(message)) for signer in signers)
    return envelope_bytes(Envelope(payload, payload_type, signatures))


def add_signature(envelope: bytes, signer: Signer, *, where: str) -> bytes:
    """Return the envelope with one more signature; unchanged where this key has signed it already.

    Raises:
        SignatureError: the envelope is malformed or full.
        SigningKeyError: the signer could not sign.
    """
    parsed = parse_envelope(envelope, where=where)
    if signers_of(parsed, (signer.public,)):
        return envelope
    if len(parsed.signatures) >= MAX_SIGNATURES:
        raise SignatureError("The envelope is full.", where=where, expected=f"fewer than {MAX_SIGNATURES} signatures")
    added = Signature(signer.public.id, signer.sign(parsed.message))
    return envelope_bytes(Envelope(parsed.payload, parsed.payload_type, (*parsed.signatures, added)))


def envelope_bytes(envelope: Envelope) -> bytes:
    """Return the canonical bytes of an envelope: the inverse of `parse_envelope`.

    Raises:
        SignatureError: the envelope would be too large.
    """
    content = canonical_bytes(
        {
            "payload": base64.b64encode(envelope.payload).decode("ascii"),
            "payloadType": envelope.payload_type,
            "signatures": [
                {"keyid": one.keyid, "sig": base64.b64encode(one.sig).decode("ascii")} for one in envelope.signatures
            ],
        }
    )
    if len(content) > MAX_ENVELOPE_BYTES:
        raise SignatureError(
            "The payload is too large for an envelope.",
            expected=f"at most {MAX_ENVELOPE_BYTES} bytes in all",
            found=len(content),
        )
    return content


def envelope_limit(payload_bytes: int) -> int:
    """Return the size of the largest envelope around a payload of at most so many bytes."""
    return 4 * (payload_bytes // 3 + 1) + MAX_SIGNATURES * (2 * MAX_SIGNATURE_BYTES + 8 * MAX_TEXT) + 8 * MAX_TEXT


def parse_envelope(content: bytes, *, where: str, max_bytes: int | None = None) -> Envelope:
    """Parse the bytes of an envelope; no signature is judged.

    Args:
        content: the bytes of the file.
        where: file name for messages.
        max_bytes: larger envelopes are refused before they are parsed, `MAX_ENVELOPE_BYTES` by default; where strangers
            may put files, `envelope_limit` of the largest payload.

    Raises:
        SignatureError: too large, not canonical JSON, another shape, without signatures or with too many.
    """
    limit = MAX_ENVELOPE_BYTES if max_bytes is None else max_bytes
    if len(content) > limit:
        raise _malformed(where, f"at most {limit} bytes", f"{len(content)} bytes")
    try:
        data = json.loads(content.decode("utf-8"))
        canonical = canonical_bytes(data)
    # RFC 8785 errors, JSON errors, over-long integers and bad UTF-8 are all ValueErrors; deep nesting recurses.
    except (ValueError, RecursionError) as error:
        raise _malformed(where, "canonical JSON (RFC 8785)", type(error).__name__) from error
    if canonical != content:
        raise _malformed(where, "canonical JSON (RFC 8785)", "JSON in another form")
    data = _object(data, {"payload", "payloadType", "signatures"}, where=where)
    signatures = data["signatures"]
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= MAX_SIGNATURES:
        found = f"{len(signatures)} entries" if isinstance(signatures, list) else type(signatures).__name__
        raise _malformed(f"{where}: signatures", f"a list of 1 to {MAX_SIGNATURES} signatures", found)
    return Envelope(
        payload=_decoded(data["payload"], where=f"{where}: payload"),
        payload_type=_short_text(data["payloadType"], where=f"{where}: payloadType"),
        signatures=tuple(_signature(one, where=f"{where}: signatures[{i}]") for i, one in enumerate(signatures)),
    )


def signers_of(envelope: Envelope, keys: Iterable[PublicKey]) -> tuple[PublicKey, ...]:
    """Return those of the keys that signed the envelope, each once, in the order given; key ids are not asked."""
    message = envelope.message
    return tuple(
        key for key in dict.fromkeys(keys) if any(key.verifies(message, one.sig) for one in envelope.signatures)
    )


def verified_payload(
    content: bytes, payload_type: str, keys: Iterable[PublicKey], *, where: str, threshold: int = 1
) -> tuple[bytes, tuple[PublicKey, ...]]:
    """Return the payload of an envelope and which of the keys signed it.

    Args:
        content: the bytes of the envelope.
        payload_type: the only accepted type of payload.
        keys: the keys that may sign.
        where: file name for messages.
        threshold: how many different keys must have signed, at least 1.

    Raises:
        SignatureError: malformed, another type of payload, or fewer keys signed than must.
    """
    envelope = parse_envelope(content, where=where)
    if envelope.payload_type != payload_type:
        raise SignatureError(
            "The signature is over another kind of document.",
            where=f"{where}: payloadType",
            expected=payload_type,
            found=repr(envelope.payload_type),
        )
    allowed = tuple(dict.fromkeys(keys))
    signers = signers_of(envelope, allowed)
    # A threshold below 1 would accept what nobody signed.
    if len(signers) < max(threshold, 1):
        ids = ", ".join(key.id for key in allowed) or "(no key may sign this)"
        raise SignatureError(
            "The document is not signed by a key that may sign it."
            if not signers
            else "Too few of the keys that may sign the document have signed it.",
            where=where,
            expected=f"valid signatures by at least {max(threshold, 1)} of: {ids}",
            found=f"valid: {', '.join(key.id for key in signers) or 'none'}; "
            f"said to be by: {', '.join(repr(one.keyid) for one in envelope.signatures)}"[:1000],
            next_step="Get the document from its publisher, or trust the publisher's key if you know it.",
        )
    return envelope.payload, signers


def _signature(entry: Any, *, where: str) -> Signature:
    entry = _object(entry, {"keyid", "sig"}, where=where)
    sig = _decoded(entry["sig"], where=f"{where}.sig")
    if not 1 <= len(sig) <= MAX_SIGNATURE_BYTES:
        raise _malformed(f"{where}.sig", f"1 to {MAX_SIGNATURE_BYTES} bytes", f"{len(sig)} bytes")
    return Signature(_short_text(entry["keyid"], where=f"{where}.keyid"), sig)


def _object(value: Any, keys: set[str], *, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != keys:
        found = ", ".join(sorted(value))[:200] if isinstance(value, dict) else type(value).__name__
        raise _malformed(where, f"an object with {', '.join(sorted(keys))} and nothing else", found)
    return value


def _decoded(value: Any, *, where: str) -> bytes:
    try:
        raw = base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except ValueError:
        raw = None
    if raw is None or base64.b64encode(raw).decode("ascii") != value:
        raise _malformed(where, "standard base64 with padding", type(value).__name__)
    return raw


def _short_text(value: Any, *, where: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT:
        found = f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
        raise _malformed(where, f"text of 1 to {MAX_TEXT} characters", found)
    return value


def _malformed(where: str, expected: str, found: str) -> SignatureError:
    return SignatureError("This is not a signature envelope (DSSE).", where=where, expected=expected, found=found)
