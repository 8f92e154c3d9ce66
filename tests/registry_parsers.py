"""Every parser of what a registry hands out, each with a valid document, hostile inputs, and what it may raise."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.hostile_inputs import canonical_or_nearly, compact, damaged, hostile
from tests.registry_documents import (
    DIGEST,
    NOW_TEXT,
    PUBLISHER,
    lockfile,
    manifest,
    manifest_data,
    revocations,
    signed_index,
    vetting_record,
)

from steerguard.artifacts.header import check_header
from steerguard.artifacts.manifest import TensorEntry, manifest_bytes, parse_manifest
from steerguard.artifacts.release import parse_release, release_statement
from steerguard.artifacts.vetting import parse_vetting, vetting_statement
from steerguard.canonical import canonical_bytes, sha256_hex
from steerguard.errors import ArtifactFormatError, LockFormatError, SignatureError, SteerguardError
from steerguard.registry.index import IndexEntry, index_bytes, index_of, parse_index
from steerguard.registry.lockfile import lock_bytes, parse_lock
from steerguard.registry.revocations import parse_revocations, revocations_bytes
from steerguard.registry.signed_index import parse_signed_index, signed_index_bytes
from steerguard.signing.dsse import envelope_bytes, parse_envelope, sign
from steerguard.signing.statement import STATEMENT, statement_bytes

WHERE = "document under test"
TENSORS = {"a": TensorEntry(dtype="F32", shape=(2, 3)), "b": TensorEntry(dtype="F16", shape=(4,))}
TENSOR_BYTES = bytes(24 + 8)
HEADER = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
}


@dataclass(frozen=True)
class Parser:
    """One parser under test."""

    valid: bytes
    accept: Callable[[bytes], bytes | None]
    """Parses; returns what the result is written as, or None where it is not written."""
    error: type[SteerguardError]
    """The only error that it may raise."""
    draw: Callable[[random.Random], bytes]
    """Makes one hostile input."""
    message_limit: int = 5000
    """Most characters of a message: what is hostile is not repeated at length."""


def sealed(draw: random.Random, data: Any) -> bytes:
    """Return edited data as a lock file would stand, mostly with a true digest."""
    if isinstance(data, dict) and draw.random() < 0.8:
        try:
            rest = {key: value for key, value in data.items() if key != "content_sha256"}
            data = data | {"content_sha256": sha256_hex(canonical_bytes(rest))}
        except (ValueError, RecursionError):
            pass
    try:
        return json.dumps(data, sort_keys=True, indent=2).encode("ascii") + b"\n"
    except RecursionError:
        return compact(data)


def tensor_file(header: bytes, data: bytes = TENSOR_BYTES, length: int | None = None) -> bytes:
    """Return a safetensors file around the bytes of a header."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def _hostile_tensor_file(draw: random.Random) -> bytes:
    valid = compact(HEADER)
    choice = draw.random()
    if choice < 0.15:
        return damaged(draw, tensor_file(valid))
    header = hostile(draw, valid, lambda _, data: compact(data))
    if choice < 0.25:
        return tensor_file(header, length=draw.choice((0, 1, len(header) - 1 if header else 0, 2**40, 2**64 - 1)))
    return tensor_file(header, draw.choice((TENSOR_BYTES, TENSOR_BYTES, TENSOR_BYTES[:-1], TENSOR_BYTES + b"\0", b"")))


def _header_accepted(content: bytes) -> None:
    check_header(content, TENSORS, where=WHERE)


def _canonical(valid: bytes, accept: Callable[[bytes], bytes | None], error: type[SteerguardError]) -> Parser:
    return Parser(valid, accept, error, lambda draw: hostile(draw, valid, canonical_or_nearly))


def _parsers() -> Mapping[str, Parser]:
    entries = (IndexEntry(family="a", variant="b", version=version, digest=DIGEST) for version in ("1.9.0", "1.10.0"))
    release = release_statement(manifest(), DIGEST, "acme", NOW_TEXT)
    vetting = vetting_statement(manifest(), DIGEST, vetting_record())
    lock = lock_bytes(lockfile())
    return {
        "manifest": _canonical(
            canonical_bytes(manifest_data()),
            lambda content: manifest_bytes(parse_manifest(content)),
            ArtifactFormatError,
        ),
        "index": _canonical(
            index_bytes(index_of(tuple(entries))),
            lambda content: index_bytes(parse_index(content, where=WHERE)),
            ArtifactFormatError,
        ),
        "signed index": _canonical(
            signed_index_bytes(signed_index()),
            lambda content: signed_index_bytes(parse_signed_index(content, where=WHERE)),
            ArtifactFormatError,
        ),
        "revocation list": _canonical(
            revocations_bytes(revocations()),
            lambda content: revocations_bytes(parse_revocations(content, where=WHERE)),
            ArtifactFormatError,
        ),
        "release": _canonical(
            release, lambda content: statement_bytes(parse_release(content, where=WHERE)), ArtifactFormatError
        ),
        "vetting record": _canonical(
            vetting, lambda content: statement_bytes(parse_vetting(content, where=WHERE)), ArtifactFormatError
        ),
        "envelope": _canonical(
            sign(release, STATEMENT, [PUBLISHER]),
            lambda content: envelope_bytes(parse_envelope(content, where=WHERE)),
            SignatureError,
        ),
        "lock file": Parser(
            lock,
            lambda content: lock_bytes(parse_lock(content, where=WHERE)),
            LockFormatError,
            lambda draw: hostile(draw, lock, sealed),
        ),
        "safetensors header": Parser(
            tensor_file(compact(HEADER)),
            _header_accepted,
            ArtifactFormatError,
            _hostile_tensor_file,
        ),
    }


PARSERS = _parsers()
