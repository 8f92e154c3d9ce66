"""The trust policy as typed data: who may publish, vet and revoke what, and what happens when nobody can be asked.

Nothing here is learnt: a key counts because this document names it, never because it was seen before.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from steerguard.artifacts.vetting import MAX_LEVEL, VettingLevel
from steerguard.errors import SigningKeyError
from steerguard.methods.section import Section
from steerguard.policy.failure import FailureHandling, Loosening
from steerguard.registry.index import IndexEntry
from steerguard.registry.names import HUB_REGISTRY_PATTERN, is_hub
from steerguard.signing.keys import KEY_ID_PATTERN, KEY_TEXT_PATTERN, PublicKey
from steerguard.trust.durations import DurationText, duration

_REGISTRY: Final = rf"^(?:embedded|file:///[!-~]*|{HUB_REGISTRY_PATTERN.strip('^$')})$"


def _parsed_key(text: str) -> str:
    try:
        PublicKey.parse(text)
    except SigningKeyError as error:
        kind, template = "public_key", "{summary}"
        raise PydanticCustomError(
            kind, template, {"summary": error.summary, "expected": error.expected, "next_step": error.next_step}
        ) from error
    return text


KeyText = Annotated[str, Field(pattern=KEY_TEXT_PATTERN), AfterValidator(_parsed_key)]
PartyId = Annotated[str, Field(pattern=r"^[a-z0-9]+(?:[._-][a-z0-9]+)*$", max_length=64)]
RegistryPattern = Annotated[str, Field(pattern=_REGISTRY, max_length=4096)]
ArtifactPattern = Annotated[str, Field(pattern=r"^[a-z0-9.*?-]+(?:/[a-z0-9.*?-]+)?$", max_length=200)]


class TrustedKey(Section):
    """One public key."""

    key: KeyText
    """`ed25519:` and the base64 form of 32 bytes, as `steerguard keys show` prints it."""
    until: Annotated[date, Field(json_schema_extra={"x-unit": "date as YYYY-MM-DD, UTC"})] | None = None
    """Last day on which the key counts; without it the key counts until it is removed or revoked."""

    @property
    def public(self) -> PublicKey:
        """The key."""
        return PublicKey.parse(self.key)

    def counts(self, now: datetime) -> bool:
        """Return whether the key has not passed its last day at a moment in UTC."""
        return self.until is None or now.date() <= self.until


class Requirement(Section):
    """What an artifact of a publisher must have."""

    signatures: Annotated[int, Field(ge=1, le=16, json_schema_extra={"x-unit": "keys"})] = 1
    """How many of the publisher's keys must have signed the release."""
    vetting_level: VettingLevel = 0
    """Lowest vetting level, from 0 to 3; at 0 no vetting record is asked for."""
    other_vetter: bool = True
    """Whether the vetting record must be signed by a key that no publisher has."""


class Publisher(Section):
    """Somebody whose artifacts may be used."""

    id: PartyId
    """Name for messages."""
    registries: Annotated[tuple[RegistryPattern, ...], Field(min_length=1)]
    """Names of registries, exact; in `file://` names `*` stands for anything."""
    artifacts: Annotated[tuple[ArtifactPattern, ...], Field(min_length=1)] = ("*",)
    """Patterns for `family` or `family/variant` with `*` and `?`."""
    keys: Annotated[tuple[TrustedKey, ...], Field(min_length=1)]
    """Several keys let one be replaced by the next."""
    require: Requirement = Requirement()
    """What each of its artifacts must have."""

    def may_publish(self, entry: IndexEntry, registry: str) -> bool:
        """Return whether this publisher may publish this artifact in this registry."""
        return any(_registry_matches(pattern, registry) for pattern in self.registries) and any(
            _artifact_matches(pattern, entry) for pattern in self.artifacts
        )


class Vetter(Section):
    """Somebody whose vetting records count."""

    id: PartyId
    """Name for messages."""
    keys: Annotated[tuple[TrustedKey, ...], Field(min_length=1)]
    """Keys that may sign its vetting records."""
    max_level: VettingLevel = MAX_LEVEL
    """Records of a higher level count as this one."""


class TrustedRegistry(Section):
    """Who may sign the index and the list of revocations of one registry."""

    registry: Annotated[str, Field(pattern=_REGISTRY, max_length=4096)]
    """Exact name: `hf://organisation`, `file:///absolute/path` or `embedded`."""
    keys: Annotated[tuple[TrustedKey, ...], Field(min_length=1)]
    """Keys that may sign its index and its list of revocations."""


class Revocation(Section):
    """How lists of revocations are kept up to date."""

    max_age: DurationText = "7d"
    """How long after its issue a list is relied on."""
    on_stale: FailureHandling = "refuse"
    """What happens when a list is missing, has expired or is older than `max_age`."""
    check_every: DurationText = "10m"
    """How often a running guard reads the lists again."""

    @property
    def max_age_span(self) -> timedelta:
        """`max_age` as a length of time."""
        return duration(self.max_age)

    @property
    def check_every_span(self) -> timedelta:
        """`check_every` as a length of time."""
        return duration(self.check_every)


