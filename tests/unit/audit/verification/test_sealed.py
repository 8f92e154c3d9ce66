"""With `strict`, encrypted content is held against what its record says, without a key."""

from __future__ import annotations

import pytest
from tests.built_audit_logs import DIGEST, Builder

from steerguard.audit.evidence.layout import sealed_name, slot_keys_name
from steerguard.audit.privacy.sealed_slots import SLOT_BYTES, WRAPPED_OFFSET
from steerguard.audit.privacy.sealed_store import SealedStore
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.audit.verify import verify_directory


@pytest.fixture
def built(tmp_path):
    builder = Builder()
    store = SealedStore(tmp_path, SealingKey.create(tmp_path / "sealing.key"))
    store.begin(builder.built.log, 0)
    for row in range(2):
        decide(builder, row, store.append(b"payload %d" % row, req="r1", row=row).model_dump())
    store.close()
    built = builder.close()
    built.write(tmp_path)
    return built


def decide(builder, row, sealed):
    builder.record(
        "guard.decision",
        req="r1",
        row=row,
        policy={"name": "p", "version": "1", "digest": DIGEST},
        plan=DIGEST,
        model={"name": "m", "architecture": "M", "dtype": "float32"},
        artifacts=[],
        mode="enforce",
        readings=[],
        rules=[],
        cause="rule",
        intended="allow",
        applied="allow",
        doses=[],
        usage={"prompt_tokens": 1, "generated_tokens": 1, "extra_forward_tokens": 0, "cached_tokens": 0},
        budget=None,
        template_cut=False,
        content={
            "form": "text",
            "in": None,
            "out": None,
            "in_chars": 1,
            "out_chars": 1,
            "in_tokens": 1,
            "out_tokens": 1,
            "sealed": sealed,
        },
        err=None,
        search=None,
    )


def bad_of(directory):
    (log,) = verify_directory(directory, strict=True).logs
    return None if log.first_bad is None else (log.first_bad.fault, log.first_bad.seq)


def test_whole_content_verifies(tmp_path, built):
    assert bad_of(tmp_path) is None


def test_a_flipped_bit_of_the_ciphertext_is_found_with_strict_only(tmp_path, built):
    path = tmp_path / sealed_name(built.log, 0)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert bad_of(tmp_path) == ("sealed", 2)
    assert verify_directory(tmp_path).status == "ok"


def test_a_slot_of_another_row_is_found(tmp_path, built):
    path = tmp_path / slot_keys_name(built.log, 0)
    content = path.read_bytes()
    path.write_bytes(content[SLOT_BYTES:] + content[:SLOT_BYTES])
    assert bad_of(tmp_path) == ("sealed", 1)


def test_erased_content_is_no_fault(tmp_path, built):
    path = tmp_path / slot_keys_name(built.log, 0)
    content = bytearray(path.read_bytes())
    content[WRAPPED_OFFSET:SLOT_BYTES] = bytes(SLOT_BYTES - WRAPPED_OFFSET)
    path.write_bytes(content)
    (tmp_path / sealed_name(built.log, 0)).chmod(0o600)
    assert bad_of(tmp_path) is None


@pytest.mark.parametrize("name", [sealed_name, slot_keys_name])
def test_a_missing_file_and_a_link_are_found(tmp_path, built, name):
    path = tmp_path / name(built.log, 0)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    assert bad_of(tmp_path) == ("sealed", 1)
    path.symlink_to(elsewhere)
    assert bad_of(tmp_path) == ("sealed", 1)
