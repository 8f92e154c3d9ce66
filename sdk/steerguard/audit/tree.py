"""The Merkle tree over the records of a log: RFC 6962, section 2.1, pure functions and one small accumulator.

The leaf of a record is `chain.leaf_hash` of its line; a node is `SHA256(0x01 || left || right)`.
All hashes here are 32 raw bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

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


@dataclass(frozen=True, slots=True)
class Node:
    """The hash of the perfect subtree over the records from `start` to `start + width`."""

    start: int
    width: int
    """A power of two that divides `start`."""
    hash: bytes


def inclusion_path(
    index: int, size: int, leaves: Iterable[bytes], *, first: int = 0, peaks: Sequence[bytes] = ()
) -> list[bytes]:
    """Return the audit path of one record (RFC 6962, section 2.1.1), from the leaf upwards.

    Memory grows with the logarithm of the size: the leaves are read once.

    Args:
        index: of the record, from `first` to `size` - 1.
        size: records in the tree.
        leaves: leaf hashes of the records from `first` to `size` - 1.
        first: how many earlier records are known by `peaks` alone, because their segments were pruned.
        peaks: of the tree of size `first`.

    Raises:
        ValueError: the index lies outside, or there are fewer leaves than the size says.
    """
    if not first <= index < size:
        raise ValueError(f"record {index} is not one of {first} to {size - 1}")
    wanted = _siblings(index, size)
    found: dict[tuple[int, int], bytes] = {}
    stack: list[Node] = []
    start = 0
    for bit in reversed(range(first.bit_length())):
        if first >> bit & 1:
            stack.append(Node(start, 1 << bit, peaks[len(stack)]))
            start += 1 << bit
    for node in stack:
        _keep(node, wanted, found)
    position = first
    for leaf in leaves:
        if position == size:
            break
        node = Node(position, 1, leaf)
        _keep(node, wanted, found)
        while stack and stack[-1].width == node.width and stack[-1].start % (2 * node.width) == 0:
            left = stack.pop()
            node = Node(left.start, 2 * left.width, node_hash(left.hash, node.hash))
            _keep(node, wanted, found)
        stack.append(node)
        position += 1
    if position != size:
        raise ValueError(f"{position} records where {size} were due")
    return [_span_hash(span, found, stack) for span in wanted]


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


def _keep(node: Node, wanted: Sequence[tuple[int, int]], found: dict[tuple[int, int], bytes]) -> None:
    span = (node.start, node.start + node.width)
    if span in wanted:
        found[span] = node.hash


def _span_hash(span: tuple[int, int], found: dict[tuple[int, int], bytes], stack: Sequence[Node]) -> bytes:
    """Return the hash of a span: a perfect subtree that was met, or the ragged end of the tree."""
    if span in found:
        return found[span]
    *rest, root = [node.hash for node in stack if node.start >= span[0]]
    for node in reversed(rest):
        root = node_hash(node, root)
    return root
