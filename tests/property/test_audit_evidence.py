from __future__ import annotations

import hashlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from steerguard.audit.evidence.checkpoint import TreeHead, parse_head, sign_head, split_notes, stored
from steerguard.audit.evidence.note import Note, NoteKey, NoteSignature, parse_note, sign_note
from steerguard.audit.evidence.tree import Frontier, inclusion_path, inclusion_paths, root_from_path, root_of
from steerguard.errors import AuditVerificationError
from steerguard.signing.keys import SigningKey

LOG = "20261122T071532Z-7809bc8c2669ad56"
SIGNER = SigningKey(bytes(range(32)))
KEY = NoteKey("example.com/audit", SIGNER.public)
NOTE = sign_head(TreeHead(LOG, 1234, bytes(range(32))), [(KEY.name, SIGNER)]).note.content

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\n"), max_size=200).map(
    lambda text: text + "\n"
)
names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="+"), min_size=1, max_size=20)
hashes = st.binary(min_size=32, max_size=32)


@st.composite
def trees(draw):
    """A tree with a record in it and a beginning that is known by its peaks."""
    size = draw(st.integers(1, 200))
    index = draw(st.integers(0, size - 1))
    first = draw(st.integers(0, index))
    return size, index, first


def leaves_of(size):
    return [hashlib.sha256(b"\x00%d" % number).digest() for number in range(size)]


@given(trees())
def test_a_path_leads_from_its_record_to_the_root(tree):
    size, index, first = tree
    leaves = leaves_of(size)
    beginning = Frontier()
    for leaf in leaves[:first]:
        beginning.append(leaf)
    path = inclusion_path(index, size, leaves[first:], first=first, peaks=beginning.peaks)
    assert root_from_path(leaves[index], index, size, path) == root_of(leaves)


@given(trees(), st.data())
def test_no_altered_path_leads_to_the_root(tree, data):
    size, index, _ = tree
    leaves = leaves_of(size)
    root = root_of(leaves)
    path = inclusion_path(index, size, leaves)
    assume(path)
    at = data.draw(st.integers(0, len(path) - 1))
    altered = data.draw(hashes.filter(lambda one: one != path[at]))
    assert root_from_path(leaves[index], index, size, [*path[:at], altered, *path[at + 1 :]]) != root
    assert root_from_path(altered, index, size, path) != root
    assert root_from_path(leaves[index], index, size, [*path[:at], *path[at + 1 :]]) != root
    assert root_from_path(leaves[index], index, size, [*path[:at], altered, *path[at:]]) != root


@given(trees(), st.data())
def test_a_frontier_goes_on_from_its_peaks(tree, data):
    size, _, first = tree
    leaves = leaves_of(size)
    beginning = Frontier()
    for leaf in leaves[:first]:
        beginning.append(leaf)
    assert beginning.root() == root_of(leaves[:first])
    rest = Frontier(first, beginning.peaks)
    for leaf in leaves[first:]:
        rest.append(leaf)
    assert rest.root() == root_of(leaves)
    indices = data.draw(st.lists(st.integers(first, size - 1), max_size=5))
    paths = inclusion_paths(indices, size, leaves[first:], first=first, peaks=beginning.peaks)
    assert paths == [inclusion_path(index, size, leaves) for index in indices]


@given(
    texts,
    st.lists(
        st.tuples(names, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=80)), min_size=1, max_size=4
    ),
)
def test_a_note_reads_back_as_it_was_written(text, signatures):
    note = Note(text, tuple(NoteSignature(name, key.hex(), signature) for name, key, signature in signatures))
    assert parse_note(note.content) == note


@given(st.binary(max_size=300) | st.builds(lambda a, b: a + b"\n\n\xe2\x80\x94 " + b, st.binary(), st.binary()))
def test_what_parses_as_a_note_is_written_back_the_same(content):
    try:
        note = parse_note(content)
    except AuditVerificationError:
        return
    assert note.content == content


def accepted(content):
    """What a verifier that pins the key takes from a note; None when it refuses it or finds no signature of the key."""
    try:
        head = parse_head(content)
        return head.head if head.note.signed_by([KEY]) else None
    except AuditVerificationError:
        return None


@given(st.integers(0, len(NOTE) - 1), st.integers(1, 255))
def test_no_flipped_byte_of_a_checkpoint_is_accepted(at, flip):
    altered = bytearray(NOTE)
    altered[at] ^= flip
    assert accepted(bytes(altered)) is None


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_of_a_checkpoint_is_accepted(bit):
    assert accepted(NOTE) is not None
    for at in range(len(NOTE)):
        altered = bytearray(NOTE)
        altered[at] ^= 1 << bit
        assert accepted(bytes(altered)) is None


@given(st.integers(0, len(NOTE)), st.integers(0, len(NOTE)), st.binary(max_size=8))
def test_no_piece_of_a_checkpoint_can_be_replaced(start, end, piece):
    altered = NOTE[:start] + piece + NOTE[end:]
    assume(altered != NOTE)
    found = accepted(altered)
    # A signature line of another key may be added: that is what cosigning is.
    assert found is None or (altered.startswith(NOTE) and found == parse_head(NOTE).head)


@given(st.lists(st.tuples(st.integers(0, 2**53 - 1), hashes, st.integers(1, 3)), max_size=6))
def test_a_file_of_checkpoints_reads_back(heads):
    signed = [sign_head(TreeHead(LOG, size, root), [(KEY.name, SIGNER)] * count) for size, root, count in heads]
    assert [parse_head(note) for note in split_notes(b"".join(stored(one) for one in signed))] == signed


@given(texts)
def test_a_signature_is_over_the_whole_text(text):
    note = sign_note(text, [(KEY.name, SIGNER)])
    assert note.signed_by([KEY]) == (KEY,)
    for other in (text + "\n", "\n" + text, text[:-2] + "\n"):
        if other == text:
            continue
        with pytest.raises(AuditVerificationError):
            Note(other, note.signatures).signed_by([KEY])
