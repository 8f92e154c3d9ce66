"""Five hundred random attacks: one mutation each of store, lock, trust policy or hub. No other bytes ever come out.

Each mutation is drawn from one seed, tried, and undone. Whatever it is, the reader ends with an error of this package or
with exactly the bytes that were published.
"""

from __future__ import annotations

import json
import os
import random
import shutil

import pytest
from tests.attacked_artifacts import NEW, OLD, REQUIRE, pinned
from tests.hostile_inputs import edited
from tests.loopback_hubs import REGULAR_UPLOAD
from tests.signed_artifacts import HUB, LAB, OWNER, STRANGER, trust_text

from steerguard.canonical import canonical_bytes, sha256_hex
from steerguard.errors import SteerguardError
from steerguard.registry.lockfile import Lockfile, parse_lock
from steerguard.registry.revocations import REVOCATIONS
from steerguard.registry.signed_index import SIGNED_INDEX

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)

MUTATIONS = {"store": 220, "lock": 120, "trust": 100, "hub": 60}
"""How many of each kind."""


class Tally:
    """What the reader got."""

    def __init__(self, scene):
        self.published = [pinned(scene.published[version]) for version in (NEW, OLD)]
        self.loaded = self.refused = 0

    def judge(self, call, what):
        """The call gives published bytes or an error of this package."""
        try:
            found = call()
        except SteerguardError:
            self.refused += 1
        else:
            assert found in self.published, what
            self.loaded += 1


def mutated(draw, content, others):
    """Other content: bits, ends, insertions, parts, or the content of another file."""
    kind = draw.choice(("flip", "flip", "cut", "longer", "insert", "swap", "other", "empty", "stranger"))
    at = draw.randrange(max(len(content), 1))
    if kind == "flip" and content:
        return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "longer":
        return content + draw.randbytes(draw.randrange(1, 50))
    if kind == "insert":
        return content[:at] + draw.randbytes(draw.randrange(1, 8)) + content[at:]
    if kind == "swap":
        middle = len(content) // 2
        return content[middle:] + content[:middle]
    if kind == "stranger":
        # What a key, a digest or a sequence may be replaced by, without changing the length.
        return content.replace(OWNER.public.id.encode(), STRANGER.public.id.encode()).replace(
            NEW.encode(), OLD.encode()
        )
    return b"" if kind == "empty" else draw.choice(others)


def spoil(draw, file, others, elsewhere):
    """Do something to a file, and return what undoes it."""
    content = file.read_bytes()
    kind = draw.choice(("content", "content", "content", "gone", "link", "moved", "beside", "folder"))
    beside = file.with_name(draw.choice(("x.json", "x.safetensors", "evil.py", ".hidden", file.name + "~")))
    if kind == "content":
        file.write_bytes(mutated(draw, content, others))
    elif kind == "gone":
        file.unlink()
    elif kind == "link":
        file.unlink()
        elsewhere.write_bytes(content)
        file.symlink_to(elsewhere)
    elif kind == "moved":
        file.rename(beside)
    elif kind == "beside":
        beside.write_bytes(draw.choice(others))
    else:
        file.unlink()
        file.mkdir()

    def undo():
        beside.unlink(missing_ok=True)
        if file.is_dir():
            file.rmdir()
        file.unlink(missing_ok=True)
        file.write_bytes(content)

    return undo


def test_random_attacks_on_the_store(scene):
    draw, tally = random.Random("store"), Tally(scene)
    files = [file for file in sorted(scene.store.root.rglob("*")) if file.is_file() and "locks" not in file.parts]
    others = [content for version in scene.published.values() for content in version.values()]
    for number in range(MUTATIONS["store"]):
        file = draw.choice(files)
        undo = spoil(draw, file, others, scene.folder / "elsewhere")
        tally.judge(scene.load, f"{number}: {file}")
        undo()
    assert tally.refused > tally.loaded > 0
    scene.works()


