"""The lock file: which artifacts a project uses, down to commits and bytes, and for which policies.

The text is JSON with sorted keys and an indent of two, and equals its own normal form, so that two people who lock the
same things get the same file. `content_sha256` finds edits by hand and bad merges; it is no protection against somebody
who can write the file, which is why the file belongs under review like code.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steerguard.artifacts.attestation import Digest
from steerguard.artifacts.manifest import API_VERSION, Name, Sha256, Text
from steerguard.artifacts.paths import MAX_FILES, check_distinct, check_path
from steerguard.artifacts.versions import VERSION_PATTERN, parse_version
from steerguard.artifacts.vetting import VettingLevel
from steerguard.canonical import canonical_bytes, sha256_hex
from steerguard.errors import ArtifactFormatError, LockError, LockFormatError
from steerguard.registry.names import Commit, HubRepository, RegistryName, Sequence, is_hub
from steerguard.registry.staging import replace_durably
from steerguard.signing.keys import KEY_ID_PATTERN
from steerguard.version import __version__

MAX_LOCK_BYTES: Final = 16 * 1024 * 1024
MAX_LOCKED_FILES: Final = MAX_FILES + 1
"""All files of a manifest, and the manifest."""
MAX_SIZE: Final = 2**40
"""Largest size of a file that a lock file may state, in bytes."""

ReferenceText = Annotated[str, Field(min_length=1, max_length=4096)]

_CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class LockedPolicy(BaseModel):
    """A policy that the file was locked for."""

    model_config = _CONFIG

    name: Text
    """Name of the policy, for people."""
    digest: Digest
    """Digest of the effective policy."""
    references: tuple[ReferenceText, ...]
    """Every reference of the policy as it is written there, sorted."""


class LockedRegistry(BaseModel):
    """The state of a registry that was seen when the file was locked."""

    model_config = _CONFIG

    registry: RegistryName
    """Name of the registry."""
    index_sequence: Sequence | None
    """Sequence of the signed index; null where the registry has none."""
    index_sha256: Sha256 | None
    """Digest of the index; null where it was not signed."""
    revocations_sequence: Sequence | None
    """Sequence of the list of revocations; null where there was none."""


class LockedFile(BaseModel):
    """One file of an artifact."""

    model_config = _CONFIG

    path: Text
    """Relative POSIX path."""
    sha256: Sha256
    """Digest of the bytes."""
    size: Annotated[int, Field(ge=0, le=MAX_SIZE)]
    """Number of bytes."""


class LockedVetting(BaseModel):
    """The vetting record that was relied on."""

    model_config = _CONFIG

    level: VettingLevel
    """Level that was reached, 0 to 3."""
    sha256: Sha256
    """Digest of the envelope."""


class LockedArtifact(BaseModel):
    """One artifact that a reference stands for."""

    model_config = _CONFIG

    reference: ReferenceText
    """As policies write it."""
    registry: RegistryName
    """Where the artifact was found."""
    family: Name
    """Family of the artifact."""
    variant: Name
    """Variant of the artifact."""
    version: Annotated[str, Field(pattern=VERSION_PATTERN)]
    """MAJOR.MINOR.PATCH."""
    digest: Digest
    """Digest of the manifest."""
    repo: HubRepository | None
    """Repository on the Hub; null elsewhere."""
    commit: Commit | None
    """Commit of the repository; null elsewhere."""
    files: tuple[LockedFile, ...] = Field(min_length=1, max_length=MAX_LOCKED_FILES)
    """Files whose bytes are pinned, sorted by path."""
    signed_by: tuple[Annotated[str, Field(pattern=KEY_ID_PATTERN)], ...] = Field(max_length=64)
    """Ids of the keys that signed the release, sorted."""
    vetting: LockedVetting | None
    """The vetting record that was relied on; null where none was asked for."""

    @property
    def key(self) -> tuple[str, str, str, str, tuple[int, int, int]]:
        """What sorts and identifies an entry."""
        return self.reference, self.registry, self.family, self.variant, parse_version(self.version)


class Lockfile(BaseModel):
    """The document."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, validate_by_name=True
    )

    api_version: Literal["steerguard/v1alpha1"] = Field(alias="apiVersion")
    """Version of this format."""
    kind: Literal["Lockfile"]
    """Kind of the document."""
    sdk: Text
    """Version of steerguard that locked."""
    policies: tuple[LockedPolicy, ...]
    """Sorted by name and digest."""
    registries: tuple[LockedRegistry, ...]
    """Sorted by name, each once."""
    artifacts: tuple[LockedArtifact, ...]
    """Sorted by reference, registry, family, variant and version, each once."""
    content_sha256: Sha256
    """Digest of the canonical JSON form of everything else."""


