"""How an audit log is kept: how durable its records are, how large its segments get, how often it is signed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, get_args

from steerguard.audit.copies import CheckpointCopy
from steerguard.audit.evidence.checkpoint import DEFAULT_KEY_NAME
from steerguard.audit.records.fields import DurabilityMode
from steerguard.errors import AuditError
from steerguard.signing.keys import Signer

DURABILITY_MODES: Final[tuple[str, ...]] = get_args(DurabilityMode)
MAX_SECONDS: Final = 10 * 365 * 86_400.0
"""The longest time that a setting may state, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """When a record is on the medium, so that a power cut cannot lose it.

    Refusals, bypasses, errors and the log's own records are on the medium before `AuditLog.record` returns, whatever
    this says. With every mode each record is with the operating system before `record` returns.

    Raises:
        AuditError: an unknown mode, a time that is not above 0, or fewer than 1 record.
    """

    mode: DurabilityMode = "interval"
    """`never`: when the operating system likes. `interval`: at most `seconds` after the first record that is not yet.
    `batch`: with every `records` records. `always`: before `record` returns."""
    seconds: float = 1.0
    """For `interval`."""
    records: int = 100
    """For `batch`."""

    def __post_init__(self) -> None:
        if self.mode not in DURABILITY_MODES:
            raise _nonsense("durability.mode", f"one of {', '.join(DURABILITY_MODES)}", type(self.mode).__name__)
        _require_seconds("durability.seconds", self.seconds)
        _require_count("durability.records", self.records)

    @property
    def unsynced_us(self) -> int | None:
        """For how long a record may stay unsynced, in microseconds; None where no time is promised."""
        return round(self.seconds * 1e6) if self.mode == "interval" else None

    @property
    def unsynced_records(self) -> int | None:
        """How many records may be unsynced; None where no number is promised."""
        return self.records if self.mode == "batch" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """When a log goes on in a new segment.

    Raises:
        AuditError: a size below 1 byte, or a time that is not above 0.
    """

    max_bytes: int = 64 * 2**20
    """A segment of this many bytes or more gets no further record."""
    max_age_seconds: float = 86_400.0
    """Nor does one that was begun so long ago."""

    def __post_init__(self) -> None:
        _require_count("rotation.max_bytes", self.max_bytes)
        _require_seconds("rotation.max_age_seconds", self.max_age_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    """Who signs the log, how often, and where the signed checkpoints go besides the log's directory.

    Raises:
        AuditError: fewer than 1 record, or a time that is not above 0.
    """

    signer: Signer | None = None
    """By default the key in the environment variable `STEERGUARD_CHECKPOINT_KEY`, else that in the file `checkpoint.key`
    of the log's directory, which is made on first use. A log with a sink of the caller's has no default."""
    name: str = DEFAULT_KEY_NAME
    """The name that the key signs under: printable ASCII without space and plus."""
    every_records: int = 1000
    every_seconds: float = 60.0
    """After the first record that no checkpoint covers, also when no further one comes."""
    copies: tuple[CheckpointCopy, ...] = ()

    def __post_init__(self) -> None:
        _require_count("checkpoints.every_records", self.every_records)
        _require_seconds("checkpoints.every_seconds", self.every_seconds)


def _require_seconds(where: str, value: object) -> None:
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not 0 < number <= MAX_SECONDS:
        raise _nonsense(where, f"seconds above 0, at most {MAX_SECONDS:.0f}", value)


def _require_count(where: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _nonsense(where, "an integer of 1 or more", value)


def _nonsense(where: str, expected: str, found: object) -> AuditError:
    return AuditError(
        "A setting of the audit log makes no sense.",
        where=where,
        expected=expected,
        found=found,
        next_step="Correct the setting, or leave it out to get the default.",
    )
