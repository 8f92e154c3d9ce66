"""A registry whose programs are killed: seven commands, a world before each of them, and what must hold after a kill.

The world is made once by the commands themselves and copied for each case. A case begins a command, kills it at some
moment, looks whether everything that loads is what was published, and runs the same command again.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from tests.attacked_artifacts import (
    NEW,
    OLD,
    POLICY,
    REFERENCE,
    REQUIRE,
    artifact_files,
    pinned,
    present,
    vouched,
    write,
)
from tests.command_forks import CommandForks, kill
from tests.signed_artifacts import HUB, OWNER, trust_text

from steerguard.artifacts.manifest import manifest_digest, parse_manifest
from steerguard.artifacts.paths import MANIFEST
from steerguard.artifacts.reference import parse_reference
from steerguard.errors import ArtifactNotFoundError, SteerguardError
from steerguard.registry.local import LocalDirectory
from steerguard.registry.lockfile import read_lock
from steerguard.registry.pulled import PulledArtifacts
from steerguard.registry.signed_index import SIGNED_INDEX, verified_index
from steerguard.signing.keys import SigningKey
from steerguard.sourcing import open_sources
from steerguard.testing import LoopbackHub
from steerguard.testing.loopback_hub.journal import Exchange
from steerguard.trust.load import load_trust

NEXT = "1.2.0"
NEWCOMER = "hf://newcomer"
KEY = "owner.pem"
LOCKS = ("steerguard.lock", "new.lock")
STORES = ("store", "desk")
LOCAL = ("local", "fresh")
TOKEN = "hf_owner"
SIGNED = ("--key", KEY, "--trust", "trust.yaml")


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A command that is killed."""

    words: tuple[str, ...]
    store: str = "store"
    slow: str | None = None
    """Glob over paths of the hub whose bodies take long, so that kills fall into them."""


OPERATIONS: Mapping[str, Operation] = {
    "pull": Operation(words=("registry", "pull", REFERENCE, "--trust", "trust.yaml"), slow="*/weights/*"),
    "pull more": Operation(words=("registry", "pull", f"{HUB}/harmful-intent@{OLD}", "--trust", "trust.yaml")),
    "sync": Operation(words=("sync", "--lock", "new.lock", "--trust", "trust.yaml"), slow="*/weights/*"),
    "lock": Operation(words=("lock", "policy.yaml", "--trust", "trust.yaml", "--upgrade")),
    "publish": Operation(words=("registry", "publish", NEXT, "--registry", HUB, *SIGNED), store="desk"),
    "publish first": Operation(
        words=("registry", "publish", NEXT, "--registry", NEWCOMER, *SIGNED, "--new-registry"), store="desk"
    ),
    "add": Operation(words=("registry", "publish", NEXT, "--registry", "local"), store="desk"),
    "add first": Operation(words=("registry", "publish", NEXT, "--registry", "fresh"), store="desk"),
}


@dataclass(frozen=True, kw_only=True)
class Usual:
    """What an operation does when nobody kills it."""

    seconds: float
    """Of the slowest of some runs."""
    requests: int
    state: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Point:
    """When to kill: so many seconds after the beginning, or when the hub has carried out that many requests."""

    seconds: float | None = None
    requests: int | None = None


