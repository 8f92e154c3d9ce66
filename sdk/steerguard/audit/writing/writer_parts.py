"""What a writer of a log is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steerguard.audit.privacy.content_rule import ContentRule
from steerguard.audit.settings import CheckpointSettings, Durability, Rotation
from steerguard.audit.sinks import AuditSink
from steerguard.audit.writing.anchor import Anchor

if TYPE_CHECKING:
    from steerguard.audit.privacy.sealed_store import SealedStore


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterParts:
    """The parts of one writer."""

    log_id: str
    sink: AuditSink
    """Where the lines go; the writer closes it. `Segments` can rotate."""
    anchor: Anchor | None = None
    """Makes the checkpoints; None for a log without."""
    sealed: SealedStore | None = None
    content: ContentRule
    """What may be recorded of prompts and answers."""
    durability: Durability = field(default_factory=Durability)
    rotation: Rotation = field(default_factory=Rotation)
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
