"""Where the artifacts of a command's policies come from: the option `--lock`, and its files read before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

if TYPE_CHECKING:
    from steerguard.registry.lockfile import Lockfile
    from steerguard.trust.document import TrustPolicy

LockOption = Annotated[
    Path | None, typer.Option("--lock", metavar="FILE", help="Lock file: nothing else is looked at.")
]


class ArtifactSources(TypedDict):
    """What `wrap` takes beside model and policy, by its names."""

    registry: str | None
    trust: TrustPolicy | None
    lock: Lockfile | None


def artifact_sources(registry: str | None, trust: Path | None, lock: Path | None) -> ArtifactSources:
    """Return a registry's name with the trust policy and the lock file that the options name.

    Raises:
        TrustPolicyError: the trust policy cannot be read or is malformed.
        LockFormatError: the lock file cannot be read or is malformed.
    """
    from steerguard.registry.lockfile import read_lock
    from steerguard.trust.load import load_trust

    return {
        "registry": registry,
        "trust": None if trust is None else load_trust(trust),
        "lock": None if lock is None else read_lock(lock),
    }
