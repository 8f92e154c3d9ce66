"""Random texts that are put where private content goes, and a search for them in every form that they could leave in."""

from __future__ import annotations

import base64
import html
import json
import secrets
import string
import urllib.parse
from collections.abc import Iterable

LENGTH = 16


def canary():
    """Sixteen letters and digits, 95 bits: nothing holds them by chance."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(LENGTH))


def forms(text, token_ids=()):
    """Return the bytes that a text could be found as: plain, encoded, escaped, and as token ids."""
    plain = [text, text.lower(), text.upper(), text[::-1]]
    encoded = [one.encode(name) for one in plain for name in ("ascii", "utf-16-le", "utf-16-be", "utf-32-le")]
    escaped = [
        "".join(f"\\u{ord(character):04x}" for character in text),
        "".join(f"\\x{ord(character):02x}" for character in text),
        "".join(f"%{ord(character):02X}" for character in text),
        "".join(f"&#{ord(character)};" for character in text),
        ",".join(str(ord(character)) for character in text),
        ", ".join(str(ord(character)) for character in text),
        json.dumps(text),
        html.escape(text),
        urllib.parse.quote(text),
    ]
    whole = [text.encode("ascii"), text.encode("utf-16-le"), text.encode("utf-16-be")]
    hexadecimal = [one.hex() for one in whole] + [one.hex().upper() for one in whole] + [whole[0].hex(" ")]
    tokens = [separator.join(map(str, token_ids)) for separator in (",", ", ", " ")] if token_ids else []
    written = [one.encode("ascii") for one in (*escaped, *hexadecimal, *tokens)]
    return {*encoded, *written, *(piece for one in whole for piece in _base64(one))}


def _base64(content: bytes) -> Iterable[bytes]:
    """Yield the digits of base64 that the content alone decides, for each way to begin within three bytes."""
    for before in range(3):
        first, last = -(-8 * before // 6), 8 * (before + len(content)) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(b"\0" * before + content)[first:last]


def places_in(content, canaries, token_ids=None):
    """Return the places whose canaries are in the bytes, sorted.

    Args:
        content: what is searched.
        canaries: by place.
        token_ids: returns the token ids of a text; None to leave them out.
    """
    return sorted(
        place
        for place, text in canaries.items()
        if any(form in content for form in forms(text, () if token_ids is None else token_ids(text)))
    )
