"""What a record may hold of prompts and answers: nothing, tags under one key, or where the sealed text lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steerguard.audit.records.fields import ContentMode
from steerguard.errors import AuditError


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRule:
    """The content mode of a log, with the key that is in force now; another key is another rule."""

    mode: ContentMode
    key_id: str | None = None
    """With `hmac`, id of the only key whose tags may be recorded.
    With `encrypted`, id of the key that slots are wrapped with; None admits any."""

    def __post_init__(self) -> None:
        if (self.mode == "hmac" and self.key_id is None) or (self.mode == "none" and self.key_id is not None):
            raise AuditError(
                "The content rule of a log does not fit its content mode.",
                expected="a key id with 'hmac', none with 'none'",
                found=f"mode {self.mode!r} {'without' if self.key_id is None else 'with'} a key id",
            )

    def check(self, content: dict[str, Any], log: str) -> None:
        """Refuse content that a log of this mode and key must not hold.

        Args:
            content: the field `content` of a record that fits its model.
            log: id of the log that the record is for.

        Raises:
            AuditError: there is a tag or sealed content in the wrong mode, under another key or of another log.
        """
        for name in ("in", "out"):
            tag = content[name]
            if tag is not None and (self.mode != "hmac" or not tag.startswith(f"hmac:{self.key_id}:")):
                raise _refused(
                    name,
                    f"null or hmac:{self.key_id}:…" if self.mode == "hmac" else f"null, as the mode is {self.mode!r}",
                )
        sealed = content.get("sealed")
        if sealed is None:
            return
        if self.mode != "encrypted":
            raise _refused("sealed", f"null, as the mode is {self.mode!r}")
        if self.key_id not in {None, sealed["key"]}:
            raise _refused("sealed.key", str(self.key_id))
        if not sealed["file"].startswith(f"{log}."):
            raise _refused("sealed.file", f"a file of the log {log}")


def _refused(name: str, expected: str) -> AuditError:
    return AuditError(
        "The event holds content that this log must not hold.",
        where=f"content.{name}",
        expected=expected,
        next_step="Make the content with the log's own key and mode: content.row_content does.",
    )
