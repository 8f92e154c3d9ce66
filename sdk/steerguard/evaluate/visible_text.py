"""Makes characters visible that change how other text is shown without being seen themselves."""

from __future__ import annotations

import re

# Controls (not tab and line feed), bidi marks and overrides, zero-width space, lone surrogates, tags. The zero-width
# joiners stay: scripts and emoji need them. The report's script has the same list.
_UNSEEN = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Return the text with unseen control characters written as `[U+202E]`, so that none acts on the reader."""
    return _UNSEEN.sub(lambda found: f"[U+{ord(found.group()):04X}]", text)