def test_random_attacks_on_the_lock(scene):
    """Half as bytes, half with its own digest computed again."""
    draw, tally = random.Random("lock"), Tally(scene)
    honest = scene.lock_path.read_bytes()
    with_old = [scene.entry(OLD).digest, scene.entry(OLD).commit, OLD, "acme/other", HUB, "embedded"]
    for number in range(MUTATIONS["lock"]):
        content = mutated(draw, honest, [scene.published[NEW]["manifest.json"]])
        if number % 2:
            data = json.loads(honest)
            if draw.random() < 0.5:
                one = data["artifacts"][0]
                one[draw.choice(sorted(one))] = draw.choice(with_old)
            else:
                data = edited(draw, data)
            content = resealed(data)
        tally.judge(lambda content=content: scene.load(lock=locked(content)), number)
    assert tally.refused > tally.loaded > 0
    scene.works()


def resealed(data):
    """The text of an edited lock with its own digest right again, where it still has the form for that."""
    try:
        if isinstance(data, dict):
            rest = {key: value for key, value in data.items() if key != "content_sha256"}
            data = {**rest, "content_sha256": sha256_hex(canonical_bytes(rest))}
        return json.dumps(data, sort_keys=True, indent=2).encode() + b"\n"
    except (ValueError, TypeError):
        return json.dumps(data).encode()


def locked(content) -> Lockfile:
    return parse_lock(content, where="attacked.lock")


def test_random_attacks_on_the_trust_policy(scene):
    draw, tally = random.Random("trust"), Tally(scene)
    honest = trust_text(registries=[HUB], signed=[HUB], require=REQUIRE)
    file = scene.folder / "trust.yaml"
    lines = honest.splitlines(keepends=True)
    for number in range(MUTATIONS["trust"]):
        kind = draw.randrange(4)
        if kind == 0:
            content = mutated(draw, honest.encode(), [b"{}"])
        elif kind == 1:
            gone = draw.randrange(len(lines))
            content = "".join(lines[:gone] + lines[gone + 1 :]).encode()
        elif kind == 2:
            old, new = draw.sample([OWNER.public.text, LAB.public.text, STRANGER.public.text], 2)
            content = honest.replace(old, new).encode()
        else:
            twice = draw.randrange(len(lines))
            content = "".join(lines[: twice + 1] + lines[twice:]).encode()
        file.write_bytes(content)
        tally.judge(lambda: scene.load(trust=file), f"{number}: {content[-200:]!r}")
    assert tally.refused > tally.loaded > 0
    scene.works()


def test_random_attacks_on_the_hub(scene):
    """At the pinned commit and in the index repository; the reader synchronises from nothing, or without the artifact."""
    draw, tally = random.Random("hub"), Tally(scene)
    others = [content for version in scene.published.values() for content in version.values()]
    names = {name: scene.index_file(name) for name in (SIGNED_INDEX, REVOCATIONS)}
    honest = scene.folder / "honest-store"
    shutil.copytree(scene.store.root, honest)

    def whole():
        scene.sync()
        return scene.load()

    for number in range(MUTATIONS["hub"]):
        if draw.random() < 0.5:
            scene.forget_artifact()
        else:
            scene.new_machine()
        if draw.random() < 0.3:
            name = draw.choice(sorted(names))
            gone = draw.random() < 0.2
            scene.plant_index(name, None if gone else mutated(draw, names[name], [*names.values(), *others]))
            tally.judge(whole, f"{number}: {name}")
            scene.plant_index(name, names[name])
        else:
            path = draw.choice(sorted(scene.published[NEW]))
            spoiled = mutated(draw, scene.published[NEW][path], others)
            scene.serve({path: spoiled}, delete=[path] if draw.random() < 0.2 else [])
            tally.judge(whole, f"{number}: {path}")
            scene.serve({path: scene.published[NEW][path]})
        shutil.rmtree(scene.store.root, ignore_errors=True)
        shutil.copytree(honest, scene.store.root)
    assert tally.refused > tally.loaded > 0
    assert not os.path.lexists(scene.folder / "evil.py")
    scene.works()
