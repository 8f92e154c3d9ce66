"""The hash chain: pure functions from a record to its line, and from a line to its leaf hash.

A leaf is `SHA256(0x00 || line)` over the line without its newline, as in RFC 6962 section 2.1,
so that a Merkle tree can later be built over the same leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

import orjson

FIRST_PREV: Final = "0" * 64
"""`prev` of the first record of a log."""

# RFC 8785 sorts keys by UTF-16 code unit and writes numbers as ECMAScript does. With ASCII keys and integers up to
# 2^53 - 1 that is what orjson writes with sorted keys; what JSON itself does not have is passed on, and so refused.
_CANONICAL: Final = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)


def canonical_line(record: Mapping[str, Any], default: Callable[[Any], orjson.Fragment] | None = None) -> bytes:
    """Return the RFC 8785 form of a record that holds ASCII keys, strings, integers up to 2^53 - 1, booleans and null.

    Args:
        record: what to write; a float in it is not found.
        default: gives the canonical JSON of an object that JSON does not have.

    Raises:
        ValueError: the record holds something that JSON or 64 bits do not have, or is nested too deeply.
        Exception: whatever `default` raises.
    """
    try:
        return orjson.dumps(record, default=default or _refuse, option=_CANONICAL)
    except TypeError as error:
        if error.__cause__ is not None:
            raise error.__cause__ from None
        raise ValueError(f"this has no canonical form: {error}") from None


def _refuse(value: object) -> NoReturn:
    raise ValueError(f"this has no canonical form: a value of type {type(value).__name__}")


def leaf_hash(line: bytes) -> str:
    """Return the lower-case hexadecimal leaf hash of a line without its newline."""
    return hashlib.sha256(b"\x00" + line).hexdigest()
