"""The header of a safetensors file, checked against the manifest before any tensor is made.

Format: eight bytes little-endian length, that many bytes of JSON, then the data that the header's offsets cover without
gap or overlap (https://huggingface.co/docs/safetensors, section Format).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

from steerguard.artifacts.contents import Content
from steerguard.artifacts.manifest import TensorEntry
from steerguard.errors import ArtifactFormatError

MAX_HEADER_BYTES = 1024 * 1024
_LENGTH_BYTES = 8
_ITEM_BYTES: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2}
_METADATA: tuple[Mapping[str, str], ...] = ({}, {"format": "pt"})
"""Metadata is informative only, so nothing but the writer's own mark is accepted."""


def check_header(content: Content, expected: Mapping[str, TensorEntry], *, where: str) -> dict[str, tuple[int, int]]:
    """Refuse a safetensors file whose header differs from the manifest or from its own data.

    Return where in the file each tensor lies: first byte, and the byte behind the last, by name.

    Args:
        content: the whole file.
        expected: the tensors that the manifest lists for it.
        where: path of the file, for messages.

    Raises:
        ArtifactFormatError: truncated, header too large or malformed, tensors missing or unexpected, another dtype or
            shape, or offsets that do not cover the data exactly.
    """
    header, data_start = _read(content, where)
    data_bytes = len(content) - data_start
    metadata = header.pop("__metadata__", {})
    if metadata not in _METADATA:
        raise ArtifactFormatError("The file carries metadata.", where=f"{where}: __metadata__", expected="none")
    if set(header) != set(expected):
        raise ArtifactFormatError(
            "The tensors in the file are not those of the manifest.",
            where=where,
            expected=", ".join(sorted(expected)),
            found=", ".join(sorted(header))[:500],
        )
    spans = {name: _span(header[name], entry, where=f"{where}: {name}") for name, entry in expected.items()}
    position = 0
    for start, end in sorted(spans.values()):
        if start != position:
            raise ArtifactFormatError(
                "The tensors leave a gap or overlap.", where=where, expected=f"offset {position}", found=start
            )
        position = end
    if position != data_bytes:
        raise ArtifactFormatError(
            "The tensors do not cover the data exactly.", where=where, expected=f"{position} bytes", found=data_bytes
        )
    return {name: (data_start + start, data_start + end) for name, (start, end) in spans.items()}


def _read(content: Content, where: str) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if len(content) < _LENGTH_BYTES or length > len(content) - _LENGTH_BYTES or length > MAX_HEADER_BYTES:
        raise ArtifactFormatError(
            "The safetensors header is cut off or too large.",
            where=where,
            expected=f"a header of at most {MAX_HEADER_BYTES} bytes inside the file",
            found=f"{length} bytes in a file of {len(content)}",
        )
    try:
        header = json.loads(
            bytes(content[_LENGTH_BYTES : _LENGTH_BYTES + length]).decode("utf-8"), object_pairs_hook=_distinct_keys
        )
    except (ValueError, RecursionError) as error:
        raise ArtifactFormatError(
            "The safetensors header is not JSON.", where=where, found=f"{type(error).__name__}: {str(error)[:120]}"
        ) from error
    if not isinstance(header, dict):
        raise ArtifactFormatError("The safetensors header is not an object.", where=where, found=type(header).__name__)
    return header, _LENGTH_BYTES + length


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        msg = "a key occurs twice"
        raise ValueError(msg)
    return dict(pairs)


def _span(found: Any, entry: TensorEntry, *, where: str) -> tuple[int, int]:
    """Return the byte range of one tensor after comparing it with its manifest entry."""
    if not isinstance(found, dict) or set(found) != {"dtype", "shape", "data_offsets"}:
        raise ArtifactFormatError("The header entry is malformed.", where=where, expected="dtype, shape, data_offsets")
    if found["dtype"] != entry.dtype:
        raise ArtifactFormatError(
            "The tensor has another dtype.", where=where, expected=entry.dtype, found=repr(found["dtype"])[:80]
        )
    shape = found["shape"]
    # Exactly integers: JSON's 2.0 and true would be equal to 2 and 1.
    if not isinstance(shape, list) or {type(size) for size in shape} - {int} or shape != list(entry.shape):
        raise ArtifactFormatError(
            "The tensor has another shape.", where=where, expected=list(entry.shape), found=repr(shape)[:80]
        )
    offsets = found["data_offsets"]
    size = prod(entry.shape) * _ITEM_BYTES[entry.dtype]
    if (
        not isinstance(offsets, list)
        or [type(offset) for offset in offsets] != [int, int]
        or offsets[0] < 0
        or offsets[1] - offsets[0] != size
    ):
        raise ArtifactFormatError(
            "The offsets do not fit the shape.", where=where, expected=f"{size} bytes", found=str(offsets)[:80]
        )
    return offsets[0], offsets[1]
