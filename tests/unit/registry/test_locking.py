"""What a lock file pins, what stays, what moves, and what is skipped."""

from __future__ import annotations

import shutil

import pytest
from tests.artifact_samples import sample_facts, sample_fields, sample_files, write_folder
from tests.signed_artifacts import ACME, HUB, LAB, NOW, attest_all, release, revocations, revoked, trust, vetting

from steerguard.artifacts.reference import parse_reference
from steerguard.errors import (
    ArtifactFormatError,
    ArtifactNotFoundError,
    LockMismatchError,
    MissingVariantError,
    RevokedError,
    SignatureError,
)
from steerguard.registry.local import create_registry
from steerguard.registry.lockfile import LockedRegistry, lock_bytes, parse_lock
from steerguard.registry.locking import PolicyToLock, differences, make_lock
from steerguard.registry.signed_index import HubEntry
from steerguard.registry.sources import Sources
from steerguard.trust.judge import TrustedJudge

VERSIONS = [("tiny", "1.0.0"), ("tiny", "1.2.0"), ("small", "1.1.0"), ("tiny", "2.0.0")]
TYPES = ("steering_vectors",)
OTHER = "3" * 64


def add(registry, variant, version, **changes):
    folder = registry.root.parent / f"{variant}-{version}-{len(list(registry.root.parent.iterdir()))}"
    registry.add(write_folder(folder, sample_files(variant=variant, version=version, **changes)))


@pytest.fixture
def registry(tmp_path):
    registry = create_registry(tmp_path / "registry")
    for variant, version in VERSIONS:
        add(registry, variant, version)
    return registry


def state(store):
    return LockedRegistry(registry=store.name, index_sequence=None, index_sha256=None, revocations_sequence=None)


def policy(*references, name="test", digest="d", types=TYPES):
    return PolicyToLock(name=name, digest=f"sha256:{digest * 64}", references=dict.fromkeys(references, types))


def made(sources, *references, **options):
    policies = options.pop("policies", [policy(*references)])
    return make_lock(policies, Sources.of(sources), state=state, **options)


def pinned(lock):
    return [f"{one.reference}: {one.variant} {one.version}" for one in lock.artifacts]


def test_every_variant_is_locked_at_its_highest_version(registry):
    lock = made(registry, "inferaligner@^1").lock
    assert pinned(lock) == ["inferaligner@^1: small 1.1.0", "inferaligner@^1: tiny 1.2.0"]
    assert parse_lock(lock_bytes(lock), where="lock") == lock
    (locked,) = [one for one in lock.artifacts if one.variant == "tiny"]
    manifest = next(
        one for one in Sources.of(registry).candidates(parse_reference("inferaligner/tiny@1.2.0"))
    ).pin.manifest
    assert [(one.path, one.sha256, one.size) for one in locked.files] == sorted(
        (one.path, one.sha256, one.size) for one in manifest.files
    )
    assert (locked.repo, locked.commit, locked.signed_by, locked.vetting) == (None, None, (), None)


def test_what_was_locked_can_be_loaded_by_that_lock(registry):
    lock = made(registry, "inferaligner@^1", "inferaligner/tiny").lock
    sources = Sources(default=registry, lock=lock)
    found = [one.pin.reference for one in sources.candidates(parse_reference("inferaligner@^1"))]
    assert found == ["inferaligner/tiny@1.2.0", "inferaligner/small@1.1.0"]
    assert [one.pin.version for one in sources.candidates(parse_reference("inferaligner/tiny@*"))] == ["2.0.0"]


def test_references_of_several_policies_are_locked_once(registry):
    policies = [policy("inferaligner", name="a"), policy("inferaligner@*", "inferaligner@^1", name="b", digest="e")]
    lock = made(registry, policies=policies).lock
    assert {one.reference for one in lock.artifacts} == {"inferaligner@*", "inferaligner@^1"}
    assert [one.references for one in lock.policies] == [("inferaligner",), ("inferaligner@*", "inferaligner@^1")]


def test_for_a_model_only_what_fits_it_is_locked(registry):
    other = sample_fields()["base"] | {"tokenizer_sha256": OTHER}
    add(registry, "alpha", "1.9.0", base=other)
    assert pinned(made(registry, "inferaligner@^1", models=[sample_facts()]).lock) == ["inferaligner@^1: tiny 1.2.0"]
    both = made(registry, "inferaligner@^1", models=[sample_facts(), sample_facts(tokenizer_sha256=OTHER)]).lock
    assert pinned(both) == ["inferaligner@^1: alpha 1.9.0", "inferaligner@^1: tiny 1.2.0"]


