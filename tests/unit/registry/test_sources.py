"""Which artifacts a reference stands for: stores, lock files, what was pulled, and the judge in between."""

from __future__ import annotations

import shutil
from datetime import timedelta

import pytest
from tests.artifact_samples import sample_files, write_folder
from tests.signed_artifacts import ACME, HUB, NOW, STRANGER, attest_all, release, trust

from steerguard.artifacts.manifest import manifest_digest, parse_manifest
from steerguard.artifacts.paths import MANIFEST
from steerguard.artifacts.reference import parse_reference
from steerguard.errors import (
    ArtifactIntegrityError,
    ArtifactNotFoundError,
    LockMismatchError,
    RevokedError,
    SignatureError,
    UnlockedArtifactError,
)
from steerguard.registry.local import create_registry, embedded_registry
from steerguard.registry.lockfile import LockedArtifact, LockedRegistry, lockfile_of
from steerguard.registry.pulled import PulledArtifacts
from steerguard.registry.sources import Sources, local_store, locked_files
from steerguard.registry.store import Evidence, PinnedOnly
from steerguard.trust.judge import TrustedJudge

VERSIONS = [("tiny", "1.0.0"), ("tiny", "1.2.0"), ("small", "1.1.0"), ("tiny", "2.0.0")]
COMMIT = "a" * 40


@pytest.fixture
def registry(tmp_path):
    registry = create_registry(tmp_path / "registry")
    for index, (variant, version) in enumerate(VERSIONS):
        registry.add(write_folder(tmp_path / str(index), sample_files(variant=variant, version=version)))
    return registry


@pytest.fixture
def pulled(tmp_path):
    """A store with version 1.2.0, signed."""
    store = PulledArtifacts(tmp_path / "store")
    files = sample_files(version="1.2.0")
    digest = manifest_digest(files[MANIFEST])
    signed = {**files, **release(parse_manifest(files[MANIFEST]), digest, ACME)}
    with store.one_at_a_time(digest):
        staged = write_folder(store.partial(digest) / "whole", signed)
        store.put(digest, staged)
    return store


def names(sources, text):
    return [f"{one.pin.variant} {one.pin.version}" for one in sources.candidates(parse_reference(text))]


def locked(store, reference, *, registry=None, versions=("1.2.0",), **changes):
    name = registry or store.name
    entries = [entry for entry in store.entries() if entry.version in versions]
    artifacts = [
        LockedArtifact(
            **{
                "reference": reference,
                "registry": name,
                "family": entry.family,
                "variant": entry.variant,
                "version": entry.version,
                "digest": entry.digest,
                "repo": "acme/inferaligner" if name == HUB else None,
                "commit": COMMIT if name == HUB else None,
                "files": locked_files(store.pin(entry).manifest),
                "signed_by": (),
                "vetting": None,
                **changes,
            }
        )
        for entry in entries
    ]
    seen = LockedRegistry(registry=name, index_sequence=None, index_sha256=None, revocations_sequence=None)
    return lockfile_of([], [seen], artifacts)


def test_one_store_is_enough(registry):
    sources = Sources.of(registry)
    assert names(sources, "inferaligner@^1") == ["tiny 1.2.0", "small 1.1.0", "tiny 1.0.0"]
    assert Sources.of(sources) is sources


def test_a_manifest_is_read_when_its_turn_comes(registry):
    for manifest in registry.root.rglob("1.0.0/manifest.json"):
        manifest.write_bytes(b"{}")
    found = Sources.of(registry).candidates(parse_reference("inferaligner/tiny@^1"))
    assert next(found).pin.version == "1.2.0"
    with pytest.raises(ArtifactIntegrityError):
        next(found)


class Watching:
    """A judge that admits everything and looks whether the manifest still parses."""

    def __init__(self, registry):
        self.registry, self.asked = registry, []

    def admit(self, entry, *, registry, attestations):
        self.asked.append((entry.reference, registry, tuple(attestations)))
        return Evidence(publisher="watched")


def test_the_judge_is_asked_before_the_manifest_is_parsed(registry):
    attest_all(registry, ACME)
    for manifest in registry.root.rglob("manifest.json"):
        manifest.write_bytes(b"not JSON")
    judge = Watching(registry)
    with pytest.raises(ArtifactIntegrityError):
        names(Sources(default=registry, judge=judge), "inferaligner@2.0.0")
    assert judge.asked == [("inferaligner/tiny@2.0.0", registry.name, (f"attestations/release.{ACME.public.id}.json",))]


def test_without_a_trust_policy_local_registries_pass_with_empty_evidence(registry):
    (found,) = Sources.of(registry).candidates(parse_reference("inferaligner@2.0.0"))
    assert found.evidence == Evidence()
    assert found.store is registry


