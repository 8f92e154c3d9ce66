"""The lists of revocations that artifacts are loaded under: verified, not older than one seen before, and fresh.

No network: the list of a local registry lies at its root, that of a remote one is the copy that `steerguard sync`
remembered. A registry that the trust policy names must have a list; one that is missing counts as stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from steerguard.canonical import sha256_hex
from steerguard.errors import ArtifactError, ArtifactFormatError, RollbackError, SignatureError, StaleError
from steerguard.policy.failure import Loosening
from steerguard.registry.folder import read_file
from steerguard.registry.freshness import check_fresh, check_successor
from steerguard.registry.names import is_hub
from steerguard.registry.revocations import (
    MAX_REVOCATIONS_BYTES,
    REVOCATIONS,
    RevocationList,
    revocations_bytes,
    verified_revocations,
)
from steerguard.registry.sources import local_store

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from steerguard.signing.keys import PublicKey
    from steerguard.trust.document import TrustPolicy


class Memory(Protocol):
    """What remembers the newest verified documents of registries; `PulledArtifacts` does."""

    def remembered(self, registry: str) -> Mapping[str, bytes]:
        """Return the newest verified documents of a registry by file name."""
        ...

    def remember(self, registry: str, name: str, content: bytes) -> None:
        """Replace one remembered document."""
        ...

    def one_registry_at_a_time(self, registry: str) -> AbstractContextManager[None]:
        """Keep others from changing what is remembered of a registry."""
        ...


def load_revocations(
    trust: TrustPolicy,
    pulled: Memory,
    registries: Iterable[str] | None = None,
    now: datetime | None = None,
) -> dict[str, RevocationList]:
    """Return the list of revocations of every registry that the trust policy names keys for.

    Args:
        trust: says whose signature counts, how old a list may be, and what happens when one is stale.
        pulled: what was seen before; a newer list of a local registry is remembered there.
        registries: exact names to look at, of those that `registries:` names; all of them by default.
        now: the present, with time zone; the clock by default.

    Returns:
        By registry its list. Where the trust policy allows stale lists, one that is missing is left out and an old one
        still counts; both are logged.

    Raises:
        StaleError: a list is missing, has expired or is too old, and `revocation.on_stale` is `refuse`.
        RollbackError: a registry shows an older list than one seen before, another one of the same number, or none.
        SignatureError: a list is not signed by a key of its registry.
        ArtifactFormatError: a list is malformed.
        ArtifactError: the operating system refuses to read.
    """
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    wanted = None if registries is None else set(registries)
    found: dict[str, RevocationList] = {}
    for named in trust.registries:
        if wanted is not None and named.registry not in wanted:
            continue
        current = current_list(trust, pulled, named.registry, moment)
        try:
            if current is None:
                raise _missing(named.registry)
            found[named.registry] = current
            check_fresh(
                current.issued_at,
                current.expires_at,
                moment,
                where=f"{named.registry}: {REVOCATIONS}",
                max_age=trust.revocation.max_age_span,
            )
        except StaleError:
            allowed = trust.revocation.on_stale
            if not isinstance(allowed, Loosening) or moment.date() > allowed.expires:
                raise
            structlog.get_logger("steerguard").warning(
                "stale_revocations_allowed", registry=named.registry, reason=allowed.reason
            )
    return found


def current_list(trust: TrustPolicy, pulled: Memory, registry: str, now: datetime) -> RevocationList | None:
    """Return the verified list of a registry, not older than the one remembered, whatever its age; None without one.

    The errors are those of `load_revocations`, but for StaleError.
    """
    keys = trust.keys_of_registry(registry, now)
    where = f"{registry}: {REVOCATIONS}"
    if is_hub(registry):
        content = pulled.remembered(registry).get(REVOCATIONS)
        return None if content is None else verified_revocations(content, keys, registry=registry, where=where)[0]
    content = _local_list(registry)
    if content is not None and content == _remembered(pulled, registry, where):
        # Nothing is written then: the store may be read-only.
        return verified_revocations(content, keys, registry=registry, where=where)[0]
    with pulled.one_registry_at_a_time(registry):
        seen_content = _remembered(pulled, registry, where)
        seen = _seen(seen_content, keys, registry, where)
        if content is None:
            if seen is None:
                return None
            raise RollbackError(
                f"The registry has lost {REVOCATIONS}, which was there before.",
                where=registry,
                expected=f"sequence {seen.sequence} or higher",
                found="no such file",
                next_step="Ask the registry's owner: somebody may be hiding the present state.",
            )
        current = verified_revocations(content, keys, registry=registry, where=where)[0]
        if seen is not None:
            check_successor(
                current.sequence,
                seen.sequence,
                new_sha256=sha256_hex(revocations_bytes(current)),
                seen_sha256=sha256_hex(revocations_bytes(seen)),
                where=where,
            )
        if content != seen_content:
            pulled.remember(registry, REVOCATIONS, content)
    return current


def _remembered(pulled: Memory, registry: str, where: str) -> bytes | None:
    """Return the remembered envelope; None where a link or something else that is no document stands in its place.

    Like a damaged document it proves nothing, and the next one replaces it.
    """
    try:
        return pulled.remembered(registry).get(REVOCATIONS)
    except ArtifactFormatError as error:
        structlog.get_logger("steerguard").warning("remembered_revocations_dropped", where=where, error=error.code)
        return None


def _seen(content: bytes | None, keys: tuple[PublicKey, ...], registry: str, where: str) -> RevocationList | None:
    """Return the remembered list; None where there is none, or where it does not verify with the present keys.

    A key that leaked and was replaced must not be able to block the registry with a high sequence.
    """
    if content is None:
        return None
    try:
        return verified_revocations(content, keys, registry=registry, where=where)[0]
    except (SignatureError, ArtifactFormatError) as error:
        structlog.get_logger("steerguard").warning("remembered_revocations_dropped", where=where, error=error.code)
        return None


def _local_list(registry: str) -> bytes | None:
    root: Path = local_store(registry).root
    try:
        return read_file(root / REVOCATIONS, max_bytes=MAX_REVOCATIONS_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError("The list of revocations cannot be read.", where=root, found=error.strerror) from error


def _missing(registry: str) -> StaleError:
    return StaleError(
        "There is no list of revocations of a registry that the trust policy names.",
        where=registry,
        expected=f"{REVOCATIONS}, signed by a key of the registry",
        found="nothing",
        next_step="Run steerguard sync with a network, or put the list at the root of the local registry.",
    )
