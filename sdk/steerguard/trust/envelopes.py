"""The statements among an artifact's attestations: parsed, and about this very digest. Their signatures are asked later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from steerguard.artifacts.release import MAX_RELEASE_BYTES, ReleaseStatement, is_release, parse_release
from steerguard.artifacts.vetting import MAX_VETTING_BYTES, VettingStatement, is_vetting, parse_vetting
from steerguard.canonical import sha256_hex
from steerguard.errors import ArtifactFormatError, SignatureError
from steerguard.registry.index import IndexEntry
from steerguard.signing.dsse import Envelope, envelope_limit, parse_envelope, signers_of
from steerguard.signing.keys import PublicKey
from steerguard.signing.statement import STATEMENT

StatementT = TypeVar("StatementT", ReleaseStatement, VettingStatement)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedStatement(Generic[StatementT]):
    """One statement about the artifact, and the envelope that it lay in."""

    path: str
    statement: StatementT
    envelope: Envelope
    digest: str
    """`sha256:<hex>` over the bytes of the file."""

    @property
    def claimed(self) -> tuple[str, ...]:
        """Key ids that the envelope claims; hints, shortened for messages."""
        return tuple(repr(signature.keyid[:40]) for signature in self.envelope.signatures)

    def signers(self, keys: Iterable[PublicKey]) -> tuple[PublicKey, ...]:
        """Return those of the keys whose signature of this statement verifies."""
        return signers_of(self.envelope, keys)


def releases_of(entry: IndexEntry, attestations: Mapping[str, bytes]) -> tuple[SignedStatement[ReleaseStatement], ...]:
    """Return the readable release statements about this digest, sorted by path."""
    return _readable(entry, attestations, is_release, parse_release, MAX_RELEASE_BYTES)


def vettings_of(entry: IndexEntry, attestations: Mapping[str, bytes]) -> tuple[SignedStatement[VettingStatement], ...]:
    """Return the readable vetting statements about this digest, sorted by path."""
    return _readable(entry, attestations, is_vetting, parse_vetting, MAX_VETTING_BYTES)


def unreadable(entry: IndexEntry, attestations: Mapping[str, bytes]) -> dict[str, str]:
    """Return why a release or vetting file counts for nothing, by path: malformed, or about other bytes."""
    found: dict[str, str] = {}
    for path, content in sorted(attestations.items()):
        outcome: object = None
        if is_release(path):
            outcome = _parsed(entry, path, content, parse_release, MAX_RELEASE_BYTES)
        elif is_vetting(path):
            outcome = _parsed(entry, path, content, parse_vetting, MAX_VETTING_BYTES)
        if isinstance(outcome, str):
            found[path] = outcome
    return found


def _readable(
    entry: IndexEntry,
    attestations: Mapping[str, bytes],
    belongs: Callable[[str], bool],
    parse: Callable[..., StatementT],
    max_bytes: int,
) -> tuple[SignedStatement[StatementT], ...]:
    files = sorted((path, content) for path, content in attestations.items() if belongs(path))
    outcomes = (_parsed(entry, path, content, parse, max_bytes) for path, content in files)
    return tuple(outcome for outcome in outcomes if not isinstance(outcome, str))


def _parsed(
    entry: IndexEntry, path: str, content: bytes, parse: Callable[..., StatementT], max_bytes: int
) -> SignedStatement[StatementT] | str:
    """Return the statement in a file, or why it counts for nothing."""
    try:
        # Anybody can put files here: what is larger than any statement is not even parsed.
        envelope = parse_envelope(content, where=path, max_bytes=envelope_limit(max_bytes))
        if envelope.payload_type != STATEMENT:
            return f"its payload is {envelope.payload_type[:80]!r}"
        statement = parse(envelope.payload, where=path)
    except (SignatureError, ArtifactFormatError) as error:
        return error.summary
    if statement.digest != entry.digest:
        return f"it is about other bytes, {statement.digest}"
    return SignedStatement(path=path, statement=statement, envelope=envelope, digest=f"sha256:{sha256_hex(content)}")
