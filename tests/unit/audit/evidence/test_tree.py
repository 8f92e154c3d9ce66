from __future__ import annotations

import hashlib
import random

import pytest

from steerguard.audit.evidence.tree import (
    EMPTY_ROOT,
    Frontier,
    inclusion_path,
    inclusion_paths,
    node_hash,
    root_from_path,
    root_of,
)
from steerguard.audit.records.chain import leaf_hash

INPUTS = [
    bytes.fromhex(one)
    for one in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
"""The inputs of the tests of certificate-transparency logs, and below their tree hashes by number of inputs."""
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def leaf(data):
    return hashlib.sha256(b"\x00" + data).digest()


LEAVES = [leaf(data) for data in INPUTS]


def mth(leaves):
    """The tree hash as section 2.1 of RFC 6962 defines it, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = largest_power_below(len(leaves))
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def audit_path(m, leaves):
    """PATH of section 2.1.1 of RFC 6962, word for word."""
    if len(leaves) == 1:
        return []
    k = largest_power_below(len(leaves))
    if m < k:
        return [*audit_path(m, leaves[:k]), mth(leaves[k:])]
    return [*audit_path(m - k, leaves[k:]), mth(leaves[:k])]


def largest_power_below(n):
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def some_leaves(size):
    return [leaf(index.to_bytes(4, "big")) for index in range(size)]


def frontier_of(leaves):
    frontier = Frontier()
    for one in leaves:
        frontier.append(one)
    return frontier


def test_the_leaf_of_a_line_is_a_leaf_of_rfc_6962():
    assert [leaf_hash(data) for data in INPUTS] == [one.hex() for one in LEAVES]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_known_vectors(size):
    assert root_of(LEAVES[:size]).hex() == ROOTS[size]


def test_the_empty_root_is_the_hash_of_nothing():
    assert Frontier().root() == EMPTY_ROOT == bytes.fromhex(ROOTS[0])


@pytest.mark.parametrize(("index", "size"), PATHS)
def test_paths_are_those_of_the_known_vectors(index, size):
    assert [one.hex() for one in inclusion_path(index, size, LEAVES[:size])] == PATHS[index, size]


@pytest.mark.parametrize("size", [*range(1, 35), 63, 64, 65, 127, 129])
def test_roots_and_paths_are_those_of_the_definition(size):
    leaves = some_leaves(size)
    root = mth(leaves)
    assert root_of(leaves) == root
    for index in range(size):
        path = inclusion_path(index, size, leaves)
        assert path == audit_path(index, leaves)
        assert root_from_path(leaves[index], index, size, path) == root


@pytest.mark.parametrize("first", range(34))
def test_a_tree_goes_on_from_the_peaks_of_its_beginning(first):
    leaves = some_leaves(37)
    peaks = frontier_of(leaves[:first]).peaks
    frontier = Frontier(first, peaks)
    assert frontier.root() == mth(leaves[:first])
    for one in leaves[first:]:
        frontier.append(one)
    assert (frontier.size, frontier.root()) == (37, mth(leaves))
    for size in range(first + 1, 38):
        for index in range(first, size):
            path = inclusion_path(index, size, leaves[first:size], first=first, peaks=peaks)
            assert path == audit_path(index, leaves[:size])


def test_several_paths_come_from_one_reading():
    leaves = some_leaves(1000)
    read = iter(leaves)
    indices = [999, 0, 512, 511, 0]
    with pytest.raises(ValueError, match="record 999"):
        inclusion_paths(indices, 700, read)
    assert inclusion_paths(indices, 1000, read) == [audit_path(index, leaves) for index in indices]
    assert next(read, None) is None


def test_leaves_behind_the_tree_are_not_read():
    read = iter(some_leaves(10))
    inclusion_path(2, 7, read)
    assert len(list(read)) == 3


@pytest.mark.parametrize(("index", "first"), [(-1, 0), (7, 0), (8, 0), (2, 3)])
def test_a_record_outside_the_tree_has_no_path(index, first):
    leaves = some_leaves(7)
    with pytest.raises(ValueError, match=f"record {index} is not one of {first} to 6"):
        inclusion_path(index, 7, leaves[first:], first=first, peaks=frontier_of(leaves[:first]).peaks)


def test_a_path_needs_every_leaf():
    with pytest.raises(ValueError, match="6 records where 7 were due"):
        inclusion_path(2, 7, some_leaves(6))


@pytest.mark.parametrize("size", [-1, 1, 3, 6])
def test_peaks_must_fit_the_size(size):
    with pytest.raises(ValueError, match="do not fit"):
        Frontier(size, [])
    with pytest.raises(ValueError, match="do not fit"):
        inclusion_path(max(size, 0), 8, some_leaves(8), first=size, peaks=[b"\x00" * 31] * max(size, 0).bit_count())


def test_a_copy_grows_on_its_own():
    frontier = frontier_of(LEAVES[:5])
    copy = frontier.copy()
    copy.append(LEAVES[5])
    assert (frontier.size, frontier.root().hex()) == (5, ROOTS[5])
    assert (copy.size, copy.root().hex()) == (6, ROOTS[6])


def test_a_path_of_another_length_leads_nowhere():
    leaves = some_leaves(11)
    for index in range(11):
        path = inclusion_path(index, 11, leaves)
        assert root_from_path(leaves[index], index, 11, path[:-1]) is None
        assert root_from_path(leaves[index], index, 11, [*path, EMPTY_ROOT]) is None


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, 0)])
def test_a_path_of_no_record_leads_nowhere(index, size):
    assert root_from_path(LEAVES[0], index, size, []) is None


def test_a_path_proves_one_place_only():
    leaves = some_leaves(21)
    root = root_of(leaves)
    generator = random.Random(21)
    for _ in range(200):
        index, other = generator.sample(range(21), 2)
        path = inclusion_path(index, 21, leaves)
        assert root_from_path(leaves[index], other, 21, path) != root
        assert root_from_path(leaves[other], index, 21, path) != root


def test_leaves_and_nodes_are_told_apart():
    left, right = LEAVES[:2]
    assert node_hash(left, right) != leaf(left + right)
