"""The state of a registry on the Hub: its signed index and its signed list of revocations, read at one commit.

Both are verified, and compared with the newest that was seen on this machine, before anything else looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import structlog

from steerguard.canonical import sha256_hex
from steerguard.errors import ArtifactFormatError, ArtifactNotFoundError, RollbackError, TrustError
from steerguard.registry.freshness import check_fresh, check_successor
from steerguard.registry.names import HUB_PREFIX, organisation_of
from steerguard.registry.revocations import REVOCATIONS, RevocationList, revocations_bytes, verified_revocations
from steerguard.registry.signed_index import SIGNED_INDEX, SignedIndex, signed_index_bytes, verified_index
from steerguard.signing.dsse import MAX_ENVELOPE_BYTES
from steerguard.signing.keys import PublicKey

if TYPE_CHECKING:
    from steerguard.hub.client import HubClient
    from steerguard.registry.pulled import PulledArtifacts

INDEX_REPOSITORY: Final = "steerguard-index"
"""Name of the dataset repository of an organisation that holds both documents."""

_READS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryState:
    """What a registry says at one commit, verified."""

    registry: str
    """`hf://organisation`."""
    commit: str | None
    """Commit of the index repository; None where that does not exist."""
    index: SignedIndex | None
    """None where the registry has none yet."""
    index_envelope: bytes | None
    revocations: RevocationList | None
    """None where the registry has none yet."""
    revocations_envelope: bytes | None

    @property
    def index_sha256(self) -> str | None:
        """Hexadecimal SHA-256 of the index's payload; signatures may be added to one payload."""
        return None if self.index is None else sha256_hex(signed_index_bytes(self.index))


def registry_name(organisation: str) -> str:
    """Return the name of an organisation's registry."""
    return f"{HUB_PREFIX}{organisation}"


def index_repository(organisation: str) -> str:
    """Return the dataset repository that holds the index."""
    return f"{organisation}/{INDEX_REPOSITORY}"


def read_index(
    client: HubClient,
    organisation: str,
    *,
    keys: Iterable[PublicKey],
    pulled: PulledArtifacts,
    now: datetime | None = None,
    max_age: timedelta | None = None,
    require: Callable[[RegistryState], None] | None = None,
) -> RegistryState:
    """Return the present state of a registry, for somebody who relies on it.

    Args:
        client: the Hub.
        organisation: whose registry.
        keys: who may sign the index and the list of revocations.
        pulled: remembers the newest verified state.
        now: the present, with a time zone.
        max_age: longest accepted time since the index was issued.
        require: as for `read_state`.

    Raises:
        ArtifactNotFoundError: the organisation has no registry.
        SignatureError: a document is malformed, or not signed by one of the keys.
        RollbackError: an older state than one that was seen before, or a document that has disappeared.
        StaleError: the index has expired, is too old, or comes from the future.
        ArtifactFormatError: a document is malformed.
        RegistryUnavailableError, RegistryAccessError: the Hub does not answer or refuses.
        ArtifactError: the state cannot be remembered.
    """
    state = read_state(client, organisation, keys=keys, pulled=pulled, require=require)
    if state.index is None:
        raise ArtifactNotFoundError(
            f"The organisation {organisation} has no registry.",
            where=f"{client.endpoint}/datasets/{index_repository(organisation)}",
            expected=SIGNED_INDEX,
            found="no such file" if state.commit else "no such repository",
            next_step="Check the name, log in if it is private, or publish the first artifact.",
        )
    check_fresh(
        state.index.issued_at,
        state.index.expires_at,
        now or datetime.now(UTC),
        where=f"{state.registry}: {SIGNED_INDEX}",
        max_age=max_age,
    )
    return state


