"""Attacks with files: swapped, added, linked, named to get out, hiding code, too large, or tensors that are none."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from tests.artifact_samples import edited_manifest, resealed
from tests.attacked_artifacts import (
    NEW,
    REPO,
    WEIGHTS,
    artifact_files,
    vouched,
    write,
)
from tests.attacked_registry import local_registry
from tests.loopback_hubs import REGULAR_UPLOAD

from steerguard.artifacts.paths import MANIFEST
from steerguard.errors import (
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactNotFoundError,
)

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)

SMUGGLED = ("model.py", "weights/vectors.pt", "weights/data.pkl", "pytorch_model.bin", "weights/deep/x.safetensors")
OUTSIDE = (
    "../evil.json",
    "../../evil.json",
    "/tmp/steerguard-evil.json",  # noqa: S108 - a name that must never be written
    "weights/../../evil.safetensors",
    "weights/..\\..\\evil.safetensors",
    "attestations/../../evil.json",
    "attestations/deep/evil.json",
    "weights/.hidden.safetensors",
)


class Bomb:
    """A pickle of this writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def local(scene):
    return local_registry(scene)


def other(content: bytes) -> bytes:
    """Other bytes of the same size."""
    return bytes(byte ^ 1 for byte in content)


@pytest.mark.parametrize("path", [WEIGHTS, "README.md", MANIFEST])
def test_same_size_swap_on_the_hub(scene, path):
    """The hub shows other bytes at the pinned commit, and a tree that goes with them."""
    scene.forget_artifact()
    honest = scene.published[NEW][path]
    scene.serve({path: other(honest)})
    scene.refuses(ArtifactIntegrityError, scene.sync, scene.commit)
    assert not scene.store.has(scene.digest)
    scene.wrap_refuses(ArtifactNotFoundError, "steerguard sync")
    scene.serve({path: honest})
    scene.works()


def test_same_size_swap_under_an_honest_tree(scene):
    scene.forget_artifact()
    fault = scene.hub.fault("tamper", f"GET */resolve/*/{WEIGHTS}")
    scene.refuses(ArtifactIntegrityError, scene.sync, WEIGHTS)
    scene.wrap_refuses(ArtifactNotFoundError)
    fault.lift()
    scene.works()


def test_another_artifact_at_the_pinned_commit(scene):
    """Whole, sound and of the same name: only the digest says that it is not the one."""
    scene.forget_artifact()
    scene.serve(vouched(artifact_files(NEW, license="mit")))
    scene.refuses(ArtifactIntegrityError, scene.sync, scene.digest)
    scene.wrap_refuses(ArtifactNotFoundError)
    scene.serve(scene.published[NEW])
    scene.works()


def test_added_file_on_the_hub(scene):
    scene.forget_artifact()
    scene.serve({"weights/more.safetensors": b"x" * 100})
    scene.hub.forget_requests()
    scene.refuses(ArtifactIntegrityError, scene.sync, "weights/more.safetensors")
    assert not any("resolve" in line and "weights/" in line for line in scene.hub.requests)
    scene.serve({}, delete=["weights/more.safetensors"])
    scene.works()


def test_added_file_in_the_store(scene):
    (scene.placed / "weights" / "more.safetensors").write_bytes(b"x")
    scene.refuses(ArtifactIntegrityError, scene.load, "weights/more.safetensors", wrap=True)
    scene.works()


def test_added_file_in_a_local_registry(scene, local):
    file = local.registry.root / "harmful-intent" / "tiny" / NEW / "weights" / "more.safetensors"
    file.write_bytes(b"x")
    scene.refuses(ArtifactIntegrityError, local.load, "weights/more.safetensors")
    file.unlink()
    local.works()


@pytest.mark.parametrize("path", [WEIGHTS, "calibration.json"])
def test_missing_file(scene, path):
    (scene.placed / path).unlink()
    scene.refuses(ArtifactIntegrityError, scene.load, path, wrap=True)
    scene.forget_artifact()
    scene.serve({}, delete=[path])
    scene.refuses(ArtifactIntegrityError, scene.sync, path)
    scene.serve({path: scene.published[NEW][path]})
    scene.works()


