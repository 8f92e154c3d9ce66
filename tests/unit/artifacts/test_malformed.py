"""Every way in which an artifact can lie is refused, by name, and nothing of it loads."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save
from tests.artifact_samples import (
    FINGERPRINT,
    NUM_BLOCKS,
    VECTORS,
    WIDTH,
    digest_of,
    edited_manifest,
    resealed,
    sample_files,
    sample_tensors,
)

from steerguard.artifacts.manifest import ArtifactManifest
from steerguard.artifacts.paths import MAX_FILE_BYTES, MAX_WEIGHTS_BYTES
from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import ArtifactError, ArtifactFormatError, ArtifactIntegrityError

Files = dict[str, bytes]
FORMAT, INTEGRITY = ArtifactFormatError, ArtifactIntegrityError


def flipped(path: str) -> Callable[[Files], Files]:
    def tamper(files: Files) -> Files:
        content = bytearray(files[path])
        content[len(content) // 2] ^= 1
        return files | {path: bytes(content)}

    return tamper


def manifest(edit: Callable[[dict[str, Any]], object]) -> Callable[[Files], Files]:
    return lambda files: edited_manifest(files, edit)


def setting(*keys: str | int, to: Any) -> Callable[[Files], Files]:
    def edit(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = to

    return manifest(edit)


def entry(data: dict[str, Any], path: str) -> dict[str, Any]:
    return next(one for one in data["files"] if one["path"] == path)


def with_file(path: str, content: bytes) -> Callable[[Files], Files]:
    return lambda files: files | {path: content}


def without(path: str) -> Callable[[Files], Files]:
    return lambda files: {name: content for name, content in files.items() if name != path}


def replaced(path: str, change: Callable[[bytes], bytes]) -> Callable[[Files], Files]:
    return lambda files: resealed(files | {path: change(files[path])})


def tensors(**changes: torch.Tensor | None) -> Callable[[Files], Files]:
    merged = {**sample_tensors()[VECTORS], **changes}
    return replaced(VECTORS, lambda _: save({name: value for name, value in merged.items() if value is not None}))


def header(change: Callable[[dict[str, Any]], object]) -> Callable[[Files], Files]:
    def rewrite(content: bytes) -> bytes:
        length = struct.unpack("<Q", content[:8])[0]
        data = json.loads(content[8 : 8 + length])
        change(data)
        text = json.dumps(data).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return replaced(VECTORS, rewrite)


def raw_header(text: bytes) -> Callable[[Files], Files]:
    return replaced(VECTORS, lambda content: struct.pack("<Q", len(text)) + text + content[-64:])


def raw_manifest(change: Callable[[bytes], bytes]) -> Callable[[Files], Files]:
    return lambda files: files | {"manifest.json": change(files["manifest.json"])}


def swapped(content: dict[str, Any]) -> None:
    content["theta"]["data_offsets"], content["gate_bias"]["data_offsets"] = [0, 192], [0, 24]


def with_value(value: float) -> torch.Tensor:
    theta = torch.zeros(NUM_BLOCKS, WIDTH)
    theta[2, 3] = value
    return theta


def duplicate_tensor(content: bytes) -> bytes:
    text = b'{"theta":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"theta":{}}'
    return struct.pack("<Q", len(text)) + text + content[-4:]


# (what is wrong, how it is done, which error, what the message names)
STALE_PIN: list[tuple[str, Callable[[Files], Files], type[ArtifactError], str]] = [
    ("a bit of the manifest is flipped", flipped("manifest.json"), INTEGRITY, "manifest.json"),
    ("a bit of the vectors is flipped", flipped(VECTORS), INTEGRITY, VECTORS),
    ("a bit of the fingerprint is flipped", flipped(FINGERPRINT), INTEGRITY, FINGERPRINT),
    ("a bit of the calibration is flipped", flipped("calibration.json"), INTEGRITY, "calibration.json"),
    ("a bit of the benchmarks is flipped", flipped("benchmarks.json"), INTEGRITY, "benchmarks.json"),
    ("a bit of the card is flipped", flipped("README.md"), INTEGRITY, "README.md"),
    ("a bit of the recipe is flipped", flipped("recipe.yaml"), INTEGRITY, "recipe.yaml"),
    ("the manifest was edited after pinning", setting("license", to="mit"), INTEGRITY, "manifest.json"),
    ("the manifest is missing", without("manifest.json"), INTEGRITY, "manifest.json"),
    ("the weights are missing", without(VECTORS), INTEGRITY, VECTORS),
    ("the card is missing", without("README.md"), INTEGRITY, "README.md"),
    ("a file is cut off", lambda f: f | {VECTORS: f[VECTORS][:-1]}, INTEGRITY, VECTORS),
    ("a file grew", lambda f: f | {"README.md": f["README.md"] + b"\n"}, INTEGRITY, "README.md"),
    ("an unlisted weights file", with_file("weights/more.safetensors", save({})), INTEGRITY, "more.safetensors"),
    ("a Python file", with_file("modeling.py", b"import os"), FORMAT, "modeling.py"),
    ("a pickle", with_file("weights/vectors.pt", b"\x80"), FORMAT, "vectors.pt"),
    ("a hidden file", with_file(".env", b""), FORMAT, ".env"),
    ("a path upwards", with_file("../evil.safetensors", b""), FORMAT, "../evil.safetensors"),
    ("a path upwards below weights", with_file("weights/../manifest.json", b""), FORMAT, "weights/.."),
    ("an absolute path", with_file("/etc/passwd", b""), FORMAT, "/etc/passwd"),
    ("a backslash", with_file("weights\\x.safetensors", b""), FORMAT, "weights"),
    ("a sub-folder of weights", with_file("weights/a/b.safetensors", b""), FORMAT, "weights/a/b"),
    ("a name with a newline", with_file("README.md\n", b""), FORMAT, "README.md"),
    ("a name that differs in case only", with_file("Weights/vectors.safetensors", b""), FORMAT, "Weights/"),
    ("two weights that differ in case only", with_file("weights/Vectors.safetensors", b""), FORMAT, "Vectors"),
    ("an executable attestation", with_file("attestations/run.sh", b""), FORMAT, "run.sh"),
]

PINNED: list[tuple[str, Callable[[Files], Files], type[ArtifactError], str]] = [
    ("another format version", setting("apiVersion", to="steerguard/v2"), FORMAT, "apiVersion"),
    ("another kind of document", setting("kind", to="Policy"), FORMAT, "kind"),
    ("a family that is a path", setting("family", to="../inferaligner"), FORMAT, "family"),
    ("a variant in upper case", setting("variant", to="Tiny"), FORMAT, "variant"),
    ("a version of two numbers", setting("version", to="1.0"), FORMAT, "version"),
    ("an unknown type", setting("type", to="pickle"), FORMAT, "type"),
    ("an unknown feature", setting("requires", "features", to=["operator.teleport"]), FORMAT, "operator.teleport"),
    ("a later SDK", setting("requires", "sdk", to=">=99"), FORMAT, "requires.sdk"),
    ("a specifier that is none", setting("requires", "sdk", to="new"), FORMAT, "requires.sdk"),
    ("a missing key", manifest(lambda data: data.pop("base")), FORMAT, "base"),
    ("a width that is a string", setting("base", "hidden_size", to="8"), FORMAT, "base.hidden_size"),
    ("a width that is a boolean", setting("base", "hidden_size", to=True), FORMAT, "base.hidden_size"),
    ("a digest that is none", setting("base", "tokenizer_sha256", to="…"), FORMAT, "base.tokenizer_sha256"),
    ("another hook point", setting("hook_point", to="attention"), FORMAT, "hook_point"),
    ("no fingerprint", setting("fingerprints", to=[]), FORMAT, "fingerprints"),
    ("fingerprint of early blocks", setting("fingerprints", 0, "blocks", to=[0, 1, 5]), FORMAT, "fingerprints[0].blocks"),
    ("fingerprint beyond the depth", setting("fingerprints", 0, "blocks", to=[2, 3, 6]), FORMAT, "fingerprints[0].blocks"),
    ("fingerprint of too few prompts", setting("fingerprints", 0, "prompts", to=3), FORMAT, "fingerprints[0].prompts"),
    ("fingerprint of another shape", setting("fingerprints", 0, "prompts", to=5), FORMAT, "fingerprints[0].file"),
    ("fingerprint in no file", setting("fingerprints", 0, "file", to="weights/x.safetensors"), FORMAT, "fingerprints[0].file"),
    ("a limit of one", setting("fingerprints", 0, "max_one_minus_cos", to="1"), FORMAT, "max_one_minus_cos"),
    ("a limit that is NaN", setting("fingerprints", 0, "max_one_minus_cos", to="NaN"), FORMAT, "max_one_minus_cos"),
    ("a size that lies", manifest(lambda d: entry(d, VECTORS).update(size=1)), INTEGRITY, VECTORS),
    (
        "a size beyond the cap of weights",
        manifest(lambda d: entry(d, VECTORS).update(size=MAX_WEIGHTS_BYTES + 1)),
        FORMAT,
        "size",
    ),
    (
        "a size beyond the cap of other files",
        manifest(lambda d: entry(d, "README.md").update(size=MAX_FILE_BYTES + 1)),
        FORMAT,
        "too large",
    ),
    ("a digest that lies", manifest(lambda d: entry(d, VECTORS).update(sha256="0" * 64)), INTEGRITY, VECTORS),
    ("a file listed twice", manifest(lambda d: d["files"].append(d["files"][-1])), FORMAT, VECTORS),
    ("files out of order", manifest(lambda d: d["files"].reverse()), FORMAT, "files"),
    ("a listed path upwards", manifest(lambda d: d["files"][0].update(path="../x")), FORMAT, "../x"),
    ("a listed absolute path", manifest(lambda d: d["files"][0].update(path="/README.md")), FORMAT, "/README.md"),
    ("the manifest lists itself", manifest(lambda d: d["files"][0].update(path="manifest.json")), FORMAT, "manifest.json"),
    ("a listed attestation", manifest(lambda d: d["files"][0].update(path="attestations/a.json")), FORMAT, "attestations"),
    ("no card listed", lambda f: without("README.md")(manifest(lambda d: d["files"].remove(entry(d, "README.md")))(f)), FORMAT, "README.md"),
    ("weights without tensors", manifest(lambda d: entry(d, VECTORS).pop("tensors")), FORMAT, VECTORS),
    ("a card with tensors", manifest(lambda d: entry(d, "README.md").update(tensors={"a": {"dtype": "F32", "shape": [1]}})), FORMAT, "README.md"),
    ("an integer dtype", manifest(lambda d: entry(d, VECTORS)["tensors"]["theta"].update(dtype="I64")), FORMAT, "dtype"),
    ("an empty axis", manifest(lambda d: entry(d, VECTORS)["tensors"]["theta"].update(shape=[0, 8])), FORMAT, "shape"),
    ("the manifest ends in a newline", raw_manifest(lambda b: b + b"\n"), FORMAT, "canonical"),
    ("the manifest is indented", raw_manifest(lambda b: json.dumps(json.loads(b), indent=1).encode()), FORMAT, "canonical"),
    ("a key occurs twice", raw_manifest(lambda b: b[:-1] + b',"version":"1.0.0"}'), FORMAT, "canonical"),
    ("a float", setting("params", "strength", to=0.5), FORMAT, "decimal string"),
    ("NaN", raw_manifest(lambda b: b.replace(b'"0.5"', b"NaN")), FORMAT, "canonical"),
    ("an integer beyond 2^53", raw_manifest(lambda b: b.replace(b'"0.5"', b"9007199254740993")), FORMAT, "canonical"),
    ("an endless integer", raw_manifest(lambda b: b.replace(b'"0.5"', b"9" * 9000)), FORMAT, "canonical"),
    ("deep nesting", raw_manifest(lambda _: b"[" * 200_000), FORMAT, "canonical"),
    ("a lone surrogate", raw_manifest(lambda b: b.replace(b'"0.5"', b'"\\ud800"')), FORMAT, "canonical"),
    ("bytes that are not UTF-8", raw_manifest(lambda b: b.replace(b"apache", b"\xff")), FORMAT, "canonical"),
    ("a manifest that is a list", raw_manifest(lambda _: b"[]"), FORMAT, "object"),
    ("an empty manifest", raw_manifest(lambda _: b""), FORMAT, "canonical"),
    ("a huge manifest", raw_manifest(lambda b: b + b" " * 2_000_000), FORMAT, "too large"),
    ("theta of another width", tensors(theta=torch.zeros(NUM_BLOCKS, WIDTH + 1)), FORMAT, "theta"),
    ("theta of another dtype", tensors(theta=torch.zeros(NUM_BLOCKS, WIDTH, dtype=torch.float64)), FORMAT, "theta"),
    ("theta transposed", tensors(theta=torch.zeros(WIDTH, NUM_BLOCKS)), FORMAT, "theta"),
    ("theta with NaN", tensors(theta=with_value(float("nan"))), FORMAT, "theta"),
    ("theta with infinity", tensors(theta=with_value(float("-inf"))), FORMAT, "theta"),
    ("a tensor too many", tensors(extra=torch.zeros(2)), FORMAT, "extra"),
    ("a tensor too few", tensors(gate_bias=None), FORMAT, "gate_bias"),
    ("weights cut off and resealed", replaced(VECTORS, lambda b: b[:-4]), FORMAT, VECTORS),
    ("weights with a tail", replaced(VECTORS, lambda b: b + b"\0" * 4), FORMAT, VECTORS),
    ("weights of three bytes", replaced(VECTORS, lambda _: b"abc"), FORMAT, VECTORS),
    ("a header longer than the file", replaced(VECTORS, lambda b: b"\xff" * 7 + b"\x7f" + b[8:]), FORMAT, VECTORS),
    ("a header beyond the cap", raw_header(b"{" + b" " * 2_000_000 + b"}"), FORMAT, "too large"),
    ("a header that is not JSON", raw_header(b"not json"), FORMAT, VECTORS),
    ("a header that is a list", raw_header(b"[]"), FORMAT, VECTORS),
    ("a tensor named twice in the header", replaced(VECTORS, duplicate_tensor), FORMAT, "twice"),
    ("metadata", header(lambda h: h.update(__metadata__={"code": "x"})), FORMAT, "__metadata__"),
    ("a header whose shape is not of integers", header(lambda h: h["theta"].update(shape=[float(n) for n in h["theta"]["shape"]])), FORMAT, "theta"),
    ("a header that lies about the shape", header(lambda h: h["theta"].update(shape=[8, 6])), FORMAT, "theta"),
    ("a header that lies about the dtype", header(lambda h: h["theta"].update(dtype="BF16")), FORMAT, "theta"),
    ("offsets that overlap", header(swapped), FORMAT, "overlap"),
    ("offsets that are negative", header(lambda h: h["theta"].update(data_offsets=[-192, 0])), FORMAT, "theta"),
    ("offsets that are no numbers", header(lambda h: h["theta"].update(data_offsets=["0", "192"])), FORMAT, "theta"),
    ("a header entry with more keys", header(lambda h: h["theta"].update(note="x")), FORMAT, "theta"),
    ("calibration of another kind", replaced("calibration.json", lambda b: b.replace(b"split_conformal", b"gut_feeling")), FORMAT, "kind"),
    ("calibration out of order", replaced("calibration.json", lambda b: b.replace(b'"-2.25"', b'"9.25"')), FORMAT, "benign_scores[1]"),
    ("calibration that miscounts", replaced("calibration.json", lambda b: b.replace(b'"n":19', b'"n":20')), FORMAT, "calibration.json: n"),
    ("calibration beyond float32", replaced("calibration.json", lambda b: b.replace(b'"2.25"', b'"1e60"')), FORMAT, "benign_scores[18]"),
    ("calibration with NaN", replaced("calibration.json", lambda b: b.replace(b'"2.25"', b'"NaN"')), FORMAT, "benign_scores[18]"),
    ("calibration that is not canonical", replaced("calibration.json", lambda b: b + b" "), FORMAT, "calibration.json"),
    ("a card that is not text", replaced("README.md", lambda _: b"\xff\xfe"), FORMAT, "README.md"),
]  # fmt: skip


def refusal(files: Files, digest: str) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        verify_artifact(files, digest)
    return caught.value


@pytest.mark.parametrize(("tamper", "kind", "named"), [row[1:] for row in STALE_PIN], ids=[row[0] for row in STALE_PIN])
def test_bytes_that_the_pin_does_not_cover_are_refused(tamper: Any, kind: type[ArtifactError], named: str):
    files = sample_files()
    error = refusal(tamper(files), digest_of(files))
    assert type(error) is kind
    assert named in str(error)


@pytest.mark.parametrize(("tamper", "kind", "named"), [row[1:] for row in PINNED], ids=[row[0] for row in PINNED])
def test_a_lie_is_refused_even_when_its_digest_is_pinned(tamper: Any, kind: type[ArtifactError], named: str):
    files = tamper(sample_files())
    error = refusal(files, digest_of(files))
    assert type(error) is kind
    assert named in str(error)


@pytest.mark.parametrize(("tamper", "kind", "named"), [row[1:] for row in PINNED], ids=[row[0] for row in PINNED])
def test_a_refusal_says_which_artifact_it_is_about(tamper: Any, kind: type[ArtifactError], named: str):
    files = tamper(sample_files())
    with pytest.raises(kind) as caught:
        verify_artifact(files, digest_of(files), where="family/variant@1.0.0")
    assert str(caught.value.where).startswith("family/variant@1.0.0")
    assert "family/variant@1.0.0/family" not in str(caught.value.where)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "0" * 64, "md5:" + "0" * 64, "sha256:" + "A" * 64, "sha256:" + "0" * 65]
)
def test_a_malformed_pin_is_refused(digest: str):
    assert isinstance(refusal(sample_files(), digest), ArtifactFormatError)


def test_a_wrong_pin_is_refused_before_the_manifest_is_parsed():
    files = sample_files() | {"manifest.json": b"not even json"}
    assert isinstance(refusal(files, "sha256:" + "0" * 64), ArtifactIntegrityError)


def test_the_untampered_artifact_verifies():
    files = sample_files()
    artifact = verify_artifact(files, digest_of(files))
    assert isinstance(artifact.manifest, ArtifactManifest)
    assert artifact.digest == digest_of(files)
    assert set(artifact.tensors) == {VECTORS, FINGERPRINT}
    assert torch.equal(artifact.tensors[VECTORS]["theta"], sample_tensors()[VECTORS]["theta"])
    assert artifact.calibration is not None
    assert artifact.card.startswith("# Tiny vectors")


def test_attestations_lie_outside_the_digest():
    files = sample_files()
    assert verify_artifact(files | {"attestations/vetting.json": b"{}"}, digest_of(files)).digest == digest_of(files)
