from __future__ import annotations

import hashlib
import hmac
import stat

import pytest

from steerguard.audit.privacy.keys import KEY_VARIABLE, ContentKey, token_bytes
from steerguard.errors import AuditError, AuditKeyError


def test_a_tag_is_hmac_sha256_with_the_short_id_of_the_key():
    secret = bytes(range(32))
    expected = hmac.new(secret, b"content", hashlib.sha256).hexdigest()
    assert ContentKey(secret).tag(b"content") == f"hmac:{hashlib.sha256(secret).hexdigest()[:8]}:{expected}"


def test_a_created_key_reads_back_and_is_private(tmp_path):
    path = tmp_path / "content.key"
    key = ContentKey.create(path)
    assert ContentKey.from_file(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_create_never_replaces_a_key(tmp_path):
    path = tmp_path / "content.key"
    key = ContentKey.create(path)
    with pytest.raises(AuditKeyError, match="File exists"):
        ContentKey.create(path)
    assert ContentKey.from_file(path) == key
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_key_file_open_to_others_is_refused(tmp_path, mode):
    path = tmp_path / "content.key"
    ContentKey.create(path)
    path.chmod(mode)
    with pytest.raises(AuditKeyError, match="chmod 600"):
        ContentKey.from_file(path)


def test_a_stricter_mode_is_accepted(tmp_path):
    path = tmp_path / "content.key"
    key = ContentKey.create(path)
    path.chmod(0o400)
    assert ContentKey.from_file(path) == key


def test_a_symbolic_link_is_not_a_key_file(tmp_path):
    ContentKey.create(tmp_path / "real.key")
    (tmp_path / "link.key").symlink_to(tmp_path / "real.key")
    with pytest.raises(AuditKeyError):
        ContentKey.from_file(tmp_path / "link.key")


def test_a_missing_key_file_says_how_to_make_one(tmp_path):
    with pytest.raises(AuditKeyError, match=r"ContentKey\.create"):
        ContentKey.from_file(tmp_path / "absent.key")


def test_a_key_shorter_than_32_bytes_is_refused():
    with pytest.raises(AuditKeyError, match="31 bytes"):
        ContentKey(bytes(31))


def test_the_environment_gives_a_hexadecimal_key(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert ContentKey.from_environment() is None
    monkeypatch.setenv(KEY_VARIABLE, "ab" * 32)
    assert ContentKey.from_environment() == ContentKey(b"\xab" * 32)
    monkeypatch.setenv(KEY_VARIABLE, "ab" * 31)
    with pytest.raises(AuditKeyError, match="too short"):
        ContentKey.from_environment()


def test_a_bad_key_is_not_quoted(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret-z" * 8)
    with pytest.raises(AuditKeyError) as caught:
        ContentKey.from_environment()
    assert "secret-z" not in str(caught.value)


def test_the_secret_is_not_shown():
    assert "secret" not in repr(ContentKey(b"secret!!" * 4))


def test_token_sequences_have_one_encoding_each():
    assert token_bytes([1, 256]) == b"steerguard/token-ids/1\x00\x00\x00\x00\x01\x00\x00\x01\x00"
    assert token_bytes([]) != token_bytes([0]) != token_bytes([0, 0])
    with pytest.raises(AuditError, match="token id"):
        token_bytes([-1])
