"""The end of a chain as one value: how many records, the last leaf hash, and the peaks of the tree over all of them.

It is replaced as a whole, so that no interrupt can split it.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from steerguard.audit.evidence.checkpoint import TreeHead
from steerguard.audit.evidence.tree import Frontier
from steerguard.audit.records.chain import FIRST_PREV


class ChainState(NamedTuple):
    """What the next record of a log attaches to."""

    seq: int
    """Records so far, which is the sequence number of the next."""
    prev: str
    """Leaf hash of the last record, hexadecimal."""
    peaks: tuple[bytes, ...]
    """Roots of the perfect subtrees over all records, largest first; see `tree.Frontier`."""

    def after(self, line: bytes) -> ChainState:
        """Return the state behind one more line."""
        leaf = hashlib.sha256(b"\x00" + line).digest()
        prev, peaks, size, merged = leaf.hex(), self.peaks, self.seq, 0
        while size & 1:
            merged += 1
            leaf = hashlib.sha256(b"\x01" + peaks[-merged] + leaf).digest()
            size >>= 1
        return ChainState(self.seq + 1, prev, (*peaks[: len(peaks) - merged], leaf))

    def head(self, log: str) -> TreeHead:
        """Return what a checkpoint over all records says."""
        return TreeHead(log, self.seq, self.root)

    @property
    def root(self) -> bytes:
        """Tree hash over all records."""
        return Frontier(self.seq, self.peaks).root()


EMPTY_CHAIN: Final = ChainState(0, FIRST_PREV, ())
"""Before the first record."""
