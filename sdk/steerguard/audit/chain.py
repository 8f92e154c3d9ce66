"""The hash chain: pure functions from a record to its line, and from a line to its leaf hash.

A leaf is `SHA256(0x00 || line)` over the line without its newline, as in RFC 6962 section 2.1,
so that a Merkle tree can later be built over the same leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from json import JSONEncoder
from typing import Any, Final

FIRST_PREV: Final = "0" * 64
"""`prev` of the first record of a log."""

LOG_SUFFIX: Final = ".jsonl"
"""A log file is named `<log id>.jsonl`."""

# RFC 8785 sorts keys by UTF-16 code unit and writes numbers as ECMAScript does. With ASCII keys and integers up to
# 2^53 - 1 that is what the standard library writes with these settings, several times faster than a general encoder.
_ENCODER: Final = JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
)


def canonical_line(record: Mapping[str, Any]) -> bytes:
    """Return the RFC 8785 form of a record that holds ASCII keys, strings, integers up to 2^53 - 1, booleans and null."""
    return _ENCODER.encode(record).encode("utf-8")


def leaf_hash(line: bytes) -> str:
    """Return the lower-case hexadecimal leaf hash of a line without its newline."""
    return hashlib.sha256(b"\x00" + line).hexdigest()