class TrustPolicy(Section):
    """One trust policy."""

    api_version: Annotated[Literal["steerguard/v1alpha1"], Field(alias="apiVersion")]
    """Version of this format."""
    kind: Literal["TrustPolicy"]
    """Kind of the document."""
    embedded: Literal["accept", "judge"] = "accept"
    """`accept`: the registry that ships with the package is trusted as the package is. `judge`: like any other."""
    unsigned_local: FailureHandling = "refuse"
    """What happens with an artifact of a local registry that nobody has signed."""
    publishers: tuple[Publisher, ...] = ()
    """Whose artifacts may be used."""
    vetters: tuple[Vetter, ...] = ()
    """Whose vetting records count."""
    registries: tuple[TrustedRegistry, ...] = ()
    """Registries whose index or list of revocations is signed."""
    revocation: Revocation = Revocation()
    """How old a list of revocations may be, what follows when it is older, and how often it is read."""
    revoked_keys: tuple[Annotated[str, Field(pattern=KEY_ID_PATTERN)], ...] = ()
    """Ids of keys that count for nothing, whatever else is said about them."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        for path, message in _contradictions(self):
            kind, template = "contradiction", "{summary}"
            raise PydanticCustomError(kind, template, {"summary": message, "path": path})
        return self

    def loosenings(self) -> Iterator[tuple[tuple[str, ...], Loosening]]:
        """Yield every setting that loosens, with its place."""
        settings: tuple[tuple[tuple[str, ...], FailureHandling], ...] = (
            (("unsigned_local",), self.unsigned_local),
            (("revocation", "on_stale"), self.revocation.on_stale),
        )
        for path, setting in settings:
            if isinstance(setting, Loosening):
                yield path, setting

    def keys_of_registry(self, registry: str, now: datetime) -> tuple[PublicKey, ...]:
        """Return the keys that may sign the index and the revocations of a registry at this moment.

        Args:
            registry: exact name.
            now: the present, in UTC.
        """
        named = (key for one in self.registries if one.registry == registry for key in one.keys)
        return tuple(key.public for key in named if key.counts(now) and key.public.id not in self.revoked_keys)


def _contradictions(policy: TrustPolicy) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the place and text of every contradiction."""
    for field, names in (
        ("publishers", [one.id for one in policy.publishers]),
        ("vetters", [one.id for one in policy.vetters]),
        ("registries", [one.registry for one in policy.registries]),
    ):
        for index, name in enumerate(names):
            if name in names[:index]:
                yield (field, index), f"`{name}` stands twice."
    for index, registry in enumerate(policy.registries):
        if "*" in registry.registry:
            yield ("registries", index, "registry"), "The registry that signs has one exact name, without `*`."
    yield from _unkeepable(policy)


def _unkeepable(policy: TrustPolicy) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what publishers are asked for and nobody can give."""
    signed = {one.registry for one in policy.registries}
    for index, publisher in enumerate(policy.publishers):
        keys = {key.key for key in publisher.keys}
        if publisher.require.signatures > len(keys):
            yield (
                ("publishers", index, "require", "signatures"),
                f"{publisher.require.signatures} signatures are required and there are keys for {len(keys)}.",
            )
        if publisher.require.vetting_level and not _can_vet(policy, publisher):
            yield (
                ("publishers", index, "require", "vetting_level"),
                f"No vetter can vouch for level {publisher.require.vetting_level} of `{publisher.id}`.",
            )
        for place, registry_name in enumerate(publisher.registries):
            if is_hub(registry_name) and registry_name not in signed:
                yield (
                    ("publishers", index, "registries", place),
                    f"`registries` names no keys for {registry_name}, so its index cannot be verified.",
                )


def _can_vet(policy: TrustPolicy, publisher: Publisher) -> bool:
    own = {key.key for one in policy.publishers for key in one.keys}
    level = publisher.require.vetting_level
    others_only = publisher.require.other_vetter or level >= MAX_LEVEL
    return any(
        vetter.max_level >= level and any(not others_only or key.key not in own for key in vetter.keys)
        for vetter in policy.vetters
    )


def _registry_matches(pattern: str, registry: str) -> bool:
    if pattern.startswith("file://"):
        # `[` is no pattern here: names in URL form may hold it.
        return fnmatchcase(registry, pattern.replace("[", "[[]"))
    return pattern == registry


def _artifact_matches(pattern: str, entry: IndexEntry) -> bool:
    family, slash, variant = pattern.partition("/")
    return fnmatchcase(entry.family, family) and (not slash or fnmatchcase(entry.variant, variant))
