"""The Merkle tree over the records of a log: RFC 6962, section 2.1, pure functions and one small accumulator.

The leaf of a record is `chain.leaf_hash` of its line; a node is `SHA256(0x01 || left || right)`.
All hashes here are 32 raw bytes.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""Tree hash of no records."""


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over the hashes of its two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The roots of the perfect subtrees of a growing tree: all that appending and the tree hash need.

    Holds at most 53 hashes for 2^53 records.

    Args:
        size: records so far.
        peaks: roots of the perfect subtrees, largest first, one for each bit of `size` that is 1.

    Raises:
        ValueError: the number of peaks does not fit the size.
    """

    __slots__ = ("_peaks", "_size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if (
            size < 0
            or len(peaks) != size.bit_count()
            or any(len(peak) != hashlib.sha256().digest_size for peak in peaks)
        ):
            raise ValueError(f"{len(peaks)} peaks do not fit a tree of {size} records")
        self._size = size
        self._peaks = list(peaks)

    @property
    def size(self) -> int:
        """Records so far."""
        return self._size

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """Roots of the perfect subtrees, largest first."""
        return tuple(self._peaks)

    def append(self, leaf: bytes) -> None:
        """Add the leaf hash of the next record; one node hash on average."""
        peaks, size = self._peaks, self._size
        while size & 1:
            leaf = hashlib.sha256(b"\x01" + peaks.pop() + leaf).digest()
            size >>= 1
        peaks.append(leaf)
        self._size += 1

    def root(self) -> bytes:
        """Return the tree hash over all records so far."""
        if not self._peaks:
            return EMPTY_ROOT
        *rest, root = self._peaks
        for peak in reversed(rest):
            root = node_hash(peak, root)
        return root

    def copy(self) -> Frontier:
        """Return an accumulator of its own in the same state."""
        return Frontier(self._size, self._peaks)


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Return the tree hash over leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


class Node(NamedTuple):
    """The hash of the perfect subtree over the records from `start` to `start + width`."""

    start: int
    width: int
    """A power of two that divides `start`."""
    hash: bytes


def inclusion_paths(
    indices: Sequence[int], size: int, leaves: Iterable[bytes], *, first: int = 0, peaks: Sequence[bytes] = ()
) -> list[list[bytes]]:
    """Return the audit path of each record (RFC 6962, section 2.1.1), from the leaf upwards.

    The leaves are read once. Memory grows with the number of paths and the logarithm of the size.

    Args:
        indices: of the records, from `first` to `size` - 1 each.
        size: records in the tree.
        leaves: leaf hashes of the records from `first` to `size` - 1; what follows is not read.
        first: how many earlier records are known by `peaks` alone, because their segments were pruned.
        peaks: of the tree of size `first`.

    Raises:
        ValueError: an index lies outside, there are fewer leaves than the size says, or the peaks do not fit `first`.
    """
    for index in indices:
        if not first <= index < size:
            raise ValueError(f"record {index} is not one of {first} to {size - 1}")
    spans = [_siblings(index, size) for index in indices]
    wanted = {span for path in spans for span in path}
    found: dict[tuple[int, int], bytes] = {}
    stack = _peak_nodes(Frontier(first, peaks))
    for node in stack:
        found[node.start, node.start + node.width] = node.hash
    position = first
    for leaf in itertools.islice(leaves, max(size - first, 0)):
        start, width, root = position, 1, leaf
        if (start, start + 1) in wanted:
            found[start, start + 1] = root
        while position & width:
            # The subtree before this one is as wide: together they are the next wider one.
            start, _, left = stack.pop()
            width, root = 2 * width, hashlib.sha256(b"\x01" + left + root).digest()
            if (start, start + width) in wanted:
                found[start, start + width] = root
        stack.append(Node(start, width, root))
        position += 1
    if position < size:
        raise ValueError(f"{position} records where {size} were due")
    return [[_span_hash(span, found, stack) for span in path] for path in spans]


def inclusion_path(
    index: int, size: int, leaves: Iterable[bytes], *, first: int = 0, peaks: Sequence[bytes] = ()
) -> list[bytes]:
    """Return the audit path of one record; see `inclusion_paths`.

    Raises:
        ValueError: as `inclusion_paths`.
    """
    return inclusion_paths([index], size, leaves, first=first, peaks=peaks)[0]


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the tree hash that an audit path leads to (RFC 9162, section 2.1.3.2); None when its length does not fit."""
    if not 0 <= index < size:
        return None
    at, last, root = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if at & 1 or at == last:
            root = node_hash(sibling, root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        at, last = at >> 1, last >> 1
    return root if last == 0 else None


def _siblings(index: int, size: int) -> list[tuple[int, int]]:
    """Return the spans (start, end) whose hashes make the audit path, from the leaf upwards."""
    spans: list[tuple[int, int]] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        if index < middle:
            spans.append((middle, end))
            end = middle
        else:
            spans.append((start, middle))
            start = middle
    return spans[::-1]


def _peak_nodes(frontier: Frontier) -> list[Node]:
    """Return the perfect subtrees of a tree, largest first."""
    nodes: list[Node] = []
    start, size = 0, frontier.size
    for peak in frontier.peaks:
        width = 1 << (size - start).bit_length() - 1
        nodes.append(Node(start, width, peak))
        start += width
    return nodes


def _span_hash(span: tuple[int, int], found: dict[tuple[int, int], bytes], stack: Sequence[Node]) -> bytes:
    """Return the hash of a span: a perfect subtree that was met, or the ragged end of the tree."""
    if span in found:
        return found[span]
    *rest, root = [node.hash for node in stack if node.start >= span[0]]
    for node in reversed(rest):
        root = node_hash(node, root)
    return root
