from __future__ import annotations

import os

import pytest

from steerguard.audit.privacy.sealed_slots import ERASED, SLOT_BYTES, WRAPPED_OFFSET, Place, Slot, open_slot, slots_in
from steerguard.audit.privacy.sealed_store import SealedStore
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.audit.records.fields import SealedContent
from steerguard.errors import (
    AuditContentError,
    ContentAlteredError,
    ContentErasedError,
    ContentKeyError,
)

LOG = "20261122T071532Z-7809bc8c2669ad56"
KEY = SealingKey.of_secret(bytes(range(32)))
SLOT = Slot(req="request-1", row=7, offset=2**40, length=99, nonce=b"n" * 12, wrapped=b"w" * 60)


@pytest.fixture
def rows(tmp_path):
    """Three sealed rows; returns what their records say."""
    store = SealedStore(tmp_path, KEY)
    store.begin(LOG, 0)
    sealed = [store.append(f"content {row}".encode(), req="request-1", row=row) for row in range(3)]
    store.close()
    return sealed


def _open(tmp_path, sealed, *, key=KEY, log=LOG, req="request-1", row=0):
    return open_slot(tmp_path, sealed, key, log=log, req=req, row=row)


def _changed(path, offset, content):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_a_slot_reads_back_from_its_512_bytes():
    assert len(SLOT.content) == SLOT_BYTES
    assert Slot.parse(SLOT.content) == SLOT


def test_an_erased_slot_has_no_wrapped_key():
    erased = Slot.parse(SLOT.content[:WRAPPED_OFFSET] + ERASED)
    assert erased is not None
    assert (erased.wrapped, erased.req, erased.row) == (b"", SLOT.req, SLOT.row)


@pytest.mark.parametrize(
    "content", [bytes(SLOT_BYTES), b"SGK2" + SLOT.content[4:], SLOT.content[:36] + b"\xff\xff" + SLOT.content[38:]]
)
def test_bytes_that_are_no_slot_are_none(content):
    assert Slot.parse(content) is None


def test_slots_are_found_across_blocks_and_a_torn_end_is_passed_over(tmp_path):
    path = tmp_path / "keys"
    path.write_bytes(SLOT.content * 5000 + SLOT.content[:100])
    with path.open("rb") as file:
        found = list(slots_in(file.fileno()))
    assert found == [(position, SLOT) for position in range(5000)]


def test_places_differ_in_every_part():
    place = Place("log", "file", 1, "req", 2)
    others = [place._replace(**{name: 3 if isinstance(part, int) else "x"}) for name, part in place._asdict().items()]
    assert len({place.of_content, place.of_data_key, *(one.of_content for one in others)}) == 2 + len(others)


def test_a_row_opens(tmp_path, rows):
    assert [_open(tmp_path, one, row=row) for row, one in enumerate(rows)] == [b"content 0", b"content 1", b"content 2"]


def test_another_key_is_told_by_its_id(tmp_path, rows):
    other = SealingKey.of_secret(bytes(32))
    with pytest.raises(ContentKeyError, match=KEY.id):
        _open(tmp_path, rows[0], key=other)


def test_another_key_under_the_same_id_does_not_open(tmp_path, rows):
    other = SealingKey.of_secret(bytes(32))
    with pytest.raises(ContentAlteredError):
        _open(tmp_path, rows[0], key=SealingKey.of_functions(KEY.id, other.wrap, other.unwrap))


def test_an_erased_row_says_so_even_to_another_key(tmp_path, rows):
    _changed(tmp_path / f"{LOG}.000000.keys", WRAPPED_OFFSET, ERASED)
    for key in (KEY, SealingKey.of_secret(bytes(32))):
        with pytest.raises(ContentErasedError):
            _open(tmp_path, rows[0], key=key)
    assert _open(tmp_path, rows[1], row=1) == b"content 1"


@pytest.mark.parametrize("offset", [0, 5, 20, WRAPPED_OFFSET, WRAPPED_OFFSET + 30])
def test_a_changed_slot_is_altered(tmp_path, rows, offset):
    _changed(tmp_path / f"{LOG}.000000.keys", offset, b"\x01\x02\x03\x04")
    with pytest.raises(ContentAlteredError):
        _open(tmp_path, rows[0])


@pytest.mark.parametrize("offset", [0, 10, 24])
def test_a_changed_ciphertext_is_altered(tmp_path, rows, offset):
    _changed(tmp_path / rows[0].file, offset, b"\x01")
    with pytest.raises(ContentAlteredError):
        _open(tmp_path, rows[0])


@pytest.mark.parametrize("beyond", [2**40, 2**63, 2**64 - 1])
def test_a_slot_whose_offset_lies_beyond_the_file_is_altered(tmp_path, rows, beyond):
    _changed(tmp_path / f"{LOG}.000000.keys", 8, beyond.to_bytes(8, "big"))
    with pytest.raises(ContentAlteredError):
        _open(tmp_path, rows[0])


@pytest.mark.parametrize("suffix", ["keys", "sealed"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path, rows, suffix):
    path = tmp_path / f"{LOG}.000000.{suffix}"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(AuditContentError):
        _open(tmp_path, rows[0])


def test_a_slot_that_claims_too_much_reads_no_more_than_there_is(tmp_path, rows):
    huge = SealedContent(**{**rows[0].model_dump(), "bytes": 2**50})
    keys = tmp_path / f"{LOG}.000000.keys"
    slot = Slot.parse(keys.read_bytes()[:SLOT_BYTES])
    assert slot is not None
    _changed(keys, 0, Slot(**{name: getattr(slot, name) for name in Slot.__slots__} | {"length": 2**50}).content)
    with pytest.raises(ContentAlteredError):
        _open(tmp_path, huge)


def test_swapped_slots_are_altered(tmp_path, rows):
    keys = tmp_path / f"{LOG}.000000.keys"
    content = keys.read_bytes()
    keys.write_bytes(content[SLOT_BYTES : 2 * SLOT_BYTES] + content[:SLOT_BYTES] + content[2 * SLOT_BYTES :])
    with pytest.raises(ContentAlteredError):
        _open(tmp_path, rows[0])


@pytest.mark.parametrize("changes", [{"log": "20261122T071532Z-0000000000000000"}, {"req": "request-2"}, {"row": 1}])
def test_a_row_opens_under_its_own_record_only(tmp_path, rows, changes):
    with pytest.raises(ContentAlteredError):
        _open(tmp_path, rows[0], **changes)


@pytest.mark.parametrize("suffix", ["sealed", "keys"])
def test_a_missing_file_is_named(tmp_path, rows, suffix):
    (tmp_path / f"{LOG}.000000.{suffix}").unlink()
    with pytest.raises(AuditContentError, match=suffix):
        _open(tmp_path, rows[0])