def test_a_model_without_a_variant_is_refused(registry):
    with pytest.raises(MissingVariantError, match="fits the model"):
        made(registry, "inferaligner@^1", models=[sample_facts(tokenizer_sha256=OTHER)])


def test_what_is_not_there_is_named(registry):
    with pytest.raises(ArtifactNotFoundError):
        made(registry, "other@^1")
    with pytest.raises(ArtifactNotFoundError, match="No version"):
        made(registry, "inferaligner@^3")


def test_an_artifact_of_another_type_is_refused(registry):
    with pytest.raises(ArtifactFormatError, match="another type"):
        made(registry, policies=[policy("inferaligner@^1", types=("probe",))])
    with pytest.raises(ArtifactFormatError, match="another type"):
        made(registry, policies=[policy("inferaligner@^1"), policy("inferaligner@^1", name="b", types=("probe",))])


def test_a_locked_version_stays_until_it_is_upgraded(registry):
    old = made(registry, "inferaligner@^1").lock
    add(registry, "tiny", "1.3.0")
    add(registry, "alpha", "1.3.0")
    same = made(registry, "inferaligner@^1", old=old).lock
    assert same == old
    assert made(registry, "inferaligner@^1", old=old, upgraded=lambda family: family == "other").lock == old
    new = made(registry, "inferaligner@^1", old=old, upgraded=lambda family: family == "inferaligner").lock
    assert pinned(new) == [f"inferaligner@^1: {one}" for one in ("alpha 1.3.0", "small 1.1.0", "tiny 1.3.0")]
    (before,) = [one.digest for one in old.artifacts if one.variant == "tiny"]
    assert f"- inferaligner@^1: inferaligner/tiny@1.2.0 {before} ({registry.name})" in differences(old, new)
    assert [line[0] for line in differences(old, new)] == ["-", "+", "+"]


def test_for_a_model_a_locked_version_stays_as_well(registry):
    old = made(registry, "inferaligner@^1", models=[sample_facts()]).lock
    add(registry, "tiny", "1.3.0")
    assert made(registry, "inferaligner@^1", models=[sample_facts()], old=old).lock == old
    new = made(registry, "inferaligner@^1", models=[sample_facts()], old=old, upgraded=bool).lock
    assert pinned(new) == ["inferaligner@^1: tiny 1.3.0"]


def test_a_new_reference_takes_the_highest_version(registry):
    old = made(registry, "inferaligner@^1").lock
    add(registry, "tiny", "1.3.0")
    new = made(registry, "inferaligner@^1", "inferaligner/tiny@~1", old=old).lock
    assert "inferaligner/tiny@~1: tiny 1.3.0" in pinned(new)
    assert "inferaligner@^1: tiny 1.2.0" in pinned(new)


def test_what_no_policy_names_any_more_is_dropped(registry):
    old = made(registry, "inferaligner@^1", "inferaligner/tiny@^2").lock
    new = made(registry, "inferaligner@^1", old=old).lock
    assert [line[:2] for line in differences(old, new)] == ["- "]
    assert all("inferaligner/tiny@^2" not in one.reference for one in new.artifacts)


def test_a_changed_policy_is_a_difference(registry):
    old = made(registry, "inferaligner@^1").lock
    new = made(registry, policies=[policy("inferaligner@^1", digest="e")], old=old).lock
    assert differences(old, new) == (f"- policy test sha256:{'d' * 64}", f"+ policy test sha256:{'e' * 64}")
    assert differences(old, old) == ()


def test_other_bytes_under_a_locked_name_are_refused_unless_upgraded(registry, tmp_path):
    old = made(registry, "inferaligner@^1").lock
    shutil.rmtree(registry.root)
    create_registry(registry.root)
    add(registry, "tiny", "1.2.0", license="mit")
    with pytest.raises(LockMismatchError, match="other bytes"):
        made(registry, "inferaligner@^1", old=old)
    assert pinned(made(registry, "inferaligner@^1", old=old, upgraded=bool).lock) == ["inferaligner@^1: tiny 1.2.0"]


