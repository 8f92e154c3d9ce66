"""What the signed documents of a registry have in common: they name it, and they live for a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Protocol, TypeVar

from steerguard.errors import ArtifactFormatError, SignatureError
from steerguard.signing.dsse import verified_payload
from steerguard.signing.keys import PublicKey


class SignedDocument(Protocol):
    """A signed index or a revocation list."""

    @property
    def registry(self) -> str:
        """The registry that it speaks for."""
        ...

    @property
    def issued_at(self) -> datetime:
        """Time of issue."""
        ...

    @property
    def expires_at(self) -> datetime:
        """From this time on it is stale."""
        ...


DocumentT = TypeVar("DocumentT", bound=SignedDocument)


def check_lifetime(document: SignedDocument, *, name: str, where: str) -> None:
    """Refuse a document that is never valid.

    Raises:
        ArtifactFormatError: it expires before it was issued.
    """
    if document.expires_at <= document.issued_at:
        raise ArtifactFormatError(
            f"The {name} expires before it was issued.",
            where=f"{where}: expires",
            expected=f"after {document.issued_at:%Y-%m-%dT%H:%M:%SZ}",
            found=f"{document.expires_at:%Y-%m-%dT%H:%M:%SZ}",
        )


def verified_document(
    envelope: bytes,
    payload_type: str,
    parse: Callable[..., DocumentT],
    keys: Iterable[PublicKey],
    *,
    name: str,
    registry: str,
    where: str,
    threshold: int,
) -> tuple[DocumentT, tuple[PublicKey, ...]]:
    """Return the document inside an envelope and the keys that signed it; age and sequence are judged elsewhere.

    Args:
        envelope: the bytes of the file.
        payload_type: what the signatures must be over.
        parse: from the payload to the document; takes `where`.
        keys: who may sign.
        name: what the document is called in messages.
        registry: whose document it must be.
        where: file, for messages.
        threshold: how many of the keys must have signed.

    Raises:
        SignatureError: malformed envelope, not signed by enough of the keys, or of another registry.
        ArtifactFormatError: the document is malformed.
    """
    payload, signers = verified_payload(envelope, payload_type, keys, where=where, threshold=threshold)
    document = parse(payload, where=where)
    if document.registry != registry:
        raise SignatureError(
            f"This is the {name} of another registry.", where=where, expected=registry, found=document.registry
        )
    return document, signers