@pytest.mark.parametrize("path", [WEIGHTS, MANIFEST, "attestations"])
def test_symlink_in_the_store(scene, path):
    """To the very same bytes: what stands behind a link can change after it was looked at."""
    elsewhere = scene.folder / "elsewhere"
    (scene.placed / path).rename(elsewhere)
    (scene.placed / path).symlink_to(elsewhere)
    scene.refuses(ArtifactFormatError, scene.load, path, wrap=True)
    scene.works()


def test_symlink_in_a_local_registry(scene, local):
    folder = local.registry.root / "harmful-intent" / "tiny" / NEW
    elsewhere = scene.folder / "elsewhere"
    (folder / WEIGHTS).rename(elsewhere)
    (folder / WEIGHTS).symlink_to(elsewhere)
    scene.refuses(ArtifactFormatError, local.load, WEIGHTS)
    (folder / WEIGHTS).unlink()
    elsewhere.rename(folder / WEIGHTS)
    local.works()


@pytest.mark.parametrize("place", ["harmful-intent", "harmful-intent/tiny", f"harmful-intent/tiny/{NEW}"])
def test_symlink_on_the_way(scene, local, place):
    folder, elsewhere = local.registry.root / place, scene.folder / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    scene.refuses(ArtifactFormatError, local.load, "symlink")
    folder.unlink()
    elsewhere.rename(folder)
    local.works()
    aside = scene.folder / "aside"
    scene.placed.rename(aside)
    scene.placed.symlink_to(aside)
    scene.refuses(ArtifactFormatError, scene.load, "symlink", wrap=True)
    scene.works()


def test_symlink_in_what_is_published(scene):
    folder = write(scene.folder / "linked", scene.published[NEW])
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(scene.folder / NEW / WEIGHTS)
    scene.refuses(ArtifactFormatError, lambda: scene.publish(folder), WEIGHTS)
    scene.works()


def test_special_file_in_the_store(scene):
    """A pipe would make the reader wait for ever."""
    (scene.placed / "recipe.yaml").unlink()
    os.mkfifo(scene.placed / "recipe.yaml")
    scene.refuses(ArtifactFormatError, scene.load, "recipe.yaml", wrap=True)
    scene.works()


@pytest.mark.parametrize("path", OUTSIDE)
def test_path_traversal_in_a_manifest(scene, path):
    """In a manifest that the registry's own key has signed for."""
    files = artifact_files("1.2.0")
    content = files.pop(WEIGHTS)

    def rename(data):
        next(one for one in data["files"] if one["path"] == WEIGHTS)["path"] = path

    bad = edited_manifest(files, rename)
    lock = scene.list_signed(bad)
    scene.hub.repository(REPO).plant({"weights/evil.safetensors": content})
    before = sorted(scene.folder.rglob("*evil*"))
    scene.refuses(ArtifactFormatError, lambda: scene.sync(lock), "expected")
    assert sorted(scene.folder.rglob("*evil*")) == before
    assert not os.path.lexists("/tmp/steerguard-evil.json")  # noqa: S108
    scene.works()


@pytest.mark.parametrize("path", [path for path in OUTSIDE if not path.startswith("/")])
def test_path_traversal_in_a_tree_of_the_hub(scene, path):
    scene.forget_artifact()
    scene.serve({path: b"{}"})
    scene.refuses(ArtifactFormatError, scene.sync, "may not hold a file of this name")
    assert list(scene.store.root.rglob("*evil*")) == []
    assert not os.path.lexists("/tmp/steerguard-evil.json")  # noqa: S108
    scene.serve({}, delete=[path])
    scene.works()


