"""Control vectors of repeng and llama.cpp, in and out, against files that the `gguf` package writes and reads by itself."""

from __future__ import annotations

import hashlib
import json

import gguf
import numpy as np
import pytest
import torch
from tests.artifact_samples import digest_of, sample_calibration, sample_fields, sample_tensors, write_folder

from steerguard.artifacts.codec import encode_artifact
from steerguard.artifacts.manifest import parse_manifest
from steerguard.artifacts.publishable import require_publishable
from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import (
    ArtifactError,
    ArtifactFormatError,
    IncompatibleModelError,
    PublishRefusedError,
    SteerguardError,
)
from steerguard.guidance.vector_schedules import VECTORS_FILE
from steerguard.integrations.control_vectors import (
    ImportedName,
    export_control_vector,
    import_control_vector,
)
from steerguard.integrations.gguf_vectors import read_control_vector, write_control_vector
from steerguard.models.inspect import inspect_model
from steerguard.registry.folder import read_folder
from steerguard.testing.models import tiny_model
from steerguard.testing.tokenizers import tiny_tokenizer

NAME = ImportedName(
    family="happiness",
    variant="tiny",
    version="0.1.0",
    license="mit",
    base_repo="example/tiny",
    source="happy.gguf",
    created="2026-11-22T00:00:00Z",
)


def written(file, directions, *, architecture="controlvector", extra=()):
    """Write a file as repeng does, with the gguf package alone."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(directions))
    for key, text in extra:
        writer.add_string(key, text)
    for name, values in directions.items():
        writer.add_tensor(name if isinstance(name, str) else f"direction.{name}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def as_llama_cpp_reads(file, num_blocks, width):
    """What llama.cpp adds to the output of each block, by its loader's own arithmetic: row N - 1 of the buffer is block N."""
    reader = gguf.GGUFReader(file)
    buffer = np.zeros((num_blocks - 1) * width, dtype=np.float32)
    for tensor in reader.tensors:
        layer = int(tensor.name.split(".")[1])
        assert layer >= 1
        buffer[width * (layer - 1) : width * layer] += tensor.data
    added = np.zeros((num_blocks, width), dtype=np.float32)
    for block in range(1, num_blocks):
        added[block] = buffer[width * (block - 1) : width * block]
    return added


def random_directions(blocks, width, seed=0):
    generator = np.random.default_rng(seed)
    return {block: generator.standard_normal(width).astype(np.float32) for block in blocks}


@pytest.fixture(scope="module")
def model_and_tokenizer():
    return tiny_model(), tiny_tokenizer()


@pytest.fixture(scope="module")
def facts(model_and_tokenizer):
    return inspect_model(*model_and_tokenizer)


@pytest.fixture(scope="module")
def directions(facts):
    return random_directions(range(1, facts.num_blocks), facts.hidden_size)


def imported(file, model_and_tokenizer, **changes):
    return import_control_vector(read_control_vector(file), *model_and_tokenizer, NAME, weights=("float32",), **changes)


def test_directions_are_read_as_llama_cpp_reads_them(tmp_path, model_and_tokenizer, facts, directions):
    file = written(tmp_path / "happy.gguf", directions)
    files = imported(file, model_and_tokenizer)
    theta = verify_artifact(files, digest_of(files)).tensors[VECTORS_FILE]["theta"]
    assert np.array_equal(theta.numpy(), as_llama_cpp_reads(file, facts.num_blocks, facts.hidden_size))
    assert not theta[0].any()


def test_an_export_adds_what_the_artifact_adds(tmp_path):
    fields = sample_fields(
        method="fitted_refusal",
        params={"blocks": [3, 4], "strength": "0.25", "positions": "all"},
        requires={"sdk": ">=0.1", "features": ["schedule.constant", "operator.add", "hook.resid_post", "gate.verdict"]},
    )
    tensors = sample_tensors()
    files = encode_artifact(fields, tensors, card="# Tiny\n")
    notes = export_control_vector(verify_artifact(files, digest_of(files)), tmp_path / "out.gguf")
    added = as_llama_cpp_reads(tmp_path / "out.gguf", 6, 8)
    expected = np.zeros((6, 8), dtype=np.float32)
    expected[3:5] = tensors[VECTORS_FILE]["theta"][3:5].numpy() * 0.25
    assert np.array_equal(added, expected)
    assert any("every request" in note for note in notes)
    fields_read = gguf.GGUFReader(tmp_path / "out.gguf").fields
    assert fields_read["general.architecture"].contents() == "controlvector"
    assert fields_read["controlvector.model_hint"].contents() == "llama"
    assert fields_read["controlvector.layer_count"].contents() == 2
    assert fields_read["steerguard.digest"].contents() == digest_of(files)


