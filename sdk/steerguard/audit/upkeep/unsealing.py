"""Reading encrypted content back: the rows of one request, as their records name them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from steerguard.audit.privacy.sealed_slots import open_slot
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.audit.records.fields import SealedContent
from steerguard.audit.verify import verify_directory
from steerguard.errors import AuditContentError, AuditVerificationError, ContentAlteredError


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsealedRow:
    """The content of one record, or why it cannot be read."""

    log: str
    seq: int
    t: str
    req: str
    row: int
    content: dict[str, Any] | None
    """`prompt`, `answer`, `prompt_tokens`, `answer_tokens`, each null where it was not kept."""
    error: str | None
    """Class name of the error."""


def unsealed_rows(directory: Path, request: str, key: SealingKey) -> tuple[UnsealedRow, ...]:
    """Decrypt the content of a request; only what verified records name is opened.

    Args:
        directory: of the logs.
        request: id of the request, `req` of its records.
        key: the sealing key that was in use.

    Raises:
        AuditVerificationError: the directory cannot be read, or a log of it does not verify.
        AuditKeyError: the key service failed.
    """
    records: list[dict[str, Any]] = []

    def take(record: dict[str, Any]) -> None:
        if record["type"] == "guard.decision" and record.get("req") == request:
            records.append(record)

    report = verify_directory(directory, on_record=take)
    broken = [log.log for log in report.logs if log.status == "broken"]
    if broken:
        raise AuditVerificationError(
            "Encrypted content is read only from logs that verify.",
            where=directory,
            found=f"broken: {', '.join(broken)}",
            next_step="Run `steerguard audit verify` to see what is wrong.",
        )
    return tuple(_row(directory, record, key) for record in records if record["content"].get("sealed") is not None)


def _row(directory: Path, record: dict[str, Any], key: SealingKey) -> UnsealedRow:
    content: dict[str, Any] | None = None
    error: str | None = None
    try:
        content = _content(directory, record, key)
    except AuditContentError as failure:
        error = failure.code
    return UnsealedRow(
        log=record["log"],
        seq=record["seq"],
        t=record["t"],
        req=record["req"],
        row=record["row"],
        content=content,
        error=error,
    )


def _content(directory: Path, record: dict[str, Any], key: SealingKey) -> dict[str, Any]:
    try:
        sealed = SealedContent.model_validate(record["content"]["sealed"])
    except ValidationError:
        raise ContentAlteredError("The record does not say where its content is.") from None
    payload = open_slot(directory, sealed, key, log=record["log"], req=record["req"], row=record["row"])
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError):
        # What it raises holds the content.
        content = None
    if not isinstance(content, dict):
        raise ContentAlteredError("The content is no JSON object, so `row_content` did not write it.")
    return content
