"""What `registry revoke` must know of the list of a folder before it begins one or signs it anew."""

from __future__ import annotations

import pytest
from tests.registry_commands import key_file, run, tree

from steerguard.registry.local import create_registry
from steerguard.registry.memory import remember
from steerguard.registry.pulled import PulledArtifacts
from steerguard.registry.revocations import REVOCATIONS


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERGUARD_STORE", str(tmp_path / "store"))


@pytest.fixture
def acme(tmp_path):
    return key_file(tmp_path, "acme")


@pytest.fixture
def registry(tmp_path):
    return create_registry(tmp_path / "registry")


def test_a_list_is_not_begun_by_somebody_who_knows_of_one(registry, acme):
    begin = ("revoke", "--registry", registry.root, "--renew", "--new-registry", "--key", acme[0])
    result = run(*begin, "--at-least", "3")
    assert result.exit_code == 1
    assert "RollbackError" in result.stderr
    assert "sequence 3 or higher" in result.stderr
    assert not (registry.root / REVOCATIONS).exists()


def test_an_interrupted_beginning_of_a_list_is_finished(tmp_path, registry, acme, monkeypatch):
    """The list was written, and nothing is remembered: the very same command says it again, another one does not."""
    begin = ("revoke", "--registry", registry.root, "--key", acme[0], "--new-registry", "--artifact")
    assert run(*begin, "inferaligner").exit_code == 0
    before = tree(registry.root)
    monkeypatch.setenv("STEERGUARD_STORE", str(tmp_path / "interrupted"))
    assert "PublishConflictError" in run(*begin, "another").stderr
    result = run(*begin, "inferaligner")
    assert result.exit_code == 0, result.output
    assert "list 1 of" in result.stdout
    assert tree(registry.root) == before


def test_a_list_that_a_store_has_only_read_is_not_signed_anew(tmp_path, registry, acme, monkeypatch):
    """Somebody with write access to the folder shows an old list to a reader first, and to the writer then."""
    base = ("revoke", "--registry", registry.root, "--key", acme[0])
    assert run(*base, "--renew", "--new-registry").exit_code == 0
    begun = (registry.root / REVOCATIONS).read_bytes()
    assert run(*base, "--artifact", "inferaligner").exit_code == 0
    (registry.root / REVOCATIONS).write_bytes(begun)
    store = PulledArtifacts(tmp_path / "reader")
    remember(registry.name, {REVOCATIONS: begun}, keys=[acme[1].public], pulled=store)
    monkeypatch.setenv("STEERGUARD_STORE", str(store.root))
    assert "has never written" in run(*base, "--renew").stderr
    assert (registry.root / REVOCATIONS).read_bytes() == begun
