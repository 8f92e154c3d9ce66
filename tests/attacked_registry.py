"""A whole registry under attack: a hub with two signed versions, a reader with a store and a lock, a model to guard.

What is honest is made once for the run and copied for each test. `Scene` has the ways in (`sync`, `load`, `wrap`) and
the two questions that every attack is asked: does anything load that nobody vouched for, and is anything lost after it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from tests.attacked_artifacts import (
    FAMILY,
    INDEX_REPO,
    NEW,
    OLD,
    ORGANISATION,
    POLICY,
    REFERENCE,
    REPO,
    VARIANT,
    artifact_files,
    pinned,
    present,
    trusts,
    vouched,
    write,
)
from tests.guarded_models import conversation, memory_log, shared_model, state_of, tokenizer
from tests.loopback_hubs import client_online, footing
from tests.signed_artifacts import ACME, ACME_NEXT, HUB, OWNER, put_list, revocations

import steerguard
from steerguard.artifacts.manifest import manifest_digest
from steerguard.artifacts.paths import MANIFEST
from steerguard.artifacts.reference import parse_reference
from steerguard.artifacts.verify import verify_artifact
from steerguard.canonical import sha256_hex
from steerguard.errors import SteerguardError
from steerguard.hub.client import HubClient
from steerguard.hub.publish import publish
from steerguard.hub.registry import HubRegistry
from steerguard.hub.sync import SyncReport, sync
from steerguard.plan.resolve import artifact_needs
from steerguard.policy.load import parse_policy
from steerguard.registry.local import LocalDirectory, create_registry
from steerguard.registry.lockfile import LockedFile, LockedRegistry, Lockfile, lockfile_of, read_lock, write_lock
from steerguard.registry.locking import PolicyToLock, make_lock
from steerguard.registry.pulled import PulledArtifacts
from steerguard.registry.signed_index import (
    SIGNED_INDEX,
    SIGNED_INDEX_TYPE,
    HubEntry,
    signed_index_bytes,
    signed_index_of,
)
from steerguard.registry.sources import Sources
from steerguard.signing.dsse import sign
from steerguard.sourcing import Sourcing, open_sources
from steerguard.testing import LoopbackHub
from steerguard.trust.document import TrustPolicy
from steerguard.trust.judge import TrustedJudge

Errors = type[SteerguardError] | tuple[type[SteerguardError], ...]


def lock_of(policy: Any, registry: HubRegistry, trust: TrustPolicy) -> Lockfile:
    """Lock the policy at what the registry offers now."""
    state = registry.state()
    seen = LockedRegistry(
        registry=HUB,
        index_sequence=state.index.sequence,
        index_sha256=state.index_sha256,
        revocations_sequence=state.revocations.sequence,
    )
    wanted = PolicyToLock(name="attacked", digest=policy.digest, references=artifact_needs(policy))
    judge = TrustedJudge(trust, {HUB: state.revocations})
    sources = Sources(default=registry, judge=judge, remote=lambda _: registry, enforce=False)
    return make_lock([wanted], sources, state=lambda _: seen).lock


@dataclass(kw_only=True)
class Local:
    """A local registry with both versions, its list of revocations, and a trust policy for it."""

    scene: Scene
    registry: LocalDirectory
    trust: TrustPolicy

    @property
    def reference(self) -> str:
        return f"{self.registry.name}#harmful-intent@^1"

    def load(self, **named: Any) -> dict[str, bytes]:
        """Return the verified bytes of the highest version."""
        given = {"trust": self.trust, "lock": None, "references": [self.reference], **named}
        return self.scene.load(self.reference, **given)

    def works(self) -> None:
        assert self.load() == pinned(self.scene.published[NEW])


def local_registry(scene: Scene, **changes: Any) -> Local:
    """Make a local registry from what is published on the hub."""
    registry = create_registry(scene.folder / "local")
    for version in (OLD, NEW):
        registry.add(scene.folder / version)
    put_list(registry.root, revocations(registry.name, issued=present()), OWNER)
    trust = trusts(registries=[registry.name], signed=[registry.name], **changes)
    return Local(scene=scene, registry=registry, trust=trust)


@dataclass(kw_only=True)
class Scene:
    """One reader of one hub; `hub` and `store` are the attacker's to spoil."""

    folder: Path
    hub: LoopbackHub
    store: PulledArtifacts
    trust: TrustPolicy
    policy: Any
    lock: Lockfile
    published: Mapping[str, Mapping[str, bytes]] = field(repr=False)
    """By version the files as they were published."""

    @property
    def lock_path(self) -> Path:
        return self.folder / "steerguard.lock"

    @property
    def client(self) -> HubClient:
        """The reader's, without a token."""
        return HubClient(self.hub.endpoint, progress=False)

    @property
    def owner(self) -> HubClient:
        """The publisher's, with a token that may write."""
        return HubClient(self.hub.endpoint, self.hub.token, progress=False)

    @property
    def desk(self) -> PulledArtifacts:
        """The publisher's store."""
        return PulledArtifacts(self.folder / "desk")

    @property
    def digest(self) -> str:
        """Of the locked artifact."""
        return self.lock.artifacts[0].digest

    @property
    def commit(self) -> str:
        """The locked commit."""
        return self.lock.artifacts[0].commit

    @property
    def placed(self) -> Path:
        """Where the locked artifact lies in the reader's store."""
        return self.store.folder(self.digest)

    @property
    def keys(self) -> tuple:
        return self.trust.keys_of_registry(HUB, present())

    def registry(self, store: PulledArtifacts | None = None, **named: Any) -> HubRegistry:
        """The registry as a reader without a lock sees it."""
        given = {"client": self.client, "pulled": store or self.store, "index_keys": self.keys, **named}
        return HubRegistry(ORGANISATION, **given)

    def new_machine(self) -> None:
        """Go on with an empty store: nothing pulled, nothing remembered."""
        shutil.rmtree(self.store.root)

    def forget_artifact(self) -> None:
        """Take the locked artifact out of the store; what is remembered of the registry stays."""
        shutil.rmtree(self.placed)

    def sync(self, lock: Lockfile | None = None, **named: Any) -> SyncReport:
        """What `steerguard sync` does."""
        judge = TrustedJudge(self.trust, {})
        return sync(lock or self.lock, self.store, self.client, index_keys={HUB: self.keys}, judge=judge, **named)

    def sources(self, **named: Any) -> Sourcing:
        """Where `wrap` would take artifacts from."""
        given = {"trust": self.trust, "lock": self.lock, "references": [REFERENCE], "pulled": self.store, **named}
        return open_sources(None, **given)

    def load(self, reference: str = REFERENCE, **named: Any) -> dict[str, bytes]:
        """Return the verified bytes of the first artifact that the reader would use."""
        found = next(self.sources(**named).sources.candidates(parse_reference(reference)))
        files = found.store.read(found.pin)
        verify_artifact(files, found.pin.digest, where=found.pin.reference)
        return pinned(files)

    @contextmanager
    def wrapped(self, **named: Any):
        """The tiny model under a guard made from the lock, with what the reader has on this machine."""
        log = memory_log()
        given = {"trust": self.trust, "lock": self.lock, "audit": log, **named}
        try:
            model = steerguard.wrap(shared_model(), self.policy, tokenizer=tokenizer(), **given)
            try:
                yield model
            finally:
                steerguard.unwrap(model)
        finally:
            log.close()

    def wrap(self, **named: Any) -> None:
        """Wrap the model, judge one prompt with the artifact, and unwrap."""
        with self.wrapped(**named) as model:
            model.guard.check([conversation("hello there")])

    def refuses(self, error: Errors, call: Callable[[], object], *names: str, wrap: bool = False) -> SteerguardError:
        """The call raises this error and names these things; with `wrap`, so does wrapping, and the model stays as it is.

        Returns the error.
        """
        with pytest.raises(error) as caught:
            call()
        self._tells(caught.value, names)
        if wrap:
            self.wrap_refuses(error)
        return caught.value

    def wrap_refuses(self, error: Errors, *names: str, **named: Any) -> None:
        """Wrapping raises this error, and no byte of the model has changed."""
        model = shared_model()
        before = state_of(model)
        with pytest.raises(error) as caught, self.wrapped(**named):
            pytest.fail("the model was wrapped")
        self._tells(caught.value, names)
        assert state_of(model) == before

    def _tells(self, error: SteerguardError, names: tuple[str, ...]) -> None:
        """An error names these things, and never the token."""
        for name in names:
            assert name in str(error), f"{name!r} is not in: {error}"
        assert self.hub.token not in str(error)

    def works(self, version: str = NEW) -> None:
        """Nothing is lost: after one more sync the published bytes load, and the model can be wrapped."""
        self.sync()
        assert self.load() == pinned(self.published[version])
        self.wrap()

    def publish(self, folder: Path, **named: Any):
        """Publish as the honest publisher does."""
        given = {
            "organisation": ORGANISATION,
            "pulled": self.desk,
            "signer": OWNER,
            "release_keys": (ACME.public, ACME_NEXT.public),
            **footing(self.hub),
            **named,
        }
        return publish(self.owner, folder, **given)

    def relocked(self, **changes: Any) -> Lockfile:
        """The lock with its artifact changed and its own digest computed again, as a careful attacker leaves it."""
        return lockfile_of(
            self.lock.policies, self.lock.registries, [self.lock.artifacts[0].model_copy(update=changes)]
        )

    def serve(self, files: Mapping[str, bytes], *, delete=(), commit: str | None = None) -> None:
        """Make the hub show other files at a commit that readers have pinned, as its operator could."""
        repository = self.hub.repository(REPO)
        at = commit or self.commit
        head = repository.head
        there = {path: repository.read(file) for path, file in repository.history.commits[at].files.items()}
        shown = {path: content for path, content in {**there, **files}.items() if path not in set(delete)}
        stand_in = repository.plant(shown, delete=set(repository.files()) - set(shown))

        def lie(history):
            told = replace(history.commits[at], files=history.commits[stand_in].files)
            return replace(
                history,
                commits={**history.commits, at: told},
                branches={**history.branches, "main": head},
            )

        repository.change(lie)

    def plant_index(self, name: str, content: bytes | None) -> None:
        """Put a document into the index repository, or take it away, whatever its owner says."""
        repository = self.hub.repository(INDEX_REPO, "dataset")
        repository.plant({} if content is None else {name: content}, delete=[name] if content is None else [])

    def index_file(self, name: str) -> bytes:
        """A document as the hub shows it now."""
        return self.hub.repository(INDEX_REPO, "dataset").files()[name]

    @contextmanager
    def index_hidden_behind(self, files: Mapping[str, bytes | None]):
        """The index repository shows these documents within the block, and afterwards what it showed before."""
        before = {name: self.index_file(name) for name in files}
        for name, content in files.items():
            self.plant_index(name, content)
        yield
        for name, content in before.items():
            self.plant_index(name, content)

    def list_signed(self, files: Mapping[str, bytes], version: str = "1.2.0", **changes: Any) -> Lockfile:
        """Put any files on the hub and list them in a rightly signed index; return a lock that pins them.

        This is what somebody with the registry's own key can do.
        """
        repository = self.hub.repository(REPO)
        commit = repository.plant(files, delete=set(repository.files()) - set(files))
        named = {"family": FAMILY, "variant": VARIANT, "version": version, "type": "probe", "base_model": "random"}
        entry = HubEntry(**named, repo=REPO, commit=commit, digest=manifest_digest(files[MANIFEST]))
        index = self.registry(self.desk).state().index
        self.sign_index((*(one for one in index.artifacts if one.version != version), entry), index.sequence + 1)
        listed = [
            LockedFile(path=path, sha256=sha256_hex(content), size=len(content))
            for path, content in sorted(pinned(files).items())
            if path != MANIFEST
        ]
        return self.relocked(version=version, digest=entry.digest, commit=commit, files=tuple(listed), **changes)

    def sign_index(self, entries, sequence: int, *, age: timedelta = timedelta(0), signer=OWNER) -> None:
        """Show an index of these entries."""
        issued = present() - age
        index = signed_index_of(HUB, entries, sequence=sequence, issued=issued, expires=issued + timedelta(days=30))
        self.plant_index(SIGNED_INDEX, sign(signed_index_bytes(index), SIGNED_INDEX_TYPE, [signer]))

    def entry(self, version: str = NEW) -> HubEntry:
        """The entry of a published version in the honest index."""
        return next(one for one in self.registry().entries() if one.version == version)


