"""Where the attestations of a pulled artifact came from, and their digests.

They lie outside the artifact's own digest. This record lets a damaged one be noticed and fetched again; it is not what
makes one trusted, since whoever can change the files can change the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from steerguard.artifacts.strict_json import validated
from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError
from steerguard.registry.folder import read_file

_MAX_BYTES = 1024 * 1024
_MAX_SEEN = 16


class Origins(BaseModel):
    """The record of one artifact."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    seen: tuple[str, ...] = ()
    """`<repo>@<commit>` of every commit whose attestations are here, oldest first."""
    attestations: dict[str, str] = {}
    """Hexadecimal SHA-256 by path `attestations/<name>.json`."""
    pending: dict[str, str] = {}
    """What may stand there as well: files that are being added, replaced or taken away. Empty but after a crash."""

    def admits(self, found: Mapping[str, str]) -> bool:
        """Return whether these digests by path are what must be there, and nothing else than may be."""
        known = all(sha256 in (self.attestations.get(path), self.pending.get(path)) for path, sha256 in found.items())
        return known and set(self.attestations) <= set(found)


def read_origins(file: Path) -> Origins:
    """Return the record; an empty one where it is absent or damaged, so that attestations are fetched again.

    Raises:
        OSError: the operating system refuses.
    """
    try:
        return validated(Origins, read_file(file, max_bytes=_MAX_BYTES), where=str(file), max_bytes=_MAX_BYTES)
    except (FileNotFoundError, ArtifactFormatError):
        return Origins()


def origins_bytes(origins: Origins) -> bytes:
    """Return the canonical bytes of a record, shortened to the latest commits."""
    data = origins.model_dump(mode="json")
    return canonical_bytes({**data, "seen": data["seen"][-_MAX_SEEN:]})
