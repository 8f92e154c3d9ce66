"""The state of a registry on the Hub: its signed index and its signed list of revocations, read at one commit.

Both are verified, and compared with the newest that was seen on this machine, before anything else looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from steerguard.canonical import sha256_hex
from steerguard.errors import ArtifactNotFoundError, RollbackError
from steerguard.registry.freshness import check_fresh
from steerguard.registry.memory import remember
from steerguard.registry.names import HUB_PREFIX, organisation_of
from steerguard.registry.revocations import REVOCATIONS, RevocationList, verified_revocations
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


def read_revocations(
    client: HubClient, organisation: str, *, keys: Iterable[PublicKey], pulled: PulledArtifacts
) -> RevocationList | None:
    """Return the newest list of revocations of a registry whatever its age; remember it. The index is not looked at.

    Whoever spoils the index must not be able to hide a revocation with it.

    Args:
        client: the Hub.
        organisation: whose registry.
        keys: who may sign the list.
        pulled: remembers the newest verified list.

    Returns:
        None where the registry has no list, and none was seen before.

    Raises:
        SignatureError: the list is malformed, or not signed by one of the keys.
        RollbackError: an older list than one that was seen before, or one that has disappeared.
        ArtifactFormatError: the list is malformed.
        RegistryUnavailableError, RegistryAccessError: the Hub does not answer or refuses.
        ArtifactError: the list cannot be remembered.
    """
    registry, repo, allowed = registry_name(organisation), index_repository(organisation), tuple(keys)
    for remaining in reversed(range(_READS)):
        content = _read(client, repo, client.head_or_none(repo, repo_type="dataset"), REVOCATIONS)
        found = None
        if content is not None:
            found, _ = verified_revocations(content, allowed, registry=registry, where=f"{registry}: {REVOCATIONS}")
        try:
            remember(registry, {REVOCATIONS: content}, keys=allowed, pulled=pulled)
        except RollbackError:
            # As in `read_state`: somebody may have remembered a newer list meanwhile.
            if not remaining:
                raise
        else:
            return found
    raise AssertionError("unreachable")


def require_whole(state: RegistryState) -> None:
    """Refuse to build on a registry that has only one of its documents: its beginning makes both.

    Whoever may write to the repository could otherwise have an empty one signed, by a writer that remembers nothing.

    Raises:
        RollbackError: index or list is gone.
    """
    for name, title, gone in (
        (REVOCATIONS, "list of revocations", state.index is not None and state.revocations is None),
        (SIGNED_INDEX, "index", state.revocations is not None and state.index is None),
    ):
        if gone:
            raise RollbackError(
                f"The registry has lost its {title}.",
                where=f"{state.registry}: {name}",
                expected="an index and a list of revocations",
                found="no such file",
                next_step=f"Put {name} of an earlier commit back into "
                f"{index_repository(organisation_of(state.registry))}, and find out who removed it.",
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
        keys: who may sign.
        pulled: remembers.
        older: as for `remember`.

    Raises:
        As `remember` does.
    """
    documents = {SIGNED_INDEX: state.index_envelope, REVOCATIONS: state.revocations_envelope}
    remember(state.registry, documents, keys=keys, pulled=pulled, older=older)


def _read(client: HubClient, repo: str, commit: str | None, path: str) -> bytes | None:
    if commit is None:
        return None
    try:
        return client.read(repo, commit, path, repo_type="dataset", max_bytes=MAX_ENVELOPE_BYTES)
    except ArtifactNotFoundError:
        return None
