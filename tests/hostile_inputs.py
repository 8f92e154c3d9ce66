"""Inputs for parsers that somebody hostile might write: valid documents with structured damage, and plain rubbish.

Everything is drawn from one `random.Random`, so a seed names an input for good.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from steerguard.canonical import canonical_bytes

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53 - 1,
    2**53,
    2**63,
    -(10**30),
    1.5,
    -0.0,
    "",
    " ",
    "\0",
    "x" * 5000,
    "../../etc/passwd",
    "/absolute",
    "\ud800",
    "ü\u202e",
    "1.2.0\n",
    "٣",
    "9" * 400,
    "1e999",
    "NaN",
    "sha256:" + "A" * 64,
    "hf://../x",
    [],
    {},
    [[]],
    {"": None},
    ["x"] * 100,
)
TOKENS = (
    b"NaN",
    b"Infinity",
    b"-0",
    b"1e400",
    b"1.0",
    b"9" * 5000,
    b"01",
    b"1E2",
    b"\xef\xbb\xbf",
    b'"\\u0041"',
    b"//",
)
MAX_DEPTH = 3000


def hostile(draw: random.Random, valid: bytes, write: Callable[[random.Random, Any], bytes]) -> bytes:
    """Return one input.

    Args:
        draw: where every choice comes from.
        valid: a valid document in JSON.
        write: turns edited data into bytes, as the format wants them or nearly so.
    """
    kind = draw.random()
    if kind < 0.6:
        data = json.loads(valid)
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            data = edited(draw, data)
        return write(draw, data)
    if kind < 0.8:
        return damaged(draw, valid)
    if kind < 0.9:
        return other_form(draw, valid)
    return rubbish(draw)


def edited(draw: random.Random, data: Any) -> Any:
    """Change JSON data in one place: a value, a key, an entry, or a text replaced, added, removed or moved."""
    places = [((), data)]
    for path, value in places:
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        places.extend(((*path, key), child) for key, child in inner)
    path, value = draw.choice(places)
    if not path:
        return draw.choice((data, drawn(draw), [data], {"a": data})) if draw.random() < 0.1 else data
    parent = data
    for key in path[:-1]:
        parent = parent[key]
    _change(draw, parent, path[-1], value, [child for _, child in places])
    return data


def _change(draw: random.Random, parent: Any, key: Any, value: Any, others: list[Any]) -> None:
    choice = draw.randrange(7)
    if choice == 0:
        del parent[key]
    elif choice == 1:
        parent[key] = copied(draw.choice(others))
    elif choice == 2 and isinstance(parent, list):
        parent.insert(draw.randrange(len(parent) + 1), copied(draw.choice((value, drawn(draw)))))
    elif choice == 2:
        parent[draw.choice(("extra", "", key + "x", key.upper(), "__proto__"))] = drawn(draw)
    elif choice == 3 and isinstance(parent, list):
        draw.shuffle(parent)
    elif choice == 4 and isinstance(value, str) and value:
        at = draw.randrange(len(value))
        parent[key] = (
            value[:at] + draw.choice(("", "x", "0", "9", "-", "\n", "é", value[at].swapcase())) + value[at + 1 :]
        )
    elif choice == 4 and isinstance(value, int):
        parent[key] = value + draw.choice((-1, 1, 2**32, 2**53))
    elif choice == 5:
        nested: Any = value
        for _ in range(draw.choice((1, 5, 150, 250))):
            nested = draw.choice(([nested], {"a": nested}))
        parent[key] = nested
    else:
        parent[key] = drawn(draw)


def drawn(draw: random.Random) -> Any:
    """Return a fresh copy of one of `VALUES`."""
    return copied(draw.choice(VALUES))


def copied(data: Any) -> Any:
    """Return a copy of JSON data that may be deeper than `copy.deepcopy` can go."""
    return json.loads(json.dumps(data))


def damaged(draw: random.Random, content: bytes) -> bytes:
    """Return the bytes with a few of them flipped, cut, doubled or filled in."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(data) + 1)
        end = min(len(data), at + draw.choice((1, 1, 4, 60)))
        choice = draw.randrange(5)
        if choice == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif choice == 1:
            del data[at:end]
        elif choice == 2:
            data[at:at] = data[at:end]
        elif choice == 3:
            data[at:at] = draw.choice((*TOKENS, draw.randbytes(4)))
        else:
            del data[at:]
    return bytes(data)


def other_form(draw: random.Random, valid: bytes) -> bytes:
    """Return the same data, or nearly, in a form that is not the one form."""
    data = json.loads(valid)
    key = draw.choice(sorted(data))
    return draw.choice(
        (
            lambda: json.dumps(data, indent=draw.choice((None, 1, 2, 4)), sort_keys=draw.random() < 0.5).encode(),
            lambda: valid + draw.choice((b" ", b"\n", b"\0", b"{}", valid)),
            lambda: draw.choice((b" ", b"\n", b"\xef\xbb\xbf")) + valid,
            lambda: b"{" + json.dumps(key).encode() + b":null," + valid.lstrip()[1:],
            lambda: valid.decode().encode(draw.choice(("utf-16", "utf-32", "utf-16-le"))),
            lambda: valid.replace(b'":', b'" :', 1),
            lambda: valid.replace(b"s", b"\\u0073", 1),
        )
    )()


def rubbish(draw: random.Random) -> bytes:
    """Return bytes that have nothing to do with any document."""
    depth = draw.choice((10, 200, 1000, MAX_DEPTH))
    return draw.choice(
        (
            lambda: draw.randbytes(draw.choice((0, 1, 7, 8, 9, 64, 2000))),
            lambda: b"[" * depth,
            lambda: b'{"a":' * depth,
            lambda: b"[" * depth + b"]" * depth,
            lambda: b'{"a":' * depth + b"1" + b"}" * depth,
            lambda: draw.choice(TOKENS),
            lambda: b'{"a":' + draw.choice(TOKENS) + b"}",
            lambda: json.dumps(drawn(draw)).encode(),
        )
    )()


def canonical_or_nearly(draw: random.Random, data: Any) -> bytes:
    """Return the canonical form of data, or the nearest form where there is none or the draw says so."""
    if draw.random() < 0.9:
        try:
            return canonical_bytes(data)
        except (ValueError, RecursionError):
            pass
    return compact(data)


def compact(data: Any) -> bytes:
    """Return data as JSON without white space, sorted, whatever it holds."""
    try:
        return json.dumps(data, sort_keys=True, separators=(",", ":")).encode("ascii")
    except RecursionError:
        return b"[" * MAX_DEPTH