class World:
    """One copy of everything: a hub, two stores, local registries, lock files."""

    def __init__(self, folder: Path, forks: CommandForks) -> None:
        self.folder = folder
        self._forks = forks
        self._lock = threading.Lock()
        self._pid = threading.Event()
        self._running = 0
        self._kill_at: int | None = None
        self._seen = 0
        self.hub = LoopbackHub(folder / "hub", token=TOKEN, on_request=self._asked)

    def run(self, operation: Operation, *, kill_at: Point | None = None) -> int:
        """Carry out a command, killed at a point; return its exit status."""
        self._pid.clear()
        with self._lock:
            self._seen, self._kill_at = 0, None if kill_at is None else kill_at.requests
        environment = {
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_TOKEN": TOKEN,
            "STEERGUARD_STORE": str(self.folder / operation.store),
        }
        fault = None if operation.slow is None else self.hub.fault("slow", match=operation.slow, seconds=0.1)
        self._running = self._forks.start(operation.words, folder=self.folder, environment=environment)
        self._pid.set()
        if kill_at is not None and kill_at.seconds is not None:
            time.sleep(kill_at.seconds)
            kill(self._running)
        status = self._forks.end(self._running)
        if fault is not None:
            self.hub.lift_faults()
        return status

    def must(self, operation: Operation) -> None:
        """Carry out a command that must succeed."""
        status = self.run(operation)
        assert status == 0, f"{operation.words}: status {status}\n{(self.folder / 'said.log').read_text()}"

    @property
    def requests(self) -> int:
        """How many requests the last command made."""
        return self._seen

    def _asked(self, exchange: Exchange) -> None:
        """Kill the command once the hub has carried out a request, before it answers."""
        del exchange
        with self._lock:
            self._seen += 1
            meant = self._seen == self._kill_at
        if meant:
            self._pid.wait()
            kill(self._running)

    def loads(self) -> frozenset[str]:
        """Name everything that loads now, after making sure that it is what was published, byte for byte."""
        published = published_in(self.folder)
        found = set[str]()
        for name in STORES:
            store = PulledArtifacts(self.folder / name)
            for entry in store.entries():
                assert store.sound(entry.digest), f"{name} holds half an artifact: {entry.reference}"
                assert pinned(store.read(store.pin(entry))) == pinned(published[entry.digest])
                found.add(f"{name}: {entry.reference}")
        for name in LOCAL:
            found |= {f"{name}: {reference}" for reference in self._local(self.folder / name, published)}
        for registry in (HUB, NEWCOMER):
            found |= {f"{registry}: {reference}" for reference in self.listed(registry)}
        for name in LOCKS:
            lock = read_lock(self.folder / name)
            found |= {f"{name} {lock.content_sha256}: {one}" for one in self._locked(name, published)}
        return frozenset(found)

    def listed(self, registry: str) -> dict[str, str]:
        """Return what a registry's signed index lists, after making sure that its commits hold all of it."""
        organisation, published = registry.removeprefix("hf://"), published_in(self.folder)
        try:
            content = self.hub.repository(f"{organisation}/steerguard-index", "dataset").files().get(SIGNED_INDEX)
        except ArtifactNotFoundError:
            return {}
        if content is None:
            return {}
        index, _ = verified_index(content, [OWNER.public], registry=registry, where="index")
        for entry in index.artifacts:
            files = dict(self.hub.repository(entry.repo).files(entry.commit))
            files.pop(".gitattributes", None)
            assert files == published[entry.digest], f"{registry} lists half an artifact: {entry.reference}"
        return {entry.reference: f"{entry.digest} at {entry.commit}" for entry in index.artifacts}

    def state(self) -> dict[str, object]:
        """Describe everything as an operation leaves it, but for commits, whose ids have their time in them."""
        kept = (*STORES, *LOCAL)
        state: dict[str, object] = {name: tree(self.folder / name) for name in kept}
        state["folder"] = sorted(
            one.name for one in self.folder.iterdir() if one.name not in {*kept, "said.log", "hub"}
        )
        state["locks"] = {name: (self.folder / name).read_bytes() for name in LOCKS}
        for registry in (HUB, NEWCOMER):
            listed = self.listed(registry)
            state[registry] = {name: digest.split()[0] for name, digest in listed.items()}
            state[f"{registry} tags"] = self._tags(registry, listed)
            state[f"{registry} sequence"] = self._sequence(registry)
        return state

    def _sequence(self, registry: str) -> int:
        if not self.listed(registry):
            return 0
        organisation = registry.removeprefix("hf://")
        content = self.hub.repository(f"{organisation}/steerguard-index", "dataset").files()[SIGNED_INDEX]
        return verified_index(content, [OWNER.public], registry=registry, where="index")[0].sequence

    def _tags(self, registry: str, listed: Mapping[str, str]) -> dict[str, str]:
        if not listed:
            return {}
        repository = self.hub.repository(f"{registry.removeprefix('hf://')}/harmful-intent_tiny")
        return {tag: manifest_digest(repository.files(commit)[MANIFEST]) for tag, commit in repository.tags.items()}

    def _local(self, root: Path, published: Mapping[str, Mapping[str, bytes]]) -> set[str]:
        registry = LocalDirectory(root)
        try:
            entries = registry.entries()
        except (ArtifactNotFoundError, SteerguardError):
            # A registry that was never finished lists nothing; the run that follows must make it.
            return set()
        for entry in entries:
            files = dict(registry.read(registry.pin(entry)))
            assert pinned(files) == pinned(published[entry.digest])
            assert files.items() <= published[entry.digest].items()
        return {entry.reference for entry in entries}

    def _locked(self, name: str, published: Mapping[str, Mapping[str, bytes]]) -> set[str]:
        """Name what a guard would load with a lock file; what it refuses is refused by a documented error."""
        given = {"trust": load_trust(self.folder / "trust.yaml"), "pulled": PulledArtifacts(self.folder / "store")}
        try:
            sources = open_sources(None, lock=self.folder / name, references=[REFERENCE], **given).sources
            found = list(sources.candidates(parse_reference(REFERENCE)))
        except SteerguardError:
            return set()
        for one in found:
            assert pinned(one.store.read(one.pin)) == pinned(published[one.pin.digest])
        return {one.pin.reference for one in found}


def published_in(folder: Path) -> dict[str, Mapping[str, bytes]]:
    """Return the files of every version by digest, as its publisher wrote them."""
    found = {}
    for version in (OLD, NEW, NEXT):
        root = folder / version
        files = {one.relative_to(root).as_posix(): one.read_bytes() for one in root.rglob("*") if one.is_file()}
        assert parse_manifest(files[MANIFEST]).version == version
        found[manifest_digest(files[MANIFEST])] = files
    return found


def tree(folder: Path) -> list[str]:
    """Return every path below a folder, sorted."""
    return sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*"))