@pytest.mark.parametrize("name", [".hidden.json", "evil.py", "evil.json.bak", "ünsafe.json", "-rf.json"])
def test_foreign_attestation_name(scene, name):
    (scene.placed / "attestations" / name).write_bytes(b"{}")
    scene.refuses(ArtifactFormatError, scene.load, name if name.isascii() else "nsafe", wrap=True)
    scene.works()


@pytest.mark.parametrize("path", SMUGGLED)
def test_code_smuggling_on_the_hub(scene, path):
    scene.forget_artifact()
    scene.serve({path: b"import os"})
    scene.hub.forget_requests()
    scene.refuses(ArtifactFormatError, scene.sync, path)
    assert not any("/resolve/" in line and scene.commit in line for line in scene.hub.requests)
    scene.serve({}, delete=[path])
    scene.works()


@pytest.mark.parametrize("path", ["model.py", "weights/vectors.pt", "weights/deep/x.safetensors"])
def test_code_smuggling_in_the_store(scene, path):
    write(scene.placed, {path: b"import os"})
    scene.refuses(ArtifactFormatError, scene.load, path.split("/x.", maxsplit=1)[0], wrap=True)
    folder = write(scene.folder / "folder", {**scene.published[NEW], path: b"import os"})
    scene.refuses(ArtifactFormatError, lambda: local_registry(scene).registry.add(folder))
    scene.works()


def signed_anyway(scene, files, **named):
    """Files whose digests and signatures are all right, pulled: only what is inside can be refused."""
    lock = scene.list_signed(vouched(resealed(files)), **named)
    scene.sync(lock)
    return lock


def refused_inside(scene, files, *names):
    """A signed artifact is refused for what is inside it, and the honest one goes on."""
    lock = signed_anyway(scene, files)
    scene.refuses(ArtifactFormatError, lambda: scene.load(lock=lock), *names)
    scene.wrap_refuses(ArtifactFormatError, *names, lock=lock)
    scene.works()


def test_pickle_smuggling_in_signed_weights(scene):
    marker = scene.folder / "executed"
    files = artifact_files("1.2.0")
    refused_inside(scene, {**files, WEIGHTS: pickle.dumps(Bomb(marker))}, WEIGHTS)
    assert not marker.exists()
    body = files[WEIGHTS]
    refused_inside(scene, {**files, WEIGHTS: body + pickle.dumps(Bomb(marker))}, WEIGHTS)
    assert not marker.exists()


@pytest.mark.parametrize("size", [0, 1 << 20, 1 << 27, 1 << 40, (1 << 64) - 1])
def test_oversize_header(scene, size):
    files = artifact_files("1.2.0")
    content = files[WEIGHTS]
    refused_inside(scene, {**files, WEIGHTS: struct.pack("<Q", size) + content[8:]}, WEIGHTS)


def test_oversize_header_of_spaces(scene):
    """As large as it says it is, and all of it padding."""
    files = artifact_files("1.2.0")
    length = struct.unpack("<Q", files[WEIGHTS][:8])[0]
    header, data = files[WEIGHTS][8 : 8 + length], files[WEIGHTS][8 + length :]
    padded = header + b" " * (2 << 20)
    refused_inside(scene, {**files, WEIGHTS: struct.pack("<Q", len(padded)) + padded + data}, WEIGHTS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.int64, torch.bool])
def test_wrong_dtype(scene, dtype):
    files = artifact_files("1.2.0")
    tensors = {name: tensor.to(dtype) for name, tensor in load(files[WEIGHTS]).items()}
    refused_inside(scene, {**files, WEIGHTS: save(tensors)}, WEIGHTS)


@pytest.mark.parametrize("dtype", ["F64", "I64", "U8", "F8_E4M3"])
def test_wrong_dtype_in_manifest_and_header(scene, dtype):
    """The manifest agrees with the header, and the format has no such type."""

    def edit(data):
        for one in data["files"]:
            for tensor in one.get("tensors", {}).values():
                tensor["dtype"] = dtype

    lock = scene.list_signed(edited_manifest(artifact_files("1.2.0"), edit))
    scene.refuses(ArtifactFormatError, lambda: scene.sync(lock), "dtype")
    scene.works()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("path", [WEIGHTS, "weights/fingerprint.safetensors"])