@pytest.mark.parametrize("name", [HUB, "pulled", "", "s3://x", "http://x", "Embedded"])
def test_without_a_trust_policy_nothing_else_passes(registry, name):
    with pytest.raises(SignatureError, match="no trust policy"):
        PinnedOnly().admit(registry.entries()[0], registry=name, attestations={})


def judge_of(registry, **parts):
    return TrustedJudge(trust(registries=[registry.name, HUB], signed=[HUB], **parts), {}, now=lambda: NOW)


def test_a_lower_version_is_not_offered_in_place_of_a_refused_one(registry):
    attest_all(registry, ACME)
    shutil.rmtree(registry.root / "inferaligner" / "tiny" / "1.2.0" / "attestations")
    sources = Sources(default=registry, judge=judge_of(registry))
    with pytest.raises(SignatureError, match=r"inferaligner/tiny@1\.2\.0"):
        names(sources, "inferaligner/tiny@^1")
    found = list(take(sources.candidates(parse_reference("inferaligner@^1")), 1))
    assert [one.pin.reference for one in found] == ["inferaligner/small@1.1.0"]
    assert "inferaligner/tiny@1.2.0" in found[0].evidence.warnings[0]


def take(candidates, count):
    for _ in range(count):
        yield next(candidates)


def test_the_first_refusal_is_raised_when_nothing_is_left(registry):
    with pytest.raises(SignatureError, match=r"inferaligner/tiny@2\.0\.0"):
        names(Sources(default=registry, judge=judge_of(registry)), "inferaligner")


def test_remote_artifacts_must_be_locked_in_mode_enforce(registry):
    asked = []
    sources = Sources(default=registry, judge=judge_of(registry), remote=asked.append)
    with pytest.raises(UnlockedArtifactError, match="mode is enforce"):
        names(sources, "hf://acme/inferaligner@^1")
    assert asked == []


class Remote:
    """A remote store: a local registry under the name of an organisation on the Hub."""

    name = HUB

    def __init__(self, registry):
        self._registry = registry

    def __getattr__(self, attribute):
        return getattr(self._registry, attribute)


def test_a_remote_default_store_must_be_locked_as_well(registry):
    with pytest.raises(UnlockedArtifactError):
        names(Sources(default=Remote(registry), judge=judge_of(registry)), "inferaligner@^1")


def test_in_other_modes_remote_artifacts_are_read_and_judged(registry):
    attest_all(registry, ACME)
    sources = Sources(
        default=embedded_registry(), judge=judge_of(registry), remote={HUB: Remote(registry)}.__getitem__, enforce=False
    )
    assert names(sources, "hf://acme/inferaligner@2.0.0") == ["tiny 2.0.0"]
    assert names(Sources(default=Remote(registry), judge=judge_of(registry), enforce=False), "inferaligner@^2") == [
        "tiny 2.0.0"
    ]
    with pytest.raises(SignatureError):
        names(
            Sources(default=embedded_registry(), remote={HUB: Remote(registry)}.__getitem__, enforce=False),
            "hf://acme/inferaligner@^2",
        )
    with pytest.raises(SignatureError, match="under a trust policy"):
        names(Sources(default=embedded_registry(), enforce=False), "hf://acme/inferaligner@^2")


def test_a_lock_decides_although_there_are_higher_versions(registry):
    lock = locked(registry, "inferaligner@^1", versions=("1.0.0",))
    assert names(Sources(default=registry, lock=lock), "inferaligner@^1") == ["tiny 1.0.0"]


def test_locked_variants_come_highest_version_first(registry):
    lock = locked(registry, "inferaligner@*", versions=("1.0.0", "1.1.0", "2.0.0"))
    assert names(Sources(default=registry, lock=lock), "inferaligner") == ["tiny 2.0.0", "small 1.1.0", "tiny 1.0.0"]


def test_a_reference_that_is_not_locked_is_refused_even_of_a_local_registry(registry):
    lock = locked(registry, "inferaligner@^1")
    with pytest.raises(UnlockedArtifactError, match="does not have the reference"):
        names(Sources(default=registry, lock=lock, enforce=False), "inferaligner@^1.2")


@pytest.mark.parametrize("reference", ["inferaligner@^2", "inferaligner/small@^1", "other@^1"])
def test_a_lock_that_does_not_fit_its_reference_is_refused(registry, reference):
    lock = locked(registry, reference)
    with pytest.raises(LockMismatchError, match="something else"):
        names(Sources(default=registry, lock=lock), reference)


def test_a_lock_of_another_registry_is_refused(registry, tmp_path):
    other = create_registry(tmp_path / "other")
    lock = locked(registry, "inferaligner@^1")
    with pytest.raises(LockMismatchError):
        names(Sources(default=other, lock=lock), "inferaligner@^1")
    # The embedded registry is the default of those who name none: then the lock says which it is.
    assert names(Sources(default=embedded_registry(), lock=lock), "inferaligner@^1") == ["tiny 1.2.0"]