def lockfile_of(
    policies: Iterable[LockedPolicy], registries: Iterable[LockedRegistry], artifacts: Iterable[LockedArtifact]
) -> Lockfile:
    """Return a lock file of these entries, sorted, with its digest.

    Raises:
        LockFormatError: the entries contradict each other.
    """
    draft = Lockfile(
        api_version=API_VERSION,
        kind="Lockfile",
        sdk=__version__,
        policies=tuple(sorted(policies, key=lambda policy: (policy.name, policy.digest))),
        registries=tuple(sorted(registries, key=lambda registry: registry.registry)),
        artifacts=tuple(sorted(artifacts, key=lambda artifact: artifact.key)),
        content_sha256="0" * 64,
    )
    lock = draft.model_copy(update={"content_sha256": _content_sha256(_data(draft))})
    _check(lock, where="lock file")
    return lock


def parse_lock(content: bytes, *, where: str) -> Lockfile:
    """Parse the bytes of a lock file.

    Raises:
        LockFormatError: too large, not JSON, not in its normal form, edited, breaks the schema or contradicts itself.
    """
    if len(content) > MAX_LOCK_BYTES:
        raise LockFormatError(
            "The lock file is too large.", where=where, expected=f"at most {MAX_LOCK_BYTES} bytes", found=len(content)
        )
    try:
        data = json.loads(content.decode("utf-8"), parse_float=_refuse_number, parse_constant=_refuse_number)
        normal = _text(data)
        found_sha256 = _content_sha256(data)
    # JSON errors, RFC 8785 errors, over-long integers and bad UTF-8 are all ValueErrors; deep nesting recurses.
    except (ValueError, RecursionError) as error:
        raise _broken("The lock file is not JSON of integers and text.", where, found=type(error).__name__) from error
    if normal != content:
        raise _broken(
            "The lock file differs from its own normal form.",
            where,
            expected="sorted keys, each key once, an indent of 2, one line feed at the end",
        )
    try:
        lock = Lockfile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:200] or "(whole document)"
        raise _broken(
            "The lock file breaks its schema.",
            f"{where}: {field}",
            expected=first["msg"],
            found=repr(first.get("input"))[:120],
        ) from error
    if lock.content_sha256 != found_sha256:
        raise _broken(
            "The lock file was edited.",
            f"{where}: content_sha256",
            expected=found_sha256,
            found=lock.content_sha256,
        )
    _check(lock, where=where)
    return lock


def lock_bytes(lock: Lockfile) -> bytes:
    """Return the bytes of a lock file: the inverse of `parse_lock`.

    Raises:
        LockFormatError: the lock was changed after `lockfile_of` made it.
    """
    content = _text(_data(lock))
    parse_lock(content, where="lock file")
    return content


def read_lock(path: Path) -> Lockfile:
    """Read and check a lock file.

    Raises:
        LockFormatError: missing, unreadable, not a regular file, or malformed.
    """
    try:
        # Without waiting for a writer, should the path be a pipe.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            content = file.read(MAX_LOCK_BYTES + 1) if regular else b""
    except (OSError, ValueError) as error:
        raise LockFormatError(
            "The lock file cannot be read.",
            where=path,
            found=getattr(error, "strerror", None) or type(error).__name__,
            next_step="Make one with `steerguard lock`, or correct the path.",
        ) from error
    if not regular:
        raise LockFormatError("The lock file is not a regular file.", where=path)
    return parse_lock(content, where=str(path))