def make_world(folder: Path, forks: CommandForks) -> None:
    """Make what every case begins with: 1.0.0 locked, pulled and vetted again since, 1.1.0 published, 1.2.0 not yet."""
    for version in (OLD, NEW, NEXT):
        write(folder / version, vouched(artifact_files(version)))
    text = trust_text(registries=[HUB], require=REQUIRE, signed=[HUB])
    (folder / "trust.yaml").write_text(text)
    (folder / "policy.yaml").write_text(POLICY.lstrip())
    _write_key(folder / KEY)
    world = World(folder, forks)

    def do(*words: str, store: str = "store") -> None:
        world.must(Operation(words=words, store=store))

    with world.hub:
        do("registry", "publish", OLD, "--registry", HUB, *SIGNED, "--new-registry", store="desk")
        do("registry", "publish", OLD, "--registry", "local")
        do("lock", "policy.yaml", "--trust", "trust.yaml")
        do("sync", "--trust", "trust.yaml")
        for days in range(2, 6):
            write(folder / OLD, vouched(artifact_files(OLD), vetted=present() - timedelta(days=days)))
        do("registry", "publish", OLD, "--registry", HUB, *SIGNED, store="desk")
        do("registry", "publish", NEW, "--registry", HUB, *SIGNED, store="desk")
        do("lock", "policy.yaml", "--trust", "trust.yaml", "--out", "new.lock", store="elsewhere")
        do("registry", "revoke", "--registry", HUB, "--key-id", f"ed25519-{'0' * 16}", *SIGNED, store="desk")
    shutil.rmtree(folder / "elsewhere")


class Crashes:
    """Kills operations at points and says what was found; knows how long each one usually takes.

    Args:
        folder: an empty folder.
        forks: the server that commands are forked from.
    """

    def __init__(self, folder: Path, forks: CommandForks) -> None:
        self._forks = forks
        self._honest = folder / "honest"
        self._cases = folder / "cases"
        self._honest.mkdir()
        self._cases.mkdir()
        self._usual: dict[str, Usual] = {}
        make_world(self._honest, forks)

    def usual(self, name: str, *, runs: int = 2) -> Usual:
        """Return what an operation does when nobody kills it."""
        if name not in self._usual:
            seconds = []
            for _ in range(runs):
                world = self._world()
                with world.hub:
                    start = time.perf_counter()
                    world.must(OPERATIONS[name])
                    seconds.append(time.perf_counter() - start)
                    requests, state = world.requests, world.state()
                shutil.rmtree(world.folder)
            self._usual[name] = Usual(seconds=max(seconds), requests=requests, state=state)
        return self._usual[name]

    def killed(self, name: str, draw: random.Random) -> Point:
        """Kill an operation at a random point, look, run it again and look; return the point.

        Raises:
            AssertionError: something unverified loads, something valid is lost, or the second run does not end as usual.

        Half of the points are requests of the hub where there are any; the others are times. A command that has ended
        before its time is begun anew, with another point.
        """
        usual = self.usual(name)
        while True:
            point = Point(seconds=draw.uniform(0, usual.seconds))
            if usual.requests and draw.random() < 0.5:
                point = Point(requests=draw.randint(1, usual.requests))
            if self._case(name, point, usual):
                return point

    def _case(self, name: str, point: Point, usual: Usual) -> bool:
        world, operation = self._world(), OPERATIONS[name]
        with world.hub:
            before = world.loads()
            locks = _locks(world)
            status = world.run(operation, kill_at=point)
            if status == 0:
                shutil.rmtree(world.folder)
                return False
            assert status == -9, f"status {status}\n{(world.folder / 'said.log').read_text()}"
            after, now = world.loads(), _locks(world)
            for lock, content in now.items():
                assert content in (locks[lock], usual.state["locks"][lock]), (
                    f"{lock} is neither the old nor the new one"
                )
            # What an old lock file loaded is no loss where the new one stands in its place.
            lost = {one for one in before - after if not _is_replaced(one, locks, now)}
            assert not lost, f"{name} killed at {point}: lost {sorted(lost)}"
            world.must(operation)
            world.loads()
            _compare(world.state(), usual.state, f"{name} killed at {point}")
        shutil.rmtree(world.folder)
        return True

    def _world(self) -> World:
        folder = self._cases / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._honest, folder)
        (folder / "said.log").unlink()
        return World(folder, self._forks)


def _locks(world: World) -> dict[str, bytes]:
    return {name: (world.folder / name).read_bytes() for name in LOCKS}


def _is_replaced(loaded: str, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> bool:
    return any(loaded.startswith(f"{name} ") and before[name] != after[name] for name in LOCKS)


def _compare(found: Mapping[str, object], expected: Mapping[str, object], what: str) -> None:
    for name, value in expected.items():
        if found[name] == value:
            continue
        more, less = found[name], value
        if isinstance(value, list):
            more, less = sorted(set(found[name]) - set(value)), sorted(set(value) - set(found[name]))
        raise AssertionError(f"{what}, then run again: of {name} {more} is too much, and {less} is missing")


def _write_key(file: Path) -> None:
    """Write the owner's key as `steerguard keys new` writes one."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.from_private_bytes(bytes([4]) * 32)
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    file.chmod(0o600)
    assert SigningKey.from_file(file).public == OWNER.public