def test_not_a_finite_number(scene, value, path):
    files = artifact_files("1.2.0")
    tensors = load(files[path])
    next(iter(tensors.values())).view(-1)[-1] = value
    refused_inside(scene, {**files, path: save(tensors)}, path, "not finite")


def test_not_a_finite_number_that_cancels(scene):
    """Infinities of both signs: a sum of them is no number, and neither is each."""
    files = artifact_files("1.2.0")
    tensors = load(files[WEIGHTS])
    flat = tensors["weight"].view(-1)
    flat[0], flat[1] = float("inf"), float("-inf")
    refused_inside(scene, {**files, WEIGHTS: save(tensors)}, WEIGHTS, "2 values")


@pytest.mark.parametrize(("path", "size"), [(MANIFEST, 2 << 20), ("attestations/more.json", 9 << 20)])
def test_oversize_file_on_the_hub(scene, path, size):
    """The tree says how large it is: nothing of it is fetched."""
    scene.forget_artifact()
    scene.serve({path: b" " * size})
    scene.hub.forget_requests()
    scene.refuses(ArtifactFormatError, scene.sync, path, f"{size} bytes")
    assert not any("/resolve/" in line and scene.commit in line for line in scene.hub.requests)
    scene.serve({MANIFEST: scene.published[NEW][MANIFEST]}, delete=[] if path == MANIFEST else [path])
    scene.works()


@pytest.mark.parametrize("path", ["README.md", MANIFEST, WEIGHTS])
def test_oversize_body_on_the_hub(scene, path):
    """The tree says one size, and the hub sends bytes without end: the disk is not filled."""
    scene.forget_artifact()
    repository = scene.hub.repository(REPO)
    stand_in = repository.plant({path: b"x" * (8 << 20) if path != MANIFEST else b" " * (2 << 20)})
    long = repository.history.commits[stand_in].files[path]

    def lie(files):
        said = files[path]
        return {**files, path: replace(long, size=said.size, oid=said.oid, sha256=long.sha256, lfs=said.lfs)}

    honest = repository.history.commits[scene.commit]
    told = replace(honest, files=lie(honest.files))
    repository.change(lambda history: replace(history, commits={**history.commits, scene.commit: told}))
    scene.refuses(ArtifactIntegrityError, scene.sync, scene.commit)
    stored = sum(file.stat().st_size for file in scene.store.root.rglob("*") if file.is_file())
    assert stored < 1 << 20
    repository.change(lambda history: replace(history, commits={**history.commits, scene.commit: honest}))
    scene.works()


def test_too_many_files_on_the_hub(scene):
    scene.forget_artifact()
    more = {f"attestations/a{number}.json": b"{}" for number in range(200)}
    scene.serve(more)
    scene.refuses(ArtifactFormatError, scene.sync, "too many files")
    scene.serve({}, delete=more)
    scene.works()


def test_names_that_differ_in_case_only(scene):
    scene.forget_artifact()
    scene.serve({"weights/PROBE.safetensors": b"x"})
    scene.refuses(ArtifactFormatError, scene.sync, "PROBE")
    scene.serve({}, delete=["weights/PROBE.safetensors"])
    shutil.rmtree(scene.store.root / "partial", ignore_errors=True)
    scene.works()


def test_manifest_with_a_key_twice(scene):
    """Two readers could each take another of the two values."""
    files = artifact_files("1.2.0")
    data = json.loads(files[MANIFEST])
    text = files[MANIFEST].replace(b'"license":', b'"license":"mit","license":', 1)
    assert json.loads(text)["license"] == data["license"]
    lock = scene.list_signed({**files, MANIFEST: text})
    scene.refuses(ArtifactFormatError, lambda: scene.sync(lock))
    scene.works()