def write_lock(path: Path, lock: Lockfile) -> None:
    """Replace a lock file, or make it: a reader or a crash sees the old file or the new one.

    Raises:
        LockFormatError: the lock was changed after it was made.
        LockError: the file cannot be written.
    """
    content = lock_bytes(lock)
    try:
        replace_durably(path, content)
    except OSError as error:
        raise LockError(
            "The lock file cannot be written.",
            where=path,
            found=error.strerror,
            next_step="Free space or correct the permissions.",
        ) from error


def _data(lock: Lockfile) -> dict[str, Any]:
    return lock.model_dump(mode="json", by_alias=True)


def _text(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, indent=2).encode("ascii") + b"\n"


def _content_sha256(data: Any) -> str:
    """Return the digest over everything but the digest itself; data that is no object has the digest of itself."""
    rest = {key: value for key, value in data.items() if key != "content_sha256"} if isinstance(data, dict) else data
    return sha256_hex(canonical_bytes(rest))


def _check(lock: Lockfile, *, where: str) -> None:
    """Refuse a lock file whose parts are out of order or contradict each other."""
    _check_order([(policy.name, policy.digest) for policy in lock.policies], where=f"{where}: policies")
    for policy in lock.policies:
        _check_order(list(policy.references), where=f"{where}: policies: {policy.name}: references")
    _check_order([registry.registry for registry in lock.registries], where=f"{where}: registries")
    _check_order([artifact.key for artifact in lock.artifacts], where=f"{where}: artifacts")
    named = {registry.registry for registry in lock.registries}
    for registry in lock.registries:
        if (registry.index_sequence is None) != (registry.index_sha256 is None):
            raise _broken(
                "A signed index has a sequence and a digest.",
                f"{where}: registries: {registry.registry}",
                expected="index_sequence and index_sha256, or neither",
            )
    digests: dict[tuple[str, str, str, str], str] = {}
    for index, artifact in enumerate(lock.artifacts):
        at = f"{where}: artifacts[{index}]"
        _check_artifact(artifact, where=at)
        if artifact.registry not in named:
            raise _broken(
                "An artifact comes from a registry that the lock file does not list.",
                f"{at}.registry",
                expected=f"one of {', '.join(sorted(named)) or 'none'}"[:500],
                found=artifact.registry,
            )
        name = (artifact.registry, artifact.family, artifact.variant, artifact.version)
        if digests.setdefault(name, artifact.digest) != artifact.digest:
            raise _broken(
                "The lock file pins one version to two digests.",
                f"{at}.digest",
                expected=digests[name],
                found=artifact.digest,
            )


def _check_artifact(artifact: LockedArtifact, *, where: str) -> None:
    on_hub = is_hub(artifact.registry)
    if (artifact.repo is not None) != on_hub or (artifact.commit is not None) != on_hub:
        raise _broken(
            "An artifact has a repository and a commit exactly when it lies on the Hub.",
            where,
            expected="repo and commit" if on_hub else "neither repo nor commit",
            found=f"repo {artifact.repo}, commit {artifact.commit}",
        )
    paths = [file.path for file in artifact.files]
    try:
        for path in paths:
            check_path(path)
        check_distinct(paths)
    except ArtifactFormatError as error:
        raise _broken(
            error.summary, f"{where}.files: {error.where}", expected=error.expected, found=error.found
        ) from error
    _check_order(paths, where=f"{where}.files")
    _check_order(list(artifact.signed_by), where=f"{where}.signed_by")


def _check_order(keys: list[Any], *, where: str) -> None:
    if keys != sorted(set(keys)):
        raise _broken("The lock file is not in order.", where, expected="every entry once, sorted")


def _broken(summary: str, where: str, *, expected: object = None, found: object = None) -> LockFormatError:
    return LockFormatError(
        summary,
        where=where,
        expected=expected,
        found=found,
        next_step="Do not edit or merge a lock file by hand: run `steerguard lock` again and review what changed.",
    )


def _refuse_number(text: str) -> Any:
    msg = f"the number {text[:40]} is not an integer"
    raise ValueError(msg)
