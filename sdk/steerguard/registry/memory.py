"""What this machine remembers of a registry: the newest verified index and list of revocations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

import structlog

from steerguard.canonical import canonical_bytes, sha256_hex
from steerguard.errors import ArtifactFormatError, RollbackError, TrustError
from steerguard.registry.freshness import check_successor
from steerguard.registry.revocations import REVOCATIONS, revocations_bytes, verified_revocations
from steerguard.registry.signed_index import SIGNED_INDEX, signed_index_bytes, verified_index
from steerguard.signing.keys import PublicKey

if TYPE_CHECKING:
    from steerguard.registry.pulled import PulledArtifacts

_WRITTEN: Final = "written.json"
"""Stands beside the documents of a registry that this store has written to."""
_INTENDED: Final = "intended.json"
"""Digests of the envelopes that this store was last about to begin a registry with."""


def remember(
    registry: str,
    documents: Mapping[str, bytes | None],
    *,
    keys: Iterable[PublicKey],
    pulled: PulledArtifacts,
    older: bool = False,
) -> None:
    """Compare verified documents with the newest that were seen before, and remember them.

    Args:
        registry: its name.
        documents: verified envelopes by file name, of those that were looked for; None where there is no such file.
        keys: who may sign; a remembered document that none of them signed proves nothing.
        pulled: remembers.
        older: accept, and do not remember, what is older than what was seen: one's own commit, read back.

    Raises:
        RollbackError: an older document, another one of the same sequence, or one that has disappeared.
        ArtifactError: they cannot be remembered.
    """
    allowed = tuple(keys)
    with pulled.one_registry_at_a_time(registry):
        before = _remembered(pulled, registry)
        for name, content in documents.items():
            seen = _known(before.get(name), _IDENTIFY[name], allowed, registry, name)
            if content is None:
                _require_unseen(seen, registry, name)
                continue
            sequence, digest = _IDENTIFY[name](content, allowed, registry)
            if older and seen is not None and seen[0] > sequence:
                continue
            check_successor(
                sequence,
                None if seen is None else seen[0],
                new_sha256=digest,
                seen_sha256=None if seen is None else seen[1],
                where=f"{registry}: {name}",
            )
            if content != before.get(name):
                pulled.remember(registry, name, content)


def known_documents(registry: str, *, keys: Iterable[PublicKey], pulled: PulledArtifacts) -> frozenset[str]:
    """Return the file names of the documents that are remembered and verify with the present keys."""
    allowed, before = tuple(keys), _remembered(pulled, registry)
    return frozenset(
        name
        for name, identify in _IDENTIFY.items()
        if _known(before.get(name), identify, allowed, registry, name) is not None
    )


def has_written(registry: str, *, pulled: PulledArtifacts) -> bool:
    """Return whether a writer has stood by what is remembered of a registry.

    What was only read proves less: whoever may write to the repository can show an old state to a reader first.
    """
    return _WRITTEN in _remembered(pulled, registry)


def remember_intent(registry: str, files: Mapping[str, bytes], *, pulled: PulledArtifacts) -> None:
    """Remember what is about to be written to a registry, so that a writer knows it again after an interruption.

    Raises:
        ArtifactError: it cannot be remembered.
    """
    digests = {name: sha256_hex(content) for name, content in files.items()}
    with pulled.one_registry_at_a_time(registry):
        pulled.remember(registry, _INTENDED, canonical_bytes(digests))


def was_intended(registry: str, files: Mapping[str, bytes], *, pulled: PulledArtifacts) -> bool:
    """Return whether this store was about to write exactly these documents, to the byte."""
    digests = {name: sha256_hex(content) for name, content in files.items()}
    return _remembered(pulled, registry).get(_INTENDED) == canonical_bytes(digests)


def remember_writing(registry: str, *, pulled: PulledArtifacts) -> None:
    """Remember that a writer stands by what is remembered of a registry.

    Raises:
        ArtifactError: it cannot be remembered.
    """
    with pulled.one_registry_at_a_time(registry):
        if _WRITTEN not in _remembered(pulled, registry):
            pulled.remember(registry, _WRITTEN, b"{}\n")


def _remembered(pulled: PulledArtifacts, registry: str) -> Mapping[str, bytes]:
    """Return what is remembered; nothing where a link or something else that is no document stands in its place.

    Like a damaged document it proves nothing, and the next one replaces it.
    """
    try:
        return pulled.remembered(registry)
    except ArtifactFormatError as error:
        structlog.get_logger("steerguard").warning(
            "registry.memory_dropped", registry=registry, document=str(error.where), reason=error.code
        )
        return {}


def _require_unseen(seen: tuple[int, str] | None, registry: str, name: str) -> None:
    if seen is not None:
        raise RollbackError(
            f"The registry has lost {name}, which was there before.",
            where=registry,
            expected=f"sequence {seen[0]} or higher",
            found="no such file",
            next_step="Ask the registry's owner: somebody may be hiding the present state.",
        )


def _known(
    content: bytes | None,
    identify: Callable[[bytes, tuple[PublicKey, ...], str], tuple[int, str]],
    keys: tuple[PublicKey, ...],
    registry: str,
    name: str,
) -> tuple[int, str] | None:
    """Return sequence and digest of a remembered document; None where it does not verify with the present keys.

    It was signed by a key that is not trusted any more, or was damaged: it then proves nothing, and a key that leaked
    must not be able to block the registry with a high sequence.
    """
    if content is None:
        return None
    try:
        return identify(content, keys, registry)
    except (TrustError, ArtifactFormatError) as error:
        structlog.get_logger("steerguard").warning(
            "registry.memory_dropped", registry=registry, document=name, reason=error.code
        )
        return None


def _index_id(content: bytes, keys: tuple[PublicKey, ...], registry: str) -> tuple[int, str]:
    index, _ = verified_index(content, keys, registry=registry, where=f"{registry}: {SIGNED_INDEX}")
    return index.sequence, sha256_hex(signed_index_bytes(index))


def _revocations_id(content: bytes, keys: tuple[PublicKey, ...], registry: str) -> tuple[int, str]:
    document, _ = verified_revocations(content, keys, registry=registry, where=f"{registry}: {REVOCATIONS}")
    return document.sequence, sha256_hex(revocations_bytes(document))


_IDENTIFY: Final[Mapping[str, Callable[[bytes, tuple[PublicKey, ...], str], tuple[int, str]]]] = {
    SIGNED_INDEX: _index_id,
    REVOCATIONS: _revocations_id,
}
