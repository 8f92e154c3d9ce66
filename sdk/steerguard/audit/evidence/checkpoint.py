"""Checkpoints as C2SP defines them (c2sp.org/tlog-checkpoint): which log, how many records, and their tree hash, signed.

The text of the note is three lines: the origin, the size in decimal digits, the tree hash in base64.
A file of checkpoints holds notes one after the other, each followed by an empty line.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from steerguard.audit.evidence.note import Note, parse_note, sign_note
from steerguard.errors import AuditVerificationError
from steerguard.signing.keys import Signer

ORIGIN_PREFIX: Final = "steerguard-audit/"
"""The origin of a log's checkpoints is this and the log id."""
DEFAULT_KEY_NAME: Final = "steerguard-audit"
_ORIGIN: Final = re.compile(rb"^steerguard-audit/", re.MULTILINE)
_TEXT: Final = re.compile(
    r"steerguard-audit/([0-9]{8}T[0-9]{6}Z-[0-9a-f]{16})\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/]{43}=)\n"
)


@dataclass(frozen=True, slots=True)
class TreeHead:
    """What a checkpoint says."""

    log: str
    size: int
    root: bytes
    """32 bytes."""

    @property
    def text(self) -> str:
        """The text that is signed."""
        return f"{ORIGIN_PREFIX}{self.log}\n{self.size}\n{base64.b64encode(self.root).decode('ascii')}\n"


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A checkpoint, read but not verified."""

    head: TreeHead
    note: Note


def sign_head(head: TreeHead, signers: Sequence[tuple[str, Signer]]) -> SignedHead:
    """Sign a checkpoint.

    Raises:
        SigningKeyError: a signature could not be made.
    """
    return SignedHead(head, sign_note(head.text, signers))


def parse_head(content: bytes) -> SignedHead:
    """Read one checkpoint.

    Raises:
        AuditVerificationError: not a signed note, or its text is not that of a checkpoint of such a log.
    """
    note = parse_note(content)
    match = _TEXT.fullmatch(note.text)
    root = b"" if match is None else base64.b64decode(match[3])
    if match is None or base64.b64encode(root).decode("ascii") != match[3]:
        raise AuditVerificationError(
            "This is not a checkpoint of an audit log.",
            expected=f"three lines: {ORIGIN_PREFIX}<log id>, a size, a tree hash in base64",
            next_step="Give a checkpoint as the log wrote it.",
        )
    return SignedHead(TreeHead(match[1], int(match[2]), root), note)


def stored(head: SignedHead) -> bytes:
    """Return what is appended to a file of checkpoints."""
    return head.note.content + b"\n"


def last_note(tail: bytes) -> SignedHead | None:
    """Return the last whole note of a file of checkpoints, read but not verified; None when there is none that can be read.

    Args:
        tail: the end of the file, long enough for two notes.
    """
    starts = [match.start() for match in _ORIGIN.finditer(tail)]
    for start in reversed(starts[-2:]):
        note = next(split_notes(tail[start:]))
        if tail[start + len(note) : start + len(note) + 1] == b"\n":
            try:
                return parse_head(note)
            except AuditVerificationError:
                return None
    return None


def split_notes(content: bytes) -> Iterator[bytes]:
    """Yield each note of a file of checkpoints, without the empty line behind it; what is left at the end comes last.

    The last item is an incomplete note if `content` does not end with an empty line.
    """
    start = 0
    while start < len(content):
        body = content.find(b"\n\n", start)
        end = -1 if body < 0 else content.find(b"\n\n", body + 2)
        if end < 0:
            yield content[start:]
            return
        yield content[start : end + 1]
        start = end + 2
