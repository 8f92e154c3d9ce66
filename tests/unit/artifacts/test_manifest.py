from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from tests.artifact_samples import edited_manifest, sample_files

from steerguard.artifacts.manifest import (
    KNOWN_FEATURES,
    ArtifactManifest,
    manifest_bytes,
    manifest_schema,
    parse_manifest,
)
from steerguard.errors import ArtifactFormatError
from steerguard.version import __version__

SCHEMA = Path(__file__).parents[3] / "registry" / "manifest.v1alpha1.schema.json"


def test_the_committed_schema_is_the_generated_one():
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == manifest_schema()


def test_a_valid_manifest_satisfies_the_schema():
    jsonschema.validate(json.loads(sample_files()["manifest.json"]), manifest_schema())


def test_parsing_and_writing_gives_the_same_bytes():
    content = sample_files()["manifest.json"]
    assert manifest_bytes(parse_manifest(content)) == content


def test_unknown_keys_survive_at_every_level():
    def add(data):
        data["supersedes"] = "0.9.0"
        data["base"]["commit"] = "abc"
        data["files"][0]["note"] = {"deep": [1, {"x": None}]}

    content = edited_manifest(sample_files(), add)["manifest.json"]
    assert manifest_bytes(parse_manifest(content)) == content


def test_every_known_feature_may_be_required():
    parse_manifest(
        sample_files(requires={"sdk": f"=={__version__}", "features": sorted(KNOWN_FEATURES)})["manifest.json"]
    )


def test_a_manifest_cannot_be_changed():
    manifest = parse_manifest(sample_files()["manifest.json"])
    with pytest.raises(ValueError, match="frozen"):
        manifest.version = "2.0.0"


def test_a_model_of_two_blocks_needs_a_fingerprint_of_its_last_block_only():
    def shrink(data):
        data["base"]["num_blocks"] = 2
        data["fingerprints"][0]["blocks"] = [0, 1]

    files = edited_manifest(sample_files(), shrink)
    with pytest.raises(ArtifactFormatError, match="shape"):  # the blocks are accepted, the recorded tensor is not
        parse_manifest(files["manifest.json"])


def test_the_reference_names_family_variant_and_version():
    manifest: ArtifactManifest = parse_manifest(sample_files()["manifest.json"])
    assert manifest.reference == "inferaligner/tiny@1.0.0"
    assert manifest.limit(manifest.fingerprints[0]).as_tuple().digits == (1,)
