"""Which lists of revocations artifacts are loaded under, and when there is none that can be relied on."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.signed_artifacts import HUB, NOW, OWNER, STRANGER, put_list, revocations, revoked, signed_list, trust

from steerguard.errors import ArtifactFormatError, RollbackError, SignatureError, StaleError
from steerguard.registry.local import create_registry
from steerguard.registry.pulled import PulledArtifacts
from steerguard.registry.revocations import REVOCATIONS
from steerguard.trust.revocation_source import load_revocations

ALLOWED = "revocation: {on_stale: {action: allow, reason: no network this week, expires: 2026-11-30}}"


@pytest.fixture
def pulled(tmp_path):
    return PulledArtifacts(tmp_path / "store")


@pytest.fixture
def registry(tmp_path):
    return create_registry(tmp_path / "registry")


def local_trust(registry, **parts):
    return trust(registries=[registry.name], signed=[registry.name], **parts)


def document(registry, **options):
    return revocations(registry, revoked(family="inferaligner"), **options)


def test_the_list_at_the_root_of_a_local_registry_is_read_and_remembered(registry, pulled):
    put_list(registry.root, document(registry.name, sequence=3), OWNER)
    found = load_revocations(local_trust(registry), pulled, now=NOW)
    assert found == {registry.name: document(registry.name, sequence=3)}
    assert REVOCATIONS in pulled.remembered(registry.name)


def test_the_remembered_list_of_a_remote_registry_is_used(pulled):
    pulled.remember(HUB, REVOCATIONS, signed_list(document(HUB), OWNER))
    assert load_revocations(trust(registries=[HUB], signed=[HUB]), pulled, now=NOW) == {HUB: document(HUB)}


def test_only_the_registries_asked_for_are_looked_at(registry, pulled):
    put_list(registry.root, document(registry.name), OWNER)
    policy = trust(registries=[registry.name], signed=[registry.name, HUB])
    assert set(load_revocations(policy, pulled, [registry.name], NOW)) == {registry.name}
    with pytest.raises(StaleError, match="no list of revocations"):
        load_revocations(policy, pulled, now=NOW)


def test_no_registry_named_means_no_list(pulled):
    assert load_revocations(trust(), pulled, now=NOW) == {}


@pytest.mark.parametrize(
    "options",
    [
        {"issued": NOW - timedelta(days=8)},
        {"issued": NOW - timedelta(hours=2), "valid_for": timedelta(hours=1)},
        {"issued": NOW + timedelta(hours=1)},
    ],
    ids=["too old", "expired", "from the future"],
)
def test_a_stale_list_refuses_unless_the_policy_allows_it(registry, pulled, options):
    put_list(registry.root, document(registry.name, **options), OWNER)
    with pytest.raises(StaleError):
        load_revocations(local_trust(registry), pulled, now=NOW)
    allowed = local_trust(registry, extra=ALLOWED)
    assert load_revocations(allowed, pulled, now=NOW) == {registry.name: document(registry.name, **options)}
    with pytest.raises(StaleError):
        load_revocations(allowed, pulled, now=NOW + timedelta(days=30))


def test_a_missing_list_counts_as_stale(registry, pulled):
    with pytest.raises(StaleError, match="no list of revocations"):
        load_revocations(local_trust(registry), pulled, now=NOW)
    assert load_revocations(local_trust(registry, extra=ALLOWED), pulled, now=NOW) == {}


def test_a_list_that_nobody_who_may_has_signed_is_refused(registry, pulled):
    put_list(registry.root, document(registry.name), STRANGER)
    for policy in (local_trust(registry), local_trust(registry, extra=ALLOWED)):
        with pytest.raises(SignatureError):
            load_revocations(policy, pulled, now=NOW)
    assert pulled.remembered(registry.name) == {}


def test_the_list_of_another_registry_is_refused(registry, pulled):
    put_list(registry.root, document(HUB), OWNER)
    with pytest.raises(SignatureError, match="another registry"):
        load_revocations(local_trust(registry), pulled, now=NOW)


def test_an_older_list_is_a_rollback(registry, pulled):
    put_list(registry.root, document(registry.name, sequence=5), OWNER)
    load_revocations(local_trust(registry), pulled, now=NOW)
    put_list(registry.root, document(registry.name, sequence=4), OWNER)
    with pytest.raises(RollbackError):
        load_revocations(local_trust(registry, extra=ALLOWED), pulled, now=NOW)
    put_list(registry.root, revocations(registry.name, sequence=5), OWNER)
    with pytest.raises(RollbackError):
        load_revocations(local_trust(registry), pulled, now=NOW)
    put_list(registry.root, revocations(registry.name, sequence=6), OWNER)
    assert load_revocations(local_trust(registry), pulled, now=NOW)[registry.name].sequence == 6


def test_a_list_that_is_known_needs_no_store_that_can_be_written(registry, pulled):
    put_list(registry.root, document(registry.name), OWNER)
    load_revocations(local_trust(registry), pulled, now=NOW)

    class ReadOnly:
        remembered = pulled.remembered

    assert load_revocations(local_trust(registry), ReadOnly(), now=NOW)[registry.name].sequence == 1


def test_a_list_that_disappears_is_a_rollback(registry, pulled):
    put_list(registry.root, document(registry.name, sequence=5), OWNER)
    load_revocations(local_trust(registry), pulled, now=NOW)
    (registry.root / REVOCATIONS).unlink()
    for policy in (local_trust(registry), local_trust(registry, extra=ALLOWED)):
        with pytest.raises(RollbackError, match="sequence 5"):
            load_revocations(policy, pulled, now=NOW)


def test_a_damaged_memory_does_not_hide_a_good_list(registry, pulled):
    pulled.remember(registry.name, REVOCATIONS, b"{}")
    put_list(registry.root, document(registry.name), OWNER)
    assert load_revocations(local_trust(registry), pulled, now=NOW)[registry.name].sequence == 1
    assert pulled.remembered(registry.name)[REVOCATIONS] == (registry.root / REVOCATIONS).read_bytes()


def test_a_replaced_key_cannot_block_the_registry_with_a_high_sequence(registry, pulled):
    pulled.remember(registry.name, REVOCATIONS, signed_list(document(registry.name, sequence=99), STRANGER))
    put_list(registry.root, document(registry.name, sequence=2), OWNER)
    assert load_revocations(local_trust(registry), pulled, now=NOW)[registry.name].sequence == 2


def test_a_damaged_memory_of_a_remote_registry_is_refused(pulled):
    pulled.remember(HUB, REVOCATIONS, b"{}")
    with pytest.raises(SignatureError):
        load_revocations(trust(registries=[HUB], signed=[HUB]), pulled, now=NOW)


def test_a_link_in_place_of_the_list_is_refused(registry, pulled, tmp_path):
    put_list(tmp_path, document(registry.name), OWNER)
    (registry.root / REVOCATIONS).symlink_to(tmp_path / REVOCATIONS)
    with pytest.raises(ArtifactFormatError, match="regular"):
        load_revocations(local_trust(registry), pulled, now=NOW)
