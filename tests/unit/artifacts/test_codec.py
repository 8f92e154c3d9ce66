from __future__ import annotations

import pytest
import torch
from tests.artifact_samples import VECTORS, sample_calibration, sample_fields, sample_files, sample_tensors

from steerguard.artifacts.codec import encode_artifact, write_artifact
from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import ArtifactError, ArtifactFormatError
from steerguard.registry.folder import read_folder


def write(folder, **changes):
    return write_artifact(
        folder, sample_fields(**changes), sample_tensors(), sample_calibration(), None, "# Card\n", None
    )


def test_a_written_artifact_verifies_under_the_returned_digest(tmp_path):
    digest = write(tmp_path / "new" / "artifact")
    artifact = verify_artifact(read_folder(tmp_path / "new" / "artifact"), digest)
    for path, tensors in sample_tensors().items():
        for name, tensor in tensors.items():
            assert torch.equal(artifact.tensors[path][name], tensor)
    assert artifact.calibration == sample_calibration()


def test_the_same_parts_give_the_same_bytes():
    assert sample_files() == sample_files()


def test_half_precision_and_views_are_written_as_they_are():
    tensors = sample_tensors()
    tensors["weights/more.safetensors"] = {
        "a": torch.arange(6.0).reshape(2, 3).T.to(torch.bfloat16),
        "b": torch.ones(1).half(),
    }
    files = encode_artifact(sample_fields(), tensors, card="# Card\n")
    from steerguard.artifacts.manifest import manifest_digest

    loaded = verify_artifact(files, manifest_digest(files["manifest.json"])).tensors["weights/more.safetensors"]
    assert torch.equal(loaded["a"], tensors["weights/more.safetensors"]["a"])
    assert loaded["b"].dtype == torch.float16


def test_a_folder_that_exists_is_not_touched(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="cannot be made"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_nothing_is_written_when_a_part_is_wrong(tmp_path):
    with pytest.raises(ArtifactFormatError, match="requires"):
        write(tmp_path / "artifact", requires={"sdk": ">=0.1", "features": ["unheard.of"]})
    assert list(tmp_path.iterdir()) == []


def test_a_float_in_the_manifest_is_refused():
    with pytest.raises(ArtifactFormatError, match="decimal string"):
        encode_artifact(sample_fields(params={"strength": 0.5}), sample_tensors(), card="# Card\n")


def test_tensors_that_artifacts_do_not_hold_are_refused():
    with pytest.raises(ArtifactFormatError, match="float64"):
        encode_artifact(
            sample_fields(), sample_tensors() | {VECTORS: {"theta": torch.zeros(2, 2, dtype=torch.float64)}}, card="#"
        )
    with pytest.raises(ArtifactFormatError, match="NaN"):
        encode_artifact(
            sample_fields(), sample_tensors() | {VECTORS: {"theta": torch.full((2,), float("nan"))}}, card="#"
        )


@pytest.mark.parametrize("path", ["vectors.safetensors", "../weights/a.safetensors", "weights/a.pt"])
def test_tensors_lie_in_weights(path):
    with pytest.raises(ArtifactFormatError):
        encode_artifact(sample_fields(), sample_tensors() | {path: {"a": torch.ones(1)}}, card="#")


def test_the_list_of_files_is_not_the_callers():
    with pytest.raises(ArtifactFormatError, match="filled in"):
        encode_artifact(sample_fields(files=[]), sample_tensors(), card="#")


def test_data_that_is_not_json_is_refused():
    with pytest.raises(ArtifactFormatError, match=r"benchmarks\.json"):
        encode_artifact(sample_fields(), sample_tensors(), card="#", benchmarks={"when": object()})
