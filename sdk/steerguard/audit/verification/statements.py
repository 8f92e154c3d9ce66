"""What the records of a log say about the log itself: its keys, its segments, its end, other logs, what was pruned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.evidence.tree import Frontier
from steerguard.audit.verification.keys import KeyFaultError, KeysInForce
from steerguard.audit.verification.links import OutsideHead
from steerguard.audit.verification.report import Fault, PrunedRange
from steerguard.audit.verification.strict import schema_fault
from steerguard.audit.verification.tombstones import Tombstone
from steerguard.errors import AuditKeyError


@dataclass(frozen=True, slots=True)
class StatementFault:
    """Why a statement does not hold."""

    fault: Fault
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SegmentRead:
    """What was read of the segment before the current one."""

    name: str
    bytes: int
    digest: str | None
    """SHA-256, hexadecimal; None when it was not computed."""


@dataclass(frozen=True, slots=True)
class TornFile:
    """What a log.recovered record says of the bytes that were set aside."""

    seq: int
    name: str
    digest: str


@dataclass(slots=True)
class Statements:
    """Collects and checks them as the records come."""

    keys: KeysInForce
    strict: bool = False
    closed: bool = False
    recovered: bool = False
    loss: str | None = None
    named: dict[str, str] = field(default_factory=dict)
    """Other logs that are named, and by what."""
    prunes: list[tuple[int, Tombstone]] = field(default_factory=list)
    torn: list[TornFile] = field(default_factory=list)
    links: list[tuple[str, OutsideHead]] = field(default_factory=list)
    """What is said of the records of another log."""
    previous: SegmentRead | None = None
    _durability: tuple[str, int | None, int | None] | None = None

    def take(
        self, kind: str, record: dict[str, Any], line: bytes, *, segment: int, root: Frontier | None
    ) -> StatementFault | None:
        """Take over what one record states; returns what is wrong with it.

        Args:
            kind: its type.
            record: the parsed line.
            line: the line.
            segment: number of the segment that it stands in.
            root: the tree over the records before it, when its tree hash is to be compared.
        """
        if schema_fault(kind, line) is not None or (kind == "log.open" and _half_stated(record)):
            return StatementFault("schema")
        try:
            if kind == "log.open":
                self._open(record)
            elif kind == "log.key_rotate":
                self._rotate_key(record)
        except AuditKeyError:
            return StatementFault("schema", "checkpoint_key")
        except KeyFaultError as error:
            return StatementFault(error.fault, error.detail)
        if kind == "log.recovered":
            self._recover(record)
        elif kind == "log.prune":
            self._prune(record)
        elif kind == "log.close":
            self.closed = True
        elif kind in {"log.rotate", "checkpoint"}:
            return self._check_tree(kind, record, segment, root)
        return None

    def _open(self, record: dict[str, Any]) -> None:
        log = record["log"]
        self._durability = (record["durability"], record["unsynced_us"], record["unsynced_records"])
        self._name(record["forked_from"], f"forked_from in log.open of {log}")
        self._name(record["previous"], f"previous in log.open of {log}")
        if record["previous_size"] is not None:
            head = OutsideHead(size=record["previous_size"], root=bytes.fromhex(record["previous_root"]), by=log)
            self.links.append((record["previous"], head))
        key = record["checkpoint_key"]
        self.keys.open(None if key is None else NoteKey.parse(key))

    def _rotate_key(self, record: dict[str, Any]) -> None:
        if record["purpose"] == "checkpoint":
            if record["checkpoint_key"] is None:
                raise AuditKeyError("A change of the checkpoint key names no key.")
            self.keys.rotate(NoteKey.parse(record["checkpoint_key"]))

    def _recover(self, record: dict[str, Any]) -> None:
        self.recovered = True
        seq = record["seq"]
        self._name(record["by"], f"by in log.recovered of {record['log']}")
        self.loss = (
            f"{_lost(self._durability)} may be missing before record {seq}, if power was cut"
            if _lost(self._durability)
            else None
        )
        if record["torn_file"] is not None:
            self.torn.append(TornFile(seq, record["torn_file"], record["torn_digest"].removeprefix("sha256:")))

    def _prune(self, record: dict[str, Any]) -> None:
        pruned = PrunedRange(
            log=record["pruned"],
            segments=(record["segments"][0], record["segments"][1]),
            records=(record["records"][0], record["records"][1]),
            bytes=record["bytes"],
            first_t=record["first_t"],
            last_t=record["last_t"],
            whole=record["whole"],
            by_log=record["log"],
            by_seq=record["seq"],
            anchored=False,
        )
        self.prunes.append((record["seq"], Tombstone(pruned=pruned, root=bytes.fromhex(record["root"]))))

    def _check_tree(
        self, kind: str, record: dict[str, Any], segment: int, tree: Frontier | None
    ) -> StatementFault | None:
        if record["size"] != record["seq"]:
            return StatementFault("statement", f"size is {record['size']}")
        if tree is not None and record["root"] != tree.root().hex():
            return StatementFault("statement", "root is not the tree hash of the records before it")
        if kind == "checkpoint":
            return None
        if record["segment"] != segment:
            return StatementFault("statement", f"segment is {record['segment']} in segment {segment}")
        if tree is not None and record["peaks"] != [peak.hex() for peak in tree.peaks]:
            return StatementFault("statement", "peaks are not those of the records before it")
        return self._check_previous(record)

    def _check_previous(self, record: dict[str, Any]) -> StatementFault | None:
        read = self.previous
        if not self.strict or read is None:
            return None
        stated = (record["previous"], record["previous_bytes"], record["previous_digest"])
        if stated != (read.name, read.bytes, f"sha256:{read.digest}"):
            return StatementFault("statement", "previous, previous_bytes or previous_digest is not that of the file")
        return None

    def _name(self, log: str | None, by: str) -> None:
        if log is not None:
            self.named.setdefault(log, by)


def _half_stated(record: dict[str, Any]) -> bool:
    """Whether log.open says less of the log before than its size and root together, or says it of no log."""
    size, root = record["previous_size"], record["previous_root"]
    return (size is None) != (root is None) or (size is not None and record["previous"] is None)


def _lost(durability: tuple[str, int | None, int | None] | None) -> str | None:
    """Say which records the durability of a log allows to be lost; None when none."""
    rest = "other than refusals, bypasses and errors"
    if durability is None:
        return f"records {rest}, as many as the pruned log.open allowed,"
    mode, microseconds, records = durability
    if mode == "interval" and microseconds is not None:
        return f"up to {microseconds / 1e6:g} s of records {rest}"
    if mode == "batch" and records is not None:
        return f"up to {records} records {rest}"
    return f"records {rest}, without a bound," if mode == "never" else None
