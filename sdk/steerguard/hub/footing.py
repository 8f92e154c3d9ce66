"""What a writer must know of a registry before it signs the registry's next state.

Signatures do not say that a state is the newest. Whoever may write to the index repository, without any key, can delete
it or put an old signed state back; a writer that remembers nothing would begin again, or sign the old state anew. What a
store has only read does not help: the old state may have been shown to it then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerguard.errors import ArtifactNotFoundError, PublishConflictError, RollbackError
from steerguard.hub.read_index import RegistryState, index_repository, read_state, registry_name, require_whole
from steerguard.registry.memory import has_written, known_documents, remember_writing, was_intended
from steerguard.registry.names import organisation_of
from steerguard.registry.revocations import REVOCATIONS
from steerguard.registry.signed_index import SIGNED_INDEX
from steerguard.signing.keys import PublicKey

if TYPE_CHECKING:
    from steerguard.hub.client import HubClient
    from steerguard.registry.pulled import PulledArtifacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The newest sequences that a writer knows of, from elsewhere than the Hub."""

    index: int
    revocations: int


def read_for_change(
    client: HubClient,
    organisation: str,
    *,
    keys: Iterable[PublicKey],
    pulled: PulledArtifacts,
    new_registry: bool,
    at_least: Floor | None,
    is_done: Callable[[RegistryState], bool],
) -> RegistryState:
    """Return the newest state of a registry, for somebody who may build on it; what is refused is not remembered.

    Args:
        client: the Hub.
        organisation: whose registry.
        keys: who may sign.
        pulled: remembers the newest verified state.
        new_registry: the registry is begun now; without it there must be one.
        at_least: what the writer knows; needed where `pulled` has never written, and counts beside what it remembers.
        is_done: whether a registry of sequence 1 holds just what shall be begun: an earlier run was interrupted.

    Raises:
        ArtifactNotFoundError: there is no registry, none was seen before, and none is to be begun.
        PublishConflictError: a registry is to be begun, and there is one.
        RollbackError: an older state than one that is known, a document has disappeared, or `pulled` has never
            written to a registry that exists.
        And as `read_state` does.
    """
    allowed = tuple(keys)

    def require(state: RegistryState) -> None:
        require_whole(state)
        if at_least is not None:
            _check_floor(state, at_least)
        known = known_documents(state.registry, keys=allowed, pulled=pulled)
        if state.index is None:
            # What was there once, and is gone, is refused when the state is compared with the memory.
            if not new_registry and not known:
                raise _absent(client, organisation)
        elif new_registry:
            if not (_is_first(state) and is_done(state)):
                raise _exists(state)
        elif at_least is None and not (
            known >= {SIGNED_INDEX, REVOCATIONS} and has_written(state.registry, pulled=pulled)
        ):
            raise _unknown(state)

    state = read_state(client, organisation, keys=allowed, pulled=pulled, require=require)
    if at_least is not None or (new_registry and _is_own(state, pulled)):
        remember_writing(state.registry, pulled=pulled)
    return state


def _is_own(state: RegistryState, pulled: PulledArtifacts) -> bool:
    """Return whether the registry is what this store was about to begin when it was interrupted."""
    if state.index_envelope is None or state.revocations_envelope is None:
        return False
    files = {SIGNED_INDEX: state.index_envelope, REVOCATIONS: state.revocations_envelope}
    return was_intended(state.registry, files, pulled=pulled)


def _is_first(state: RegistryState) -> bool:
    return all(document is None or document.sequence == 1 for document in (state.index, state.revocations))


def _check_floor(state: RegistryState, floor: Floor) -> None:
    for name, document, known in (
        (SIGNED_INDEX, state.index, floor.index),
        (REVOCATIONS, state.revocations, floor.revocations),
    ):
        if (0 if document is None else document.sequence) < known:
            raise RollbackError(
                "The registry shows an older state than the writer knows of.",
                where=f"{state.registry}: {name}",
                expected=f"sequence {known} or higher",
                found="no such file" if document is None else f"sequence {document.sequence}, {document.issued}",
                next_step=f"Find out who wrote to {index_repository(organisation_of(state.registry))}, and put the newest "
                "signed documents back.",
            )


def _absent(client: HubClient, organisation: str) -> ArtifactNotFoundError:
    return ArtifactNotFoundError(
        f"The organisation {organisation} has no registry.",
        where=f"{client.endpoint}/datasets/{index_repository(organisation)}",
        expected=f"{SIGNED_INDEX} and {REVOCATIONS} of {registry_name(organisation)}",
        found="neither, and nothing is remembered",
        next_step="If it is to be begun now, publish with --new-registry (new_registry=True). If there was one, find out "
        "who removed it and put it back.",
    )


def _exists(state: RegistryState) -> PublishConflictError:
    return PublishConflictError(
        "A new registry was asked for, and there is one already.",
        where=state.registry,
        expected="no index and no list of revocations",
        found=_shown(state),
        next_step="Run the command again without --new-registry (new_registry=True).",
    )


def _unknown(state: RegistryState) -> RollbackError:
    return RollbackError(
        "This store has never written to the registry that is to be signed anew, so an old state could be shown to it.",
        where=state.registry,
        expected="a store that has written to the registry, or the sequences that you know of",
        found=_shown(state),
        next_step="Use the store of the last change (STEERGUARD_STORE), or state the sequences that it printed with "
        "--at-least INDEX,LIST (at_least=Floor(…)). Do not take them from this message.",
    )


def _shown(state: RegistryState) -> str:
    parts = []
    for name, document in (("index", state.index), ("list of revocations", state.revocations)):
        parts.append(f"no {name}" if document is None else f"{name} {document.sequence}, issued {document.issued}")
    return "; ".join(parts)