def test_a_reference_to_a_registry_is_not_satisfied_by_another(registry, tmp_path):
    other = create_registry(tmp_path / "other")
    reference = f"{other.name}#inferaligner@^1"
    lock = locked(registry, reference)
    with pytest.raises(LockMismatchError):
        names(Sources(default=registry, lock=lock), reference)


def test_other_bytes_under_the_locked_name_are_refused_before_they_are_read(registry, tmp_path):
    lock = locked(registry, "inferaligner@^1")
    (replaced,) = [entry for entry in registry.entries() if entry.version == "1.2.0"]
    other = create_registry(tmp_path / "other")
    other.add(write_folder(tmp_path / "changed", sample_files(version="1.2.0", license="mit")))
    shutil.rmtree(registry.root)
    other.root.rename(registry.root)
    with pytest.raises(LockMismatchError, match="other bytes") as caught:
        names(Sources(default=registry, lock=lock), "inferaligner@^1")
    assert caught.value.expected == replaced.digest


def test_a_locked_artifact_that_is_gone_is_named(registry, tmp_path):
    lock = locked(registry, "inferaligner@^1")
    shutil.rmtree(registry.root)
    create_registry(registry.root)
    with pytest.raises(ArtifactNotFoundError, match="does not have the locked artifact"):
        names(Sources(default=registry, lock=lock), "inferaligner@^1")


def test_a_lock_that_lists_other_files_than_the_manifest_is_refused(registry):
    (entry,) = [one for one in registry.entries() if one.version == "2.0.0"]
    lock = locked(registry, "inferaligner@^1", files=locked_files(registry.pin(entry).manifest)[:2])
    with pytest.raises(LockMismatchError, match="other files"):
        names(Sources(default=registry, lock=lock), "inferaligner@^1")


def test_a_locked_remote_artifact_is_read_from_this_machine_only(registry, pulled):
    def network(name):
        raise AssertionError(name)

    for default, reference in ((registry, "hf://acme/inferaligner@^1"), (embedded_registry(), "inferaligner@^1")):
        lock = locked(pulled, reference, registry=HUB)
        sources = Sources(default=default, lock=lock, pulled=pulled, judge=judge_of(registry), remote=network)
        (found,) = sources.candidates(parse_reference(reference))
        assert found.store is pulled
        assert found.pin.reference == "inferaligner/tiny@1.2.0"
        assert found.evidence.signed_by == (ACME.public.id,)


def test_a_locked_remote_artifact_is_judged_again(registry, pulled):
    lock = locked(pulled, "hf://acme/inferaligner@^1", registry=HUB)
    for judge in (PinnedOnly(), judge_of(registry, keys=[STRANGER])):
        with pytest.raises(SignatureError):
            names(Sources(default=registry, lock=lock, pulled=pulled, judge=judge), "hf://acme/inferaligner@^1")
    late = TrustedJudge(
        trust(registries=[HUB], signed=[HUB], extra=f'revoked_keys: ["{ACME.public.id}"]'),
        {},
        now=lambda: NOW + timedelta(days=1),
    )
    with pytest.raises(RevokedError):
        names(Sources(default=registry, lock=lock, pulled=pulled, judge=late), "hf://acme/inferaligner@^1")


def test_a_locked_remote_artifact_that_was_not_pulled_asks_for_sync(registry, pulled, tmp_path):
    lock = locked(pulled, "hf://acme/inferaligner@^1", registry=HUB)
    for store in (None, PulledArtifacts(tmp_path / "empty")):
        with pytest.raises(ArtifactNotFoundError, match="steerguard sync"):
            names(
                Sources(default=registry, lock=lock, pulled=store, judge=judge_of(registry)),
                "hf://acme/inferaligner@^1",
            )


@pytest.mark.parametrize(
    "form", ["{parent}/elsewhere/../{name}", "{parent}/./{name}", "{parent}/{name}/", "{parent}/%72egistry"]
)
def test_a_locked_registry_has_one_name(registry, form):
    """A pattern of a trust policy must not admit a folder by a name that leads somewhere else."""
    parent, _, name = registry.name.rpartition("/")
    lock = locked(registry, "inferaligner@^1", registry=form.format(parent=parent, name=name))
    judge = judge_of(registry)
    with pytest.raises(LockMismatchError, match="other name"):
        names(Sources(default=embedded_registry(), lock=lock, judge=judge), "inferaligner@^1")


def test_a_local_registry_is_found_by_its_name(registry):
    assert local_store(registry.name).root == registry.root
    assert local_store("embedded").root == embedded_registry().root
    for name in (HUB, "file://relative", "elsewhere", "file:///srv/%00registry"):
        with pytest.raises(ArtifactNotFoundError, match="no such local registry"):
            local_store(name)
