from __future__ import annotations

import stat

import pytest

from steerguard.audit.privacy.sealing import MAX_WRAPPED_BYTES, SEALING_VARIABLE, SealingKey, required_sealing_key
from steerguard.errors import AuditKeyError, ContentAlteredError

DATA_KEY = bytes(range(100, 132))
SECRET = bytes(range(32))


def test_what_a_key_wraps_it_unwraps_for_the_same_place_only():
    key = SealingKey.of_secret(SECRET)
    wrapped = key.wrap(DATA_KEY, b"place")
    assert DATA_KEY not in wrapped
    assert key.unwrap(wrapped, b"place") == DATA_KEY
    with pytest.raises(ContentAlteredError):
        key.unwrap(wrapped, b"another place")


def test_wrapping_twice_gives_two_different_results():
    key = SealingKey.of_secret(SECRET)
    assert key.wrap(DATA_KEY, b"") != key.wrap(DATA_KEY, b"")


@pytest.mark.parametrize("cut", [0, 1, 12, 40, 59])
def test_a_wrapped_key_of_another_length_is_altered(cut):
    key = SealingKey.of_secret(SECRET)
    with pytest.raises(ContentAlteredError):
        key.unwrap(key.wrap(DATA_KEY, b"")[:cut], b"")


def test_every_changed_byte_is_seen():
    key = SealingKey.of_secret(SECRET)
    wrapped = key.wrap(DATA_KEY, b"")
    for position in range(len(wrapped)):
        changed = bytearray(wrapped)
        changed[position] ^= 1
        with pytest.raises(ContentAlteredError):
            key.unwrap(bytes(changed), b"")


def test_a_created_key_reads_back_and_is_private(tmp_path):
    path = tmp_path / "sealing.key"
    key = SealingKey.create(path)
    assert SealingKey.from_file(path) == key
    assert SealingKey.from_file(path).unwrap(key.wrap(DATA_KEY, b""), b"") == DATA_KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(AuditKeyError, match="File exists"):
        SealingKey.create(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_file_open_to_others_is_refused(tmp_path, mode):
    path = tmp_path / "sealing.key"
    SealingKey.create(path)
    path.chmod(mode)
    with pytest.raises(AuditKeyError, match="chmod 600"):
        SealingKey.from_file(path)


@pytest.mark.parametrize("text", ["ab" * 31, "ab" * 33, "secret-z" * 8, ""])
def test_what_is_no_key_of_32_bytes_is_refused_and_not_quoted(monkeypatch, text):
    monkeypatch.setenv(SEALING_VARIABLE, text)
    with pytest.raises(AuditKeyError) as caught:
        SealingKey.from_environment()
    assert not text or text not in str(caught.value)


def test_the_environment_gives_a_key_where_none_is_given(monkeypatch):
    monkeypatch.delenv(SEALING_VARIABLE, raising=False)
    assert SealingKey.from_environment() is None
    with pytest.raises(AuditKeyError, match=SEALING_VARIABLE):
        required_sealing_key()
    monkeypatch.setenv(SEALING_VARIABLE, SECRET.hex())
    assert required_sealing_key() == SealingKey.of_secret(SECRET)
    given = SealingKey.of_secret(bytes(32))
    assert required_sealing_key(given) is given


def test_the_secret_is_not_shown():
    assert SECRET.hex() not in repr(SealingKey.of_secret(SECRET))
    assert repr(SECRET)[2:-1] not in repr(SealingKey.of_secret(SECRET))


def test_a_key_service_does_the_work():
    inner = SealingKey.of_secret(SECRET)
    key = SealingKey.of_functions("0a1b2c3d", inner.wrap, inner.unwrap)
    assert key.id == "0a1b2c3d"
    assert key.unwrap(key.wrap(DATA_KEY, b"place"), b"place") == DATA_KEY


@pytest.mark.parametrize("key_id", ["", "0A1B2C3D", "0a1b2c3", "0a1b2c3d4", "0a1b2c3g"])
def test_the_id_of_a_key_service_is_checked(key_id):
    with pytest.raises(AuditKeyError, match="8 hexadecimal"):
        SealingKey.of_functions(key_id, lambda one, _: one, lambda one, _: one)


def test_what_a_key_service_raises_is_named_and_not_quoted():
    def failing(content: bytes, associated: bytes) -> bytes:
        raise OSError(content.hex())

    key = SealingKey.of_functions("0a1b2c3d", failing, failing)
    for call in (key.wrap, key.unwrap):
        with pytest.raises(AuditKeyError, match="OSError") as caught:
            call(DATA_KEY, b"")
        assert DATA_KEY.hex() not in str(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None


def test_a_class_name_that_a_key_service_made_is_not_told():
    def failing(content: bytes, associated: bytes) -> bytes:
        raise type(f"key {content.hex()}", (Exception,), {})

    key = SealingKey.of_functions("0a1b2c3d", failing, failing)
    for call in (key.wrap, key.unwrap):
        with pytest.raises(AuditKeyError) as caught:
            call(DATA_KEY, b"")
        assert DATA_KEY.hex() not in str(caught.value)


@pytest.mark.parametrize(
    "result", [b"", bytes(60), bytes([1]) * (MAX_WRAPPED_BYTES + 1), DATA_KEY, b"x" + DATA_KEY, None, "text"]
)
def test_what_is_no_wrapped_key_is_refused(result):
    key = SealingKey.of_functions("0a1b2c3d", lambda *_: result, lambda *_: result)
    with pytest.raises(AuditKeyError):
        key.wrap(DATA_KEY, b"")


@pytest.mark.parametrize("result", [b"", bytes(31), bytes(33), None])
def test_what_is_no_data_key_is_refused(result):
    key = SealingKey.of_functions("0a1b2c3d", lambda *_: result, lambda *_: result)
    with pytest.raises(AuditKeyError):
        key.unwrap(b"wrapped", b"")
