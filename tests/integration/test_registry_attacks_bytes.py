"""Attacks on bytes: one bit anywhere, in every kind of file that a reader depends on; 1,000 random positions in all.

A flip ends in one of two ways. Where every byte counts, it is refused. Where some bytes are hints, such as the key id
in an envelope or a name in a trust policy, either it is refused or exactly the published bytes load.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from tests.attacked_artifacts import (
    NEW,
    OLD,
    WEIGHTS,
    pinned,
    vouched,
    write,
)
from tests.attacked_registry import local_registry
from tests.loopback_hubs import REGULAR_UPLOAD
from tests.signed_artifacts import HUB, trust_text

from steerguard.errors import (
    ArtifactError,
    ArtifactIntegrityError,
    LockFormatError,
    SignatureError,
    SteerguardError,
    TrustError,
    VettingError,
)
from steerguard.hub.pull import pull
from steerguard.registry.local import LocalDirectory
from steerguard.registry.lockfile import parse_lock
from steerguard.registry.revocations import REVOCATIONS
from steerguard.registry.signed_index import SIGNED_INDEX

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)

PINNED = ("manifest.json", WEIGHTS, "weights/fingerprint.safetensors", "calibration.json", "benchmarks.json", "README.md", "recipe.yaml")  # fmt: skip
POSITIONS = {
    **dict.fromkeys(PINNED, 58),
    "release": 60,
    "vetting": 60,
    f"hub {SIGNED_INDEX}": 30,
    f"hub {REVOCATIONS}": 30,
    f"remembered {SIGNED_INDEX}": 50,
    f"remembered {REVOCATIONS}": 50,
    "lock": 90,
    "trust": 60,
    "origins": 20,
    "index.json": 60,
    "local list": 50,
    f"way {WEIGHTS}": 20,
    "way manifest.json": 20,
}
"""How many positions of each kind of file are tried; a test of the table counts them."""


def flipped(content: bytes, draw: random.Random) -> tuple[bytes, int]:
    """The content with one bit changed, and the byte that it is in."""
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :], at


def flips(content: bytes, kind: str) -> list[tuple[bytes, int]]:
    """Flips of one content; the same on every run."""
    draw = random.Random(f"flip {kind}")
    return [flipped(content, draw) for _ in range(POSITIONS[kind])]


def in_key_id(content: bytes, at: int) -> bool:
    """Whether a byte of an envelope belongs to the text of a key id, which is a hint."""
    start = content.index(b'"keyid":"') + len(b'"keyid":"')
    return start <= at < content.index(b'"', start)


def outcome(load: Callable[[], dict[str, bytes]], honest: dict[str, bytes]) -> SteerguardError | None:
    """The error, or None where exactly the honest bytes were loaded; anything else fails the test."""
    try:
        found = load()
    except SteerguardError as error:
        return error
    assert found == honest
    return None


@pytest.mark.parametrize("path", PINNED)
def test_byte_flip_in_a_pinned_file(scene, path):
    """In the store, behind the back of everybody."""
    file = scene.placed / path
    honest = file.read_bytes()
    for content, at in flips(honest, path):
        file.write_bytes(content)
        error = outcome(scene.load, pinned(scene.published[NEW]))
        assert isinstance(error, ArtifactIntegrityError), at
        assert path in str(error)
        assert not scene.store.sound(scene.digest)
    scene.wrap_refuses(ArtifactIntegrityError, path)
    assert scene.sync().repaired == (f"harmful-intent/tiny@{NEW}",)
    scene.works()


@pytest.mark.parametrize(("kind", "error"), [("release", SignatureError), ("vetting", VettingError)])
def test_byte_flip_in_an_attestation(scene, kind, error):
    file = next((scene.placed / "attestations").glob(f"{kind}.*.json"))
    honest = file.read_bytes()
    for content, at in flips(honest, kind):
        file.write_bytes(content)
        found = outcome(scene.load, pinned(scene.published[NEW]))
        assert isinstance(found, error) or (found is None and in_key_id(honest, at)), at
        assert not scene.store.sound(scene.digest)
    file.write_bytes(flipped(honest, random.Random(0))[0])
    scene.wrap_refuses(error, scene.lock.artifacts[0].version)
    scene.works()


@pytest.mark.parametrize("name", [SIGNED_INDEX, REVOCATIONS])
def test_byte_flip_in_an_envelope_of_the_registry(scene, name):
    """On the Hub: nobody who looks at it now gets an answer, and whoever is locked and pulled goes on."""
    honest = scene.index_file(name)
    scene.new_machine()
    for content, at in flips(honest, f"hub {name}"):
        scene.plant_index(name, content)
        if in_key_id(honest, at):
            continue
        scene.refuses(SignatureError, scene.registry().entries, HUB)
    scene.plant_index(name, honest[:-9] + bytes([honest[-9] ^ 1]) + honest[-8:])
    scene.refuses(SignatureError, scene.sync, HUB)
    assert not scene.store.remembered(HUB)
    scene.plant_index(name, honest)
    scene.works()


@pytest.mark.parametrize("name", [SIGNED_INDEX, REVOCATIONS])
def test_byte_flip_in_a_remembered_envelope(scene, name):
    """On this machine: a spoiled list is refused; a spoiled index is not needed by what is locked."""
    honest = scene.store.remembered(HUB)[name]
    for content, at in flips(honest, f"remembered {name}"):
        scene.store.remember(HUB, name, content)
        found = outcome(scene.load, pinned(scene.published[NEW]))
        if name == REVOCATIONS:
            assert isinstance(found, SignatureError) or (found is None and in_key_id(honest, at)), at
        else:
            assert found is None
    scene.works()
    assert scene.store.remembered(HUB)[name] == honest


def test_byte_flip_in_the_lock_file(scene):
    honest = scene.lock_path.read_bytes()
    for content, at in flips(honest, "lock"):
        with pytest.raises(LockFormatError):
            parse_lock(content, where=f"byte {at}")
    scene.lock_path.write_bytes(flipped(honest, random.Random(1))[0])
    scene.wrap_refuses(LockFormatError, str(scene.lock_path), lock=scene.lock_path)
    scene.lock_path.write_bytes(honest)
    scene.wrap(lock=scene.lock_path)
    scene.works()


def test_byte_flip_in_the_trust_policy(scene):
    """Whoever can write this file decides; a flip that happens still never lets other bytes in."""
    text = trust_text(registries=[HUB], signed=[HUB], require="{signatures: 1, vetting_level: 2}").encode()
    file = scene.folder / "trust.yaml"
    refused = 0
    for content, _ in flips(text, "trust"):
        file.write_bytes(content)
        refused += outcome(lambda: scene.load(trust=file), pinned(scene.published[NEW])) is not None
    assert refused > POSITIONS["trust"] // 2
    spoiled = text.replace(b"ed25519:", b"ed25518:", 1)
    file.write_bytes(spoiled)
    scene.wrap_refuses(TrustError, "trust.yaml", trust=file)
    file.write_bytes(text)
    scene.wrap(trust=file)
    scene.works()


def test_byte_flip_in_a_record_of_origins(scene):
    """The record says where attestations came from; spoiled, it only makes them be fetched again."""
    file = next((scene.store.root / "origins").iterdir())
    honest = file.read_bytes()
    for content, _ in flips(honest, "origins"):
        file.write_bytes(content)
        assert outcome(scene.load, pinned(scene.published[NEW])) is None
    scene.works()


@pytest.fixture
def local(scene):
    return local_registry(scene)


def test_byte_flip_in_a_local_index(scene, local):
    file = local.registry.root / "index.json"
    honest = file.read_bytes()
    for content, at in flips(honest, "index.json"):
        file.write_bytes(content)
        try:
            found = local.load()
        except (ArtifactError, TrustError):
            continue
        assert found in (pinned(scene.published[NEW]), pinned(scene.published[OLD])), at
    file.write_bytes(honest)
    local.works()


def test_byte_flip_in_a_local_list_of_revocations(scene, local):
    local.works()
    file = local.registry.root / REVOCATIONS
    honest = file.read_bytes()
    for content, at in flips(honest, "local list"):
        file.write_bytes(content)
        found = outcome(local.load, pinned(scene.published[NEW]))
        assert isinstance(found, TrustError) or (found is None and in_key_id(honest, at)), at
    file.write_bytes(honest)
    local.works()


@pytest.mark.parametrize("path", [WEIGHTS, "manifest.json"])
def test_byte_flip_on_the_way(scene, path):
    """Between the Hub and this machine, at another byte each time."""
    scene.forget_artifact()
    size = len(scene.published[NEW][path])
    for at in random.Random(path).sample(range(size), POSITIONS[f"way {path}"]):
        fault = scene.hub.fault("tamper", f"GET */resolve/*/{path}", at=at)
        scene.refuses(ArtifactIntegrityError, lambda: pull(scene.client, scene.entry(), scene.store), scene.commit)
        assert fault.seen
        fault.lift()
        assert not scene.store.has(scene.digest)
    scene.works()


def test_byte_flip_in_what_is_published(scene):
    """In the publisher's own folder: nothing of it reaches the Hub."""
    folder = write(scene.folder / "spoiled", vouched(scene.published[NEW]))
    before = scene.hub.repository("acme/harmful-intent_tiny").head
    for path in PINNED[1:]:
        honest = (folder / path).read_bytes()
        for content, _ in flips(honest, path)[:4]:
            (folder / path).write_bytes(content)
            scene.refuses(ArtifactIntegrityError, lambda: scene.publish(folder), path)
            scene.refuses(ArtifactIntegrityError, lambda: LocalDirectory(scene.folder).add(folder), path)
        (folder / path).write_bytes(honest)
    assert scene.hub.repository("acme/harmful-intent_tiny").head == before
    scene.publish(folder)
    scene.works()
