"""Large files: tensors share the memory that was hashed, and are judged like those of small files."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save
from tests.artifact_samples import (
    FINGERPRINT,
    VECTORS,
    digest_of,
    resealed,
    sample_fields,
    sample_files,
    sample_tensors,
    write_folder,
)

from steerguard.artifacts.codec import encode_artifact
from steerguard.artifacts.contents import ReadFile, ReadFiles, content_of
from steerguard.artifacts.verify import verify_artifact
from steerguard.canonical import sha256_hex
from steerguard.errors import ArtifactFormatError, ArtifactIntegrityError
from steerguard.registry.folder import read_folder
from steerguard.registry.reading import LARGE_BYTES, read_and_hash

BIG = "weights/big.safetensors"


def as_large(tmp_path, files):
    """Read every weights file of an artifact the way a large one is read."""
    folder = write_folder(tmp_path / "artifact", files)
    found = {}
    for path in files:
        large = 1 if path.startswith("weights/") else 2**40
        with (folder / path).open("rb", buffering=0) as stream:
            found[path] = read_and_hash(stream, len(files[path]), large=large)
    return ReadFiles(found)


def with_tensors(**tensors):
    return encode_artifact(sample_fields(), sample_tensors() | {BIG: tensors}, card="# Tiny\n")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_of_a_large_file_equal_those_of_a_small_one(tmp_path, dtype):
    files = with_tensors(one=torch.randn(3, 5).to(dtype), other=torch.randn(7).to(dtype))
    small = verify_artifact(files, digest_of(files))
    large = verify_artifact(as_large(tmp_path, files), digest_of(files))
    for path, tensors in small.tensors.items():
        assert set(large.tensors[path]) == set(tensors)
        for name, tensor in tensors.items():
            assert large.tensors[path][name].dtype == tensor.dtype
            assert torch.equal(large.tensors[path][name], tensor)
    assert large.manifest == small.manifest


def test_tensors_of_a_large_file_are_not_copied(tmp_path):
    files = as_large(tmp_path, with_tensors(one=torch.randn(8)))
    tensor = verify_artifact(files, digest_of(files)).tensors[BIG]["one"]
    tensor[0] = 42.0
    assert torch.frombuffer(bytearray(content_of(files, BIG))[-32:], dtype=torch.float32)[0] == 42.0


def test_tensors_outlive_the_files_that_they_came_from(tmp_path):
    files = as_large(tmp_path, with_tensors(one=torch.arange(1000.0)))
    artifact = verify_artifact(files, digest_of(files))
    del files
    assert float(artifact.tensors[BIG]["one"].sum()) == 499_500.0


def unaligned_file():
    """A legal file whose float32 tensor starts at an odd number of 2-byte values."""
    header = {
        "half": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]},
        "word": {"dtype": "F32", "shape": [2], "data_offsets": [2, 10]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = torch.tensor([1.5], dtype=torch.float16).numpy().tobytes() + torch.tensor([2.5, -3.5]).numpy().tobytes()
    return len(text).to_bytes(8, "little") + text + data


def test_a_tensor_that_is_not_aligned_is_read_right(tmp_path):
    files = with_tensors(half=torch.ones(1, dtype=torch.float16), word=torch.ones(2))
    files = resealed(files | {BIG: unaligned_file()})
    tensors = verify_artifact(as_large(tmp_path, files), digest_of(files)).tensors[BIG]
    assert tensors["half"].tolist() == [1.5]
    assert tensors["word"].tolist() == [2.5, -3.5]
    assert tensors["word"].data_ptr() % 4 == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("position", [0, 2**20 - 1, 2**20, 2**20 + 9])
def test_one_value_that_is_not_finite_is_found_wherever_it_stands(tmp_path, value, dtype, position):
    tensor = torch.ones(2**20 + 10, dtype=dtype)
    files = with_tensors(one=tensor)
    tensor[position] = value
    files = resealed(files | {BIG: save({"one": tensor})})
    with pytest.raises(ArtifactFormatError, match="NaN or infinity") as caught:
        verify_artifact(as_large(tmp_path, files), digest_of(files))
    assert caught.value.found == "1 values that are not finite"
    assert caught.value.where == f"{BIG}: one"


def test_infinities_of_both_signs_do_not_cancel(tmp_path):
    files = with_tensors(one=torch.ones(4))
    files = resealed(files | {BIG: save({"one": torch.tensor([1.0, float("inf"), -float("inf"), 1.0])})})
    with pytest.raises(ArtifactFormatError, match="2 values"):
        verify_artifact(as_large(tmp_path, files), digest_of(files))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.full((1000,), torch.finfo(torch.float32).max),
        torch.full((1000,), torch.finfo(torch.float16).max, dtype=torch.float16),
        torch.full((1000,), torch.finfo(torch.bfloat16).max, dtype=torch.bfloat16),
    ],
    ids=["float32", "float16", "bfloat16"],
)
def test_finite_values_whose_sum_overflows_are_accepted(tmp_path, tensor):
    files = with_tensors(one=tensor)
    artifact = verify_artifact(as_large(tmp_path, files), digest_of(files))
    assert torch.equal(artifact.tensors[BIG]["one"], tensor)


@pytest.mark.parametrize("path", [VECTORS, FINGERPRINT])
def test_a_flipped_byte_of_a_large_file_is_found(tmp_path, path):
    files = sample_files()
    content = bytearray(files[path])
    content[-1] ^= 1
    with pytest.raises(ArtifactIntegrityError, match="another digest"):
        verify_artifact(as_large(tmp_path, files | {path: bytes(content)}), digest_of(files))


def test_the_header_of_a_large_file_is_checked(tmp_path):
    files = sample_files()
    files = resealed(files | {VECTORS: save({"theta": torch.zeros(1)})})
    with pytest.raises(ArtifactFormatError, match="not those of the manifest"):
        verify_artifact(as_large(tmp_path, files), digest_of(files))


def test_a_file_above_the_size_is_kept_without_a_copy_by_the_folder_reader(tmp_path):
    files = with_tensors(one=torch.randn(LARGE_BYTES // 4))
    found = read_folder(write_folder(tmp_path / "artifact", files))
    assert isinstance(content_of(found, BIG), memoryview)
    assert isinstance(content_of(found, VECTORS), bytes)
    verify_artifact(found, digest_of(files), where="artifact")


def test_a_sparse_file_in_place_of_weights_is_refused_by_its_size(tmp_path):
    files = sample_files()
    folder = write_folder(tmp_path / "artifact", files)
    os.truncate(folder / VECTORS, 16 * 2**20)
    with pytest.raises(ArtifactIntegrityError, match="another size"):
        verify_artifact(read_folder(folder), digest_of(files))


def test_the_digest_that_was_taken_while_reading_is_the_one_that_counts():
    files = sample_files()
    read = {path: ReadFile(content=content, sha256=sha256_hex(content)) for path, content in files.items()}
    assert verify_artifact(ReadFiles(read), digest_of(files)).digest == digest_of(files)
    read[VECTORS] = ReadFile(content=files[VECTORS], sha256="0" * 64)
    with pytest.raises(ArtifactIntegrityError, match="another digest"):
        verify_artifact(ReadFiles(read), digest_of(files))
