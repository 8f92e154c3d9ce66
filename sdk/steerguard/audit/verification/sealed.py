"""Whether the encrypted content of a row is what its record says; no key is needed for that."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from steerguard.audit.evidence.layout import sealed_name
from steerguard.audit.privacy.sealed_slots import SLOT_BYTES, Slot, keys_file_of
from steerguard.audit.verification.files import BLOCK_BYTES, open_regular
from steerguard.errors import AuditVerificationError

ERASED: Final = "erased"


def sealed_fault(directory: Path, record: dict[str, Any], *, first_segment: int = 0) -> str | None:
    """Return what is wrong with the encrypted content of a decision; None when nothing is, or it was erased or pruned.

    A row is sealed before its record is written: where another thread's record begins a segment in between, the content
    lies with the segment before and is pruned with it.

    Args:
        directory: where the files of the log are.
        record: a record of type guard.decision that fits its schema.
        first_segment: number of the log's first segment that was not pruned.
    """
    sealed = record["content"]["sealed"]
    # Names of one log sort by segment.
    if sealed is None or sealed_name(record["log"], 0) <= sealed["file"] < sealed_name(record["log"], first_segment):
        return None
    try:
        slot = _slot(directory / keys_file_of(sealed["file"]), sealed["slot"])
        if slot is None or (slot.req, slot.row, slot.length) != (record["req"], record["row"], sealed["bytes"]):
            return f"slot {sealed['slot']} of {keys_file_of(sealed['file'])}"
        if not slot.wrapped:
            return None
        digest = _digest(directory / sealed["file"], slot.offset, slot.length)
    except AuditVerificationError as error:
        return f"{error.where}: {error.found}"
    return None if f"sha256:{digest}" == sealed["digest"] else f"row {sealed['slot']} of {sealed['file']}"


def _slot(path: Path, number: int) -> Slot | None:
    with open_regular(path) as file:
        file.seek(number * SLOT_BYTES)
        content = file.read(SLOT_BYTES)
    return Slot.parse(content) if len(content) == SLOT_BYTES else None


def _digest(path: Path, offset: int, length: int) -> str:
    digest = sha256()
    with open_regular(path) as file:
        # What a slot claims is not believed: reading ends with the file.
        size = file.seek(0, 2)
        left = min(length, max(0, size - offset))
        file.seek(min(offset, size))
        while left and (block := file.read(min(left, BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
