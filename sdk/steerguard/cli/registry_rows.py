"""What `registry list` and `registry search` show of each artifact; on the Hub the signed index says it, no file is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from steerguard.registry.signed_index import HubEntry
from steerguard.registry.store import ArtifactStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRow:
    """One artifact of a registry."""

    reference: str
    """`family/variant@version`."""
    type: str
    base_model: str
    weights: tuple[str, ...] | None
    """Types of weights that it was checked on; None where the index does not say."""
    digest: str
    repo: str | None = None
    commit: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what a machine reads."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def artifact_rows(store: ArtifactStore) -> Iterator[ArtifactRow]:
    """Yield the artifacts of a registry in the order of its index.

    Raises:
        SteerguardError: as the store's `entries` and `pin` do.
    """
    for entry in store.entries():
        if isinstance(entry, HubEntry):
            yield ArtifactRow(
                reference=entry.reference,
                type=entry.type,
                base_model=entry.base_model,
                weights=None,
                digest=entry.digest,
                repo=entry.repo,
                commit=entry.commit,
            )
        else:
            manifest = store.pin(entry).manifest
            yield ArtifactRow(
                reference=entry.reference,
                type=manifest.type,
                base_model=manifest.base.repo,
                weights=tuple(one.weights for one in manifest.fingerprints),
                digest=entry.digest,
            )


def matching(
    rows: Iterable[ArtifactRow], words: Iterable[str], *, type_: str | None = None, base_model: str | None = None
) -> tuple[ArtifactRow, ...]:
    """Return the rows in which every word occurs, in any case: in the name, the type or the base model.

    Args:
        rows: what there is.
        words: parts of words; none of them matches everything.
        type_: only artifacts of exactly this type.
        base_model: only artifacts whose base model contains this text.
    """
    folded = [word.casefold() for word in words]
    return tuple(
        row
        for row in rows
        if all(word in f"{row.reference} {row.type} {row.base_model}".casefold() for word in folded)
        and type_ in {None, row.type}
        and (base_model or "").casefold() in row.base_model.casefold()
    )