def test_there_and_back_again_changes_no_bit(tmp_path, model_and_tokenizer, directions):
    files = imported(written(tmp_path / "a.gguf", directions), model_and_tokenizer)
    export_control_vector(verify_artifact(files, digest_of(files)), tmp_path / "b.gguf")
    back = read_control_vector(tmp_path / "b.gguf").directions
    assert set(back) == set(directions)
    assert all(np.array_equal(back[block].numpy(), directions[block]) for block in directions)


def test_an_imported_artifact_says_that_it_is_unvetted_and_where_it_comes_from(
    tmp_path, model_and_tokenizer, directions
):
    file = written(tmp_path / "happy.gguf", directions, extra=[("general.author", "somebody [link](x)")])
    files = imported(file, model_and_tokenizer)
    manifest = parse_manifest(files["manifest.json"])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert manifest.params["unvetted"] is True
    assert manifest.model_extra["provenance"] == {
        "format": "GGUF control vector",
        "file": "happy.gguf",
        "sha256": digest,
        "vetted": False,
        "metadata": {
            "general.architecture": "controlvector",
            "controlvector.model_hint": "llama",
            "controlvector.layer_count": str(len(directions)),
            "general.author": "somebody [link](x)",
        },
    }
    assert json.loads(files["benchmarks.json"]) == {
        "imported": {"unvetted": True, "file": "happy.gguf", "sha256": digest}
    }
    card = files["README.md"].decode()
    assert "unvetted" in card
    assert digest in card
    assert "[link]" not in card


def test_publishing_an_imported_artifact_is_refused(tmp_path, model_and_tokenizer, directions):
    files = imported(written(tmp_path / "happy.gguf", directions), model_and_tokenizer)
    with pytest.raises(PublishRefusedError) as caught:
        require_publishable(files)
    for missing in ("over_refusal", "coherence", "overhead"):
        assert missing in str(caught.value)


def test_the_fingerprint_binds_it_to_the_model(tmp_path, model_and_tokenizer, facts, directions):
    files = imported(written(tmp_path / "happy.gguf", directions), model_and_tokenizer)
    manifest = parse_manifest(files["manifest.json"])
    assert [entry.weights for entry in manifest.fingerprints] == ["float32"]
    assert manifest.base.hidden_size == facts.hidden_size
    assert manifest.base.tokenizer_sha256 == facts.tokenizer_sha256
    folder = write_folder(tmp_path / "artifact", files)
    assert verify_artifact(read_folder(folder), digest_of(files)).manifest == manifest


def test_only_blocks_with_a_direction_are_steered(tmp_path, model_and_tokenizer, facts):
    directions = random_directions([1, 2], facts.hidden_size)
    directions[1][:] = 0
    files = imported(written(tmp_path / "v.gguf", directions), model_and_tokenizer, strength="0.5")
    params = parse_manifest(files["manifest.json"]).params
    assert params["blocks"] == [2]
    assert params["strength"] == "0.5"


@pytest.mark.parametrize("change", ["wide", "deep"])
def test_a_vector_of_another_model_is_refused(tmp_path, model_and_tokenizer, facts, change):
    width = facts.hidden_size + (8 if change == "wide" else 0)
    block = facts.num_blocks if change == "deep" else 1
    file = written(tmp_path / "v.gguf", random_directions([block], width))
    with pytest.raises(IncompatibleModelError, match="another model"):
        imported(file, model_and_tokenizer)