def make_honest(root: Path) -> None:
    """Publish two versions, lock the newer one and pull it, all below `root`."""
    with served(root) as hub:
        scene = _scene(root, hub)
        for version in (OLD, NEW):
            scene.publish(write(root / version, vouched(artifact_files(version))))
        lock = lock_of(scene.policy, scene.registry(), scene.trust)
        write_lock(scene.lock_path, lock)
        scene.sync(lock)


@contextmanager
def attacked_scene(honest: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A copy of what `make_honest` made, served."""
    shutil.copytree(honest, folder)
    with served(folder) as hub:
        monkeypatch.setenv("STEERGUARD_STORE", str(folder / "store"))
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield _scene(folder, hub)


@contextmanager
def served(folder: Path):
    """The hub of a scene's folder, with the client of this process on it."""
    disable_progress_bars()
    try:
        with LoopbackHub(folder / "hub", token="hf_owner") as hub, client_online(hub, folder / "home"):
            yield hub
    finally:
        enable_progress_bars()


def _scene(folder: Path, hub: LoopbackHub) -> Scene:
    published = {
        version: {
            path.relative_to(folder / version).as_posix(): path.read_bytes()
            for path in sorted((folder / version).rglob("*"))
            if path.is_file()
        }
        for version in (OLD, NEW)
    }
    lock_path = folder / "steerguard.lock"
    return Scene(
        folder=folder,
        hub=hub,
        store=PulledArtifacts(folder / "store"),
        trust=trusts(),
        policy=parse_policy(POLICY, file="attacked.yaml"),
        lock=read_lock(lock_path) if lock_path.exists() else None,
        published=published,
    )
