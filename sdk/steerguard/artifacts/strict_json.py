"""Strict reading of JSON documents inside artifacts: the bytes must equal their own canonical form.

One document has one form (RFC 8785), so a digest over the bytes is a digest over the meaning, and duplicate keys,
comments, trailing bytes and spare white space cannot hide anything.
Numbers are integers; any other number is written as a decimal string.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError

ModelT = TypeVar("ModelT", bound=BaseModel)


def parse_canonical(content: bytes, *, where: str, max_bytes: int) -> dict[str, Any]:
    """Return the JSON object that the bytes spell, if they spell it canonically.

    Args:
        content: the bytes of one document.
        where: file name for messages.
        max_bytes: larger documents are refused before they are parsed.

    Raises:
        ArtifactFormatError: too large, not JSON, not an object, with a non-integer number, or not canonical.
    """
    if len(content) > max_bytes:
        raise ArtifactFormatError(
            "The document is too large.", where=where, expected=f"at most {max_bytes} bytes", found=len(content)
        )
    try:
        data = json.loads(content.decode("utf-8"), parse_float=_refuse_number, parse_constant=_refuse_number)
        canonical = canonical_bytes(data)
    # RFC8785 errors, JSON errors, over-long integers and bad UTF-8 are all ValueErrors; deep nesting recurses.
    except (ValueError, RecursionError) as error:
        raise ArtifactFormatError(
            "The document is not canonical JSON (RFC 8785).",
            where=where,
            expected="UTF-8 JSON; numbers are integers up to 2^53, others are decimal strings",
            found=f"{type(error).__name__}: {str(error)[:120]}",
        ) from error
    if not isinstance(data, dict):
        raise ArtifactFormatError("The document is not a JSON object.", where=where, found=type(data).__name__)
    if canonical != content:
        raise ArtifactFormatError(
            "The document differs from its own canonical form.",
            where=where,
            expected="RFC 8785: sorted keys, each key once, no white space, shortest escapes",
            found=f"{len(content)} bytes that differ from the {len(canonical)} canonical ones",
            next_step="Write the document with steerguard.canonical.canonical_bytes.",
        )
    return data


def validated(model: type[ModelT], content: bytes, *, where: str, max_bytes: int) -> ModelT:
    """Parse canonical bytes and validate them against a pydantic model.

    Raises:
        ArtifactFormatError: not canonical, or the first field that breaks the model.
    """
    parse_canonical(content, where=where, max_bytes=max_bytes)
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        more = error.error_count() - 1
        raise ArtifactFormatError(
            f"The document breaks its schema{f' in {more + 1} places' if more else ''}.",
            where=f"{where}: {_dotted(first['loc'])}",
            expected=first["msg"],
            found=repr(first.get("input"))[:120],
        ) from error


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    # The names of unexpected keys are the writer's own and may be of any length.
    return text.removeprefix(".")[:200] or "(whole document)"


def _refuse_number(text: str) -> Any:
    msg = f"the number {text[:40]} is not an integer: write it as a decimal string"
    raise ValueError(msg)
