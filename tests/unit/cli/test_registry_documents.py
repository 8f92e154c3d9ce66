"""Documents in envelopes on the command line, and registries that are not written to."""

from __future__ import annotations

import pytest
from tests.artifact_samples import write_folder
from tests.publishable_artifacts import publishable_files
from tests.registry_commands import key_file, run, tree

from steerguard.canonical import canonical_bytes
from steerguard.content import registry_directory


@pytest.fixture
def signed(tmp_path):
    file, key = key_file(tmp_path, "acme")
    document = tmp_path / "certificate.json"
    document.write_bytes(canonical_bytes({"kind": "Certificate", "n": 1}))
    assert run("sign", document, "--key", file).exit_code == 0
    return tmp_path / "certificate.json.dsse.json", key


def test_a_signed_document_verifies_with_the_key_that_signed_it(signed):
    envelope, key = signed
    answer = run("verify", envelope, "--public", key.public.text)
    assert answer.exit_code == 0, answer.stderr
    assert "application/vnd.steerguard.certificate+json" in answer.stdout
    assert key.public.id in answer.stdout


def test_a_document_does_not_verify_with_another_key(tmp_path, signed):
    _, other = key_file(tmp_path, "other")
    answer = run("verify", signed[0], "--public", other.public.text)
    assert answer.exit_code == 1
    assert "SignatureError" in answer.stderr


def test_a_changed_document_does_not_verify(signed):
    envelope, key = signed
    content = envelope.read_bytes()
    at = content.index(b'"payload":"') + 15
    envelope.write_bytes(content[:at] + (b"A" if content[at : at + 1] != b"A" else b"B") + content[at + 1 :])
    answer = run("verify", envelope, "--public", key.public.text)
    assert answer.exit_code == 1
    assert "SignatureError" in answer.stderr


def test_a_document_needs_a_key_to_be_verified(signed):
    answer = run("verify", signed[0])
    assert answer.exit_code == 1
    assert "SigningKeyError" in answer.stderr


@pytest.mark.parametrize("name", ["embedded", str(registry_directory()), registry_directory().as_uri()])
def test_the_registry_of_the_package_is_not_written_to(tmp_path, name):
    before = sorted(tree(registry_directory()))
    file, _ = key_file(tmp_path, "acme")
    new = write_folder(tmp_path / "new", publishable_files())
    for answer in (
        run("revoke", "--registry", name, "--renew", "--key", file),
        run("publish", new, "--registry", name),
    ):
        assert answer.exit_code == 1
        assert "RegistryAccessError" in answer.stderr
    assert sorted(tree(registry_directory())) == before


def test_publish_takes_the_url_of_a_folder(tmp_path):
    answer = run(
        "publish", write_folder(tmp_path / "new", publishable_files()), "--registry", (tmp_path / "own").as_uri()
    )
    assert answer.exit_code == 0, answer.stderr
    assert (tmp_path / "own" / "index.json").is_file()
