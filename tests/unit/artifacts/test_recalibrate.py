"""A new version differs from its parent in calibration, card, figures and manifest, and in nothing else."""

from __future__ import annotations

import json

import pytest
from tests.artifact_samples import digest_of, edited_manifest, sample_calibration, sample_files

from steerguard.artifacts.calibration import calibration_bytes, calibration_from_scores
from steerguard.artifacts.manifest import parse_manifest
from steerguard.artifacts.recalibrate import recalibrated
from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import ArtifactFormatError, ArtifactIntegrityError

NEW = calibration_from_scores([1.0, 2.0, 3.0], score="s", source="own prompts")


def derived(files=None, *, version="1.0.1"):
    files = files or sample_files()
    return recalibrated(
        files, digest_of(files), NEW, version=version, created="2027-01-01T00:00:00Z", note="Calibrated anew."
    )


def test_the_new_version_verifies_and_keeps_tensors_and_recipe_byte_for_byte():
    parent, child = sample_files(), derived()
    verify_artifact(child, digest_of(child))
    assert child["calibration.json"] == calibration_bytes(NEW)
    same = {path for path in parent if child[path] == parent[path]}
    assert same == {path for path in parent if path.startswith("weights/")} | {"recipe.yaml"}
    assert set(child) == set(parent)


def test_the_manifest_names_the_parent_and_keeps_unknown_keys():
    files = edited_manifest(sample_files(), lambda data: data.update(later_field={"x": 1}))
    manifest = json.loads(derived(files)["manifest.json"])
    assert manifest["parent"] == {"version": "1.0.0", "digest": digest_of(files), "changed": "calibration"}
    assert (manifest["version"], manifest["created"]) == ("1.0.1", "2027-01-01T00:00:00Z")
    assert manifest["later_field"] == {"x": 1}
    assert parse_manifest(derived(files)["manifest.json"]).parent.digest == digest_of(files)


def test_card_and_figures_say_that_they_were_the_parents():
    files = derived()
    card = files["README.md"].decode()
    assert "new calibration of version 1.0.0" in card
    assert "Calibrated anew." in card
    assert "# Tiny vectors" in card
    assert json.loads(files["benchmarks.json"])["parent"]["benchmarks"] == {"ms_per_token": "0.1"}


def test_front_matter_of_a_card_stays_first():
    from tests.artifact_samples import sample_fields, sample_tensors

    from steerguard.artifacts.codec import encode_artifact

    card = "---\nlicense: apache-2.0\n---\n\n# Title\n"
    files = encode_artifact(sample_fields(), sample_tensors(), card=card, calibration=sample_calibration())
    text = derived(files)["README.md"].decode()
    assert text.startswith("---\nlicense: apache-2.0\n---\n\n> **Version 1.0.1")
    assert text.endswith("\n\n# Title\n")


def test_attestations_of_the_parent_stay_behind():
    files = sample_files() | {"attestations/old.json": b"{}"}
    assert "attestations/old.json" not in derived(files)


@pytest.mark.parametrize("version", ["1.0.0", "0.9.9"])
def test_a_version_that_is_not_higher_is_refused(version):
    with pytest.raises(ArtifactFormatError, match="higher"):
        derived(version=version)


def test_an_artifact_without_a_calibration_is_refused():
    from tests.artifact_samples import sample_fields, sample_tensors

    from steerguard.artifacts.codec import encode_artifact

    with pytest.raises(ArtifactFormatError, match="with a calibration"):
        derived(encode_artifact(sample_fields(), sample_tensors(), card="# x\n"))


def test_a_damaged_parent_is_refused():
    files = sample_files()
    with pytest.raises(ArtifactIntegrityError):
        recalibrated(
            files | {"recipe.yaml": b"seed: 8\n"},
            digest_of(files),
            NEW,
            version="2.0.0",
            created="2027-01-01T00:00:00Z",
            note="",
        )
