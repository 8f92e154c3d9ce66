"""Plain scalars of the YAML 1.2 core schema: null, booleans and numbers; everything else is text.

Reference: YAML 1.2.2, section 10.3.2 (core schema, tag resolution).
Unlike the core schema, infinities and NaN are refused: no field of a policy can hold them.
"""

from __future__ import annotations

import math
import re

_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

# Converting a very long run of digits takes quadratic time.
MAX_NUMBER_LENGTH = 64

Scalar = str | int | float | bool | None


class ScalarRefusedError(Exception):
    """Raised within the loader when a plain scalar is a number that no policy can hold."""


def plain_scalar(text: str) -> Scalar:
    """Return the value of an unquoted scalar.

    Raises:
        ScalarRefusedError: the text is a number that is infinite, not a number, or too long.
    """
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _NOT_FINITE.fullmatch(text):
        message = "infinite and undefined numbers are not allowed"
        raise ScalarRefusedError(message)
    return _number(text)


def _number(text: str) -> str | int | float:
    for pattern, base, prefix in ((_DECIMAL, 10, 0), (_OCTAL, 8, 2), (_HEXADECIMAL, 16, 2)):
        if pattern.fullmatch(text):
            return int(_short(text)[prefix:], base)
    if _FLOAT.fullmatch(text):
        value = float(_short(text))
        if math.isinf(value):
            message = "the number is too large"
            raise ScalarRefusedError(message)
        return value
    return text


def _short(text: str) -> str:
    if len(text) > MAX_NUMBER_LENGTH:
        message = f"a number has at most {MAX_NUMBER_LENGTH} characters"
        raise ScalarRefusedError(message)
    return text
