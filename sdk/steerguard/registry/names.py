"""Names of registries and of repositories on the Hub, as documents write them."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

EMBEDDED: Final = "embedded"
HUB_PREFIX: Final = "hf://"

_HUB_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
HUB_REGISTRY_PATTERN: Final = rf"^hf://{_HUB_PART}$"
HUB_REPOSITORY_PATTERN: Final = rf"^{_HUB_PART}/{_HUB_PART}$"
REGISTRY_PATTERN: Final = rf"^(?:embedded|hf://{_HUB_PART}|file:///[!-\"$-~]*)$"

HubRegistryName = Annotated[str, Field(pattern=HUB_REGISTRY_PATTERN)]
"""`hf://organisation`."""
HubRepository = Annotated[str, Field(pattern=HUB_REPOSITORY_PATTERN)]
"""`organisation/name`."""
RegistryName = Annotated[str, Field(pattern=REGISTRY_PATTERN, max_length=4096)]
"""`embedded`, `file:///absolute/path` in URL form, or `hf://organisation`."""
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
"""A full commit id."""
Sequence = Annotated[int, Field(ge=1, le=2**53 - 1)]
"""Number of a signed document: each new one of a registry has a higher number."""


def is_hub(registry: str) -> bool:
    """Return whether the registry of this name lies on the Hub."""
    return registry.startswith(HUB_PREFIX)


def organisation_of(registry: str) -> str:
    """Return the organisation of a registry on the Hub."""
    return registry.removeprefix(HUB_PREFIX)
