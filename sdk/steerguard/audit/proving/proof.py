r"""Proofs of inclusion: what they hold, and the document that carries them.

The document is JSON::

    {
      "format": "steerguard audit proof, version 1",
      "proofs": [
        {
          "seq": 17,                     position of the record in its log, from 0
          "record": "{...}",             the record's line as it lies in the log, without its newline
          "checkpoint": "steerguard-audit/<log id>\n<size>\n<tree hash>\n\n— <key name> <signature>\n",
          "path": ["<base64>", ...],     audit path from the leaf upwards (RFC 6962, section 2.1.1)
          "key": "<verifier key>"        the key that signed the checkpoint; whoever checks must know it from elsewhere
        }
      ]
    }

What a proof shows: the record is, byte for byte, number `seq` of the log, in the tree that the key's owner signed.
What it does not show: that a request has no other records, or that the log was complete when it was signed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Final

PROOF_FORMAT: Final = "steerguard audit proof, version 1"
SCRIPT_NAME: Final = "verify_proof.py"


@dataclass(frozen=True, slots=True)
class Proof:
    """One record with all that is needed to check it, but for trust in the key."""

    seq: int
    record: str
    """The line without its newline."""
    checkpoint: str
    """The signed note."""
    path: tuple[str, ...]
    """Base64 of 32 bytes each, from the leaf upwards."""
    key: str
    """Verifier key."""

    @classmethod
    def of(cls, seq: int, line: bytes, checkpoint: bytes, path: Sequence[bytes], key: str) -> Proof:
        """Make a proof of raw bytes."""
        encoded = tuple(base64.b64encode(one).decode("ascii") for one in path)
        return cls(seq, line.decode("utf-8"), checkpoint.decode("utf-8"), encoded, key)


def proof_document(proofs: Sequence[Proof]) -> str:
    """Return the JSON document of proofs, with a newline at its end."""
    document = {"format": PROOF_FORMAT, "proofs": [asdict(proof) for proof in proofs]}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def script_content() -> bytes:
    """Return the script that checks such a document with Python alone."""
    return (files("steerguard.audit.proving.standalone") / SCRIPT_NAME).read_bytes()
