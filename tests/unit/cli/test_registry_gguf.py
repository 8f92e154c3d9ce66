"""`steerguard registry import-gguf` and `export-gguf`."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
from tests.artifact_samples import sample_calibration, sample_fields, sample_tensors, write_folder
from tests.registry_commands import run

from steerguard.artifacts.codec import encode_artifact
from steerguard.testing.models import tiny_model
from steerguard.testing.tokenizers import tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def vector(tmp_path):
    file = tmp_path / "happy.gguf"
    writer = gguf.GGUFWriter(file, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 2)
    for block in (1, 2):
        writer.add_tensor(f"direction.{block}", np.full(32, block, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def imported(vector, model, out, *more):
    arguments = ("--model", model, "--artifact", "happiness/tiny@0.1.0", "--license", "mit", "--out", out)
    return run("import-gguf", vector, *arguments, *more)


def test_import_writes_a_sound_unvetted_artifact(tmp_path, vector, model):
    result = imported(vector, model, tmp_path / "artifact", "--base-repo", "example/tiny")
    assert result.exit_code == 0, result.output
    assert "unvetted" in result.stdout
    assert run("verify", tmp_path / "artifact").exit_code == 0
    manifest = json.loads((tmp_path / "artifact" / "manifest.json").read_text())
    assert manifest["base"]["repo"] == "example/tiny"
    assert [one["weights"] for one in manifest["fingerprints"]] == ["bfloat16", "float32"]
    assert manifest["provenance"]["file"] == "happy.gguf"


def test_publish_refuses_what_was_imported(tmp_path, vector, model):
    imported(vector, model, tmp_path / "artifact", "--weights", "float32")
    result = run("publish", tmp_path / "artifact", "--registry", tmp_path / "registry")
    assert result.exit_code == 1
    assert "PublishRefusedError" in result.stderr
    assert "over_refusal" in result.stderr


def test_export_gives_back_the_directions(tmp_path, vector, model):
    imported(vector, model, tmp_path / "artifact", "--weights", "float32")
    result = run("export-gguf", tmp_path / "artifact", "--out", tmp_path / "back.gguf")
    assert result.exit_code == 0, result.output
    assert "note: llama.cpp adds" in result.stdout
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "back.gguf").tensors}
    assert set(tensors) == {"direction.1", "direction.2"}
    assert np.array_equal(tensors["direction.2"], np.full(32, 2, dtype=np.float32))


@pytest.mark.parametrize("wrong", ["file", "out", "name", "range"])
def test_wrong_arguments_fail_without_a_traceback(tmp_path, vector, model, wrong):
    out = tmp_path / "artifact"
    if wrong == "out":
        out.mkdir()
    more = {"name": ("--artifact", "happiness@1.0.0"), "range": ("--artifact", "happiness/tiny@^1")}.get(wrong, ())
    result = imported(tmp_path / "absent.gguf" if wrong == "file" else vector, model, out, *more)
    assert result.exit_code == 1
    assert "Error: " in result.stderr
    assert "Traceback" not in result.output
    assert not out.exists() or not list(out.iterdir())


def test_a_probe_is_not_exported(tmp_path):
    fields = sample_fields(
        type="probe",
        method="linear_probe",
        requires={"sdk": ">=0.1", "features": ["probe.linear", "hook.resid_post"]},
        params={"blocks": [3], "read": "generation_prompt_end", "reduce": "mean"},
    )
    files = encode_artifact(fields, sample_tensors(), card="# Probe\n", calibration=sample_calibration())
    result = run("export-gguf", write_folder(tmp_path / "probe", files), "--out", tmp_path / "out.gguf")
    assert result.exit_code == 1
    assert "ArtifactFormatError" in result.stderr
    assert not (tmp_path / "out.gguf").exists()