@pytest.mark.parametrize(
    ("directions", "architecture", "said"),
    [
        (random_directions([1], 8), "llama", "no control vector"),
        ({"direction.0": np.ones(8, np.float32)}, "controlvector", "no direction"),
        ({"weight": np.ones(8, np.float32)}, "controlvector", "no direction"),
        ({"direction.-1": np.ones(8, np.float32)}, "controlvector", "no direction"),
        ({"direction.01": np.ones(8, np.float32)}, "controlvector", "no direction"),
        ({1: np.ones(8, np.float16)}, "controlvector", "another form"),
        ({1: np.ones((2, 8), np.float32)}, "controlvector", "another form"),
        ({1: np.ones(8, np.float32), 2: np.ones(9, np.float32)}, "controlvector", "one width"),
        ({}, "controlvector", "one width"),
    ],
)
def test_what_is_no_control_vector_is_refused(tmp_path, directions, architecture, said):
    file = written(tmp_path / "v.gguf", directions, architecture=architecture)
    with pytest.raises(ArtifactFormatError, match=said):
        read_control_vector(file)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, model_and_tokenizer, facts, value):
    directions = random_directions([1], facts.hidden_size)
    directions[1][3] = value
    with pytest.raises(ArtifactFormatError, match="NaN or infinity"):
        imported(written(tmp_path / "v.gguf", directions), model_and_tokenizer)


def test_a_vector_of_zeros_is_refused(tmp_path, model_and_tokenizer, facts):
    file = written(tmp_path / "v.gguf", {1: np.zeros(facts.hidden_size, np.float32)})
    with pytest.raises(ArtifactFormatError, match="zero"):
        imported(file, model_and_tokenizer)


def test_damaged_files_raise_documented_errors_only(tmp_path):
    sound = written(tmp_path / "sound.gguf", random_directions([1, 2], 16)).read_bytes()
    generator = np.random.default_rng(5)
    refused = 0
    for number in range(300):
        content = bytearray(sound[: generator.integers(0, len(sound))] if number % 3 == 0 else sound)
        for position in generator.integers(0, min(len(content), 400), 3) if content else ():
            content[position] = generator.integers(0, 256)
        file = tmp_path / "damaged.gguf"
        file.write_bytes(content)
        try:
            read_control_vector(file)
        except SteerguardError:
            refused += 1
    assert refused > 100


def test_links_and_absent_files_are_refused(tmp_path, directions):
    file = written(tmp_path / "v.gguf", directions)
    (tmp_path / "link.gguf").symlink_to(file)
    with pytest.raises(ArtifactFormatError, match="regular"):
        read_control_vector(tmp_path / "link.gguf")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_control_vector(tmp_path / "absent.gguf")


def test_an_existing_file_is_never_replaced(tmp_path):
    (tmp_path / "v.gguf").write_text("mine")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_control_vector(tmp_path / "v.gguf", {1: torch.ones(4)}, model_hint="llama", metadata={})
    assert (tmp_path / "v.gguf").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [tmp_path / "v.gguf"]


def test_block_zero_cannot_be_exported(tmp_path):
    with pytest.raises(ArtifactFormatError, match="from block 1"):
        write_control_vector(tmp_path / "v.gguf", {0: torch.ones(4)}, model_hint="llama", metadata={})
    assert not list(tmp_path.iterdir())


def test_a_probe_cannot_be_exported(tmp_path):
    fields = sample_fields(
        type="probe",
        method="linear_probe",
        requires={"sdk": ">=0.1", "features": ["probe.linear", "hook.resid_post"]},
        params={"blocks": [3], "read": "generation_prompt_end", "reduce": "mean"},
    )
    files = encode_artifact(fields, sample_tensors(), card="# Tiny\n", calibration=sample_calibration())
    with pytest.raises(ArtifactFormatError, match="cannot be written as a control vector"):
        export_control_vector(verify_artifact(files, digest_of(files)), tmp_path / "v.gguf")


def test_what_the_file_cannot_say_is_said(tmp_path):
    fields = sample_fields(
        params={"blocks": [3], "strength": "1", "positions": "decode"},
        requires={"sdk": ">=0.1", "features": ["gate.linear", "operator.ablate", "hook.resid_post"]},
    )
    files = encode_artifact(fields, sample_tensors(), card="# Tiny\n")
    notes = " ".join(export_control_vector(verify_artifact(files, digest_of(files)), tmp_path / "v.gguf"))
    assert "positions decode" in notes
    assert "gate" in notes
    assert "ablation" in notes