def test_a_withdrawn_version_is_replaced_and_seen_in_the_difference(registry):
    old = made(registry, "inferaligner/tiny@^1").lock
    shutil.rmtree(registry.root)
    create_registry(registry.root)
    add(registry, "tiny", "1.0.0")
    new = made(registry, "inferaligner/tiny@^1", old=old).lock
    assert pinned(new) == ["inferaligner/tiny@^1: tiny 1.0.0"]
    assert len(differences(old, new)) == 2


def judged(registry, lists=None, **parts):
    judge = TrustedJudge(trust(registries=[registry.name], **parts), lists or {}, now=lambda: NOW)
    return Sources(default=registry, judge=judge)


def test_a_revoked_version_is_skipped_and_reported(registry):
    attest_all(registry, ACME)
    old = made(judged(registry), "inferaligner/tiny@^1").lock
    assert [one.signed_by for one in old.artifacts] == [(ACME.public.id,)]
    lists = {registry.name: revocations(registry.name, revoked(family="inferaligner", range=">=1.1,<2"))}
    locking = made(judged(registry, lists), "inferaligner/tiny@^1", old=old)
    assert pinned(locking.lock) == ["inferaligner/tiny@^1: tiny 1.0.0"]
    (skipped,) = locking.skipped
    assert (skipped.reference, skipped.registry) == ("inferaligner/tiny@1.2.0", registry.name)
    assert isinstance(skipped.error, RevokedError)


def test_when_everything_is_refused_the_refusal_of_the_highest_version_is_raised(registry):
    with pytest.raises(SignatureError, match=r"tiny@1\.2\.0"):
        made(judged(registry), "inferaligner@^1")
    with pytest.raises(SignatureError, match=r"tiny@1\.2\.0"):
        made(judged(registry), "inferaligner@^1", models=[sample_facts()])


def test_an_unsigned_variant_does_not_disturb_a_signed_one(registry):
    for entry in registry.entries():
        if entry.variant == "tiny":
            for path, content in release(registry.pin(entry).manifest, entry.digest, ACME).items():
                registry.attest(entry, path, content)
    locking = made(judged(registry), "inferaligner@^1")
    assert pinned(locking.lock) == ["inferaligner@^1: tiny 1.2.0"]
    assert [one.reference for one in locking.skipped] == ["inferaligner/small@1.1.0"]


def test_the_evidence_is_written_down(registry):
    attest_all(registry, ACME)
    (entry,) = [one for one in registry.entries() if one.version == "2.0.0"]
    ((path, content),) = vetting(registry.pin(entry).manifest, entry.digest, LAB).items()
    registry.attest(entry, path, content)
    (locked,) = made(judged(registry), "inferaligner@^2").lock.artifacts
    assert locked.signed_by == (ACME.public.id,)
    assert locked.vetting is not None
    assert locked.vetting.level == 2


def test_warnings_are_handed_on(registry):
    allowed = "unsigned_local: {action: allow, reason: built here for tests, expires: 2026-11-30}"
    locking = made(judged(registry, extra=allowed), "inferaligner@2.0.0")
    assert "built here for tests" in locking.warnings[0]


class OnTheHub:
    """A local registry that says of itself that it is on the Hub, with a repository and a commit per artifact."""

    name = HUB

    def __init__(self, registry):
        self._registry = registry

    def entries(self):
        return tuple(
            HubEntry(
                **entry.model_dump(),
                repo=f"acme/{entry.family}",
                commit="c" * 40,
                type="steering_vectors",
                base_model="x",
            )
            for entry in self._registry.entries()
        )

    def __getattr__(self, attribute):
        return getattr(self._registry, attribute)


def test_repository_and_commit_of_the_hub_are_locked(registry):
    attest_all(registry, ACME)
    judge = TrustedJudge(trust(registries=[HUB], signed=[HUB]), {}, now=lambda: NOW)
    sources = Sources(default=registry, judge=judge, remote={HUB: OnTheHub(registry)}.__getitem__)
    lock = make_lock(
        [policy("hf://acme/inferaligner@^2")],
        sources,
        state=lambda store: LockedRegistry(
            registry=store.name, index_sequence=4, index_sha256="1" * 64, revocations_sequence=2
        ),
    ).lock
    (locked,) = lock.artifacts
    assert (locked.registry, locked.repo, locked.commit) == (HUB, "acme/inferaligner", "c" * 40)
    assert lock.registries[0].index_sequence == 4
    assert parse_lock(lock_bytes(lock), where="lock") == lock
