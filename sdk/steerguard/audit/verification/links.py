"""What others know of a log: checkpoints kept elsewhere, and what the log.open record of a later log says of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from steerguard.audit.evidence.checkpoint import SignedHead
from steerguard.audit.evidence.note import Note


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideHead:
    """How many records a log had, and their tree hash, by another word than its own.

    Records under a checkpoint kept elsewhere count as anchored. What a later log says can only contradict: its process took
    over what it found, and somebody may have written that after the log's own process had died.
    """

    size: int
    root: bytes
    by: str | None = None
    """The log that says so; None for a checkpoint kept elsewhere."""
    note: Note | None = None
    """The checkpoint kept elsewhere."""

    @property
    def words(self) -> str:
        """What it is, for a message."""
        return f"over {self.size} records" + ("" if self.by is None else f", as log.open of {self.by} says")


@dataclass(slots=True)
class Links:
    """What the logs of a directory say of one another; one for each log at most, whatever order they were verified in."""

    _by_log: dict[str, list[OutsideHead]] = field(default_factory=dict)

    def add(self, stated: Iterable[tuple[str, OutsideHead]]) -> bool:
        """Take what a log that verified says of others, and return whether any of it was new."""
        new = False
        for log, head in stated:
            known = self._by_log.setdefault(log, [])
            if head not in known:
                known.append(head)
                new = True
        return new

    def of(self, log: str) -> tuple[OutsideHead, ...]:
        """Return what is said of one log."""
        return tuple(self._by_log.get(log, ()))


def outside_heads(kept: Iterable[SignedHead], links: Sequence[OutsideHead] = ()) -> list[OutsideHead]:
    """Return everything that others know of a log, in rising order of size.

    Args:
        kept: its checkpoints that were kept elsewhere.
        links: what other logs say of it.
    """
    heads = [OutsideHead(size=head.head.size, root=head.head.root, note=head.note) for head in kept]
    return sorted([*heads, *links], key=lambda head: head.size)