def read_state(
    client: HubClient,
    organisation: str,
    *,
    keys: Iterable[PublicKey],
    pulled: PulledArtifacts,
    require: Callable[[RegistryState], None] | None = None,
) -> RegistryState:
    """Return the newest state of a registry whatever its age, for somebody who is going to change it; remember it.

    Args:
        client: the Hub.
        organisation: whose registry; it need not have one yet.
        keys: who may sign.
        pulled: remembers the newest verified state.
        require: raises for a state that must be neither used nor remembered, whatever its signatures say.

    Raises:
        SignatureError: a document is malformed, or not signed by one of the keys.
        RollbackError: an older state than one that was seen before, or a document that has disappeared.
        ArtifactFormatError: a document is malformed.
        RegistryUnavailableError, RegistryAccessError: the Hub does not answer or refuses.
        ArtifactError: the state cannot be remembered.
    """
    allowed = tuple(keys)
    for remaining in reversed(range(_READS)):
        commit = client.head_or_none(index_repository(organisation), repo_type="dataset")
        state = state_at(client, organisation, commit, keys=allowed)
        if require is not None:
            require(state)
        try:
            remember_state(state, keys=allowed, pulled=pulled)
        except RollbackError:
            # Another thread may have seen and remembered a newer state between our two steps: look again.
            if not remaining:
                raise
        else:
            return state
    raise AssertionError("unreachable")


def require_whole(state: RegistryState) -> None:
    """Refuse to build on a registry that has an index and no list of revocations: the first publication makes both.

    Whoever may write to the repository could otherwise have an empty list signed, by a writer that remembers nothing.

    Raises:
        RollbackError: the list is gone.
    """
    if state.index is not None and state.revocations is None:
        raise RollbackError(
            "The registry has lost its list of revocations.",
            where=f"{state.registry}: {REVOCATIONS}",
            expected="a list of revocations beside the index",
            found="no such file",
            next_step=f"Put {REVOCATIONS} of an earlier commit back into {index_repository(organisation_of(state.registry))}"
            ", and find out who removed it.",
        )


def state_at(client: HubClient, organisation: str, commit: str | None, *, keys: Iterable[PublicKey]) -> RegistryState:
    """Return the state of a registry at one commit of its index repository; only the signatures are judged.

    Raises:
        SignatureError: a document is malformed, or not signed by one of the keys.
        ArtifactFormatError: a document is malformed.
        RegistryUnavailableError, RegistryAccessError: the Hub does not answer or refuses.
    """
    registry, repo, allowed = registry_name(organisation), index_repository(organisation), tuple(keys)
    index_envelope = _read(client, repo, commit, SIGNED_INDEX)
    revocations_envelope = _read(client, repo, commit, REVOCATIONS)
    index = revocations = None
    if index_envelope is not None:
        where = f"{registry}: {SIGNED_INDEX}"
        index, _ = verified_index(index_envelope, allowed, registry=registry, where=where)
    if revocations_envelope is not None:
        where = f"{registry}: {REVOCATIONS}"
        revocations, _ = verified_revocations(revocations_envelope, allowed, registry=registry, where=where)
    return RegistryState(
        registry=registry,
        commit=commit,
        index=index,
        index_envelope=index_envelope,
        revocations=revocations,
        revocations_envelope=revocations_envelope,
    )


def remember_state(
    state: RegistryState, *, keys: Iterable[PublicKey], pulled: PulledArtifacts, older: bool = False
) -> None:
    """Compare a verified state with the newest that was seen before, and remember it.

    Args:
        state: signatures judged.
        keys: who may sign; a remembered document that none of them signed proves nothing.
        pulled: remembers.
        older: accept, and do not remember, a state that is older than what was seen: one's own commit, read back.

    Raises:
        RollbackError: an older state, another one of the same sequence, or a document that has disappeared.
        ArtifactError: the state cannot be remembered.
    """
    registry, allowed = state.registry, tuple(keys)
    with pulled.one_registry_at_a_time(registry):
        known = _remembered(pulled, registry)
        for name, content, identify in (
            (SIGNED_INDEX, state.index_envelope, _index_id),
            (REVOCATIONS, state.revocations_envelope, _revocations_id),
        ):
            seen = _known(known.get(name), identify, allowed, registry, name)
            if content is None:
                _require_unseen(seen, registry, name)
                continue
            sequence, digest = identify(content, allowed, registry)
            if older and seen is not None and seen[0] > sequence:
                continue
            check_successor(
                sequence,
                None if seen is None else seen[0],
                new_sha256=digest,
                seen_sha256=None if seen is None else seen[1],
                where=f"{registry}: {name}",
            )
            if content != known.get(name):
                pulled.remember(registry, name, content)


def _read(client: HubClient, repo: str, commit: str | None, path: str) -> bytes | None:
    if commit is None:
        return None
    try:
        return client.read(repo, commit, path, repo_type="dataset", max_bytes=MAX_ENVELOPE_BYTES)
    except ArtifactNotFoundError:
        return None


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
