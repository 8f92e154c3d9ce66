"""Canonical JSON (RFC 8785) and digests: the one place that turns data into bytes to be hashed."""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785


def canonical_bytes(data: Any) -> bytes:
    """Return the RFC 8785 form of JSON data.

    Numbers that are not integers are refused by convention: write them as decimal strings.
    """
    return rfc8785.dumps(data)


def sha256_hex(content: bytes) -> str:
    """Return the lower-case hexadecimal SHA-256 of the bytes."""
    return hashlib.sha256(content).hexdigest()


def digest(data: Any) -> str:
    """Return `sha256:<hex>` over the canonical JSON form of the data."""
    return f"sha256:{sha256_hex(canonical_bytes(data))}"
