"""What stands in a directory of audit logs, read without the package's reader, and whether it verifies."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from steerguard.audit.evidence.checkpoint import parse_head, split_notes
from steerguard.audit.evidence.layout import checkpoints_name
from steerguard.audit.verification.report import DirectoryReport
from steerguard.audit.verify import verify_directory


def records_in(folder: Path, log: str) -> dict[str, dict[str, Any]]:
    """Return the records of a log by their leaf hashes, in order, segment by segment."""
    return {
        hashlib.sha256(b"\x00" + line).hexdigest(): json.loads(line)
        for path in sorted(folder.glob(f"{log}.*.jsonl"))
        for line in path.read_bytes().splitlines()
    }


def types_in(folder: Path, log: str) -> list[str]:
    """Return the types of the records of a log, in order."""
    return [record["type"] for record in records_in(folder, log).values()]


def sizes(folder: Path, log: str) -> list[int]:
    """Return how many records each checkpoint of a log covers, in order."""
    return [parse_head(note).head.size for note in split_notes((folder / checkpoints_name(log)).read_bytes())]


def sound(folder: Path) -> DirectoryReport:
    """Verify all logs strictly, which must succeed."""
    report = verify_directory(folder, strict=True)
    assert report.status == "ok", report
    return report
