from __future__ import annotations

import pytest
from tests.artifact_samples import sample_files, write_folder

from steerguard.artifacts.reference import parse_reference
from steerguard.errors import ArtifactNotFoundError, SignatureError
from steerguard.registry.local import create_registry
from steerguard.registry.resolve import admitted_entries, pinned_variants


@pytest.fixture
def registry(tmp_path):
    registry = create_registry(tmp_path / "registry")
    for index, (variant, version) in enumerate(
        [("tiny", "1.0.0"), ("tiny", "1.2.0"), ("small", "1.1.0"), ("tiny", "2.0.0")]
    ):
        registry.add(write_folder(tmp_path / str(index), sample_files(variant=variant, version=version)))
    return registry


def resolved(registry, text):
    return [f"{pin.variant} {pin.version}" for pin in pinned_variants(registry, parse_reference(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inferaligner@^1", ["tiny 1.2.0", "small 1.1.0", "tiny 1.0.0"]),
        ("inferaligner", ["tiny 2.0.0", "tiny 1.2.0", "small 1.1.0", "tiny 1.0.0"]),
        ("inferaligner/small@^1", ["small 1.1.0"]),
        ("inferaligner@2.0.0", ["tiny 2.0.0"]),
    ],
)
def test_what_the_reference_admits_comes_highest_first(registry, text, expected):
    assert resolved(registry, text) == expected


def test_a_misspelt_family_gets_the_nearest_spelling(registry):
    with pytest.raises(ArtifactNotFoundError, match="Did you mean 'inferaligner'") as caught:
        resolved(registry, "inferalinger@^1")
    assert caught.value.expected == "inferaligner"


def test_a_misspelt_variant_gets_the_nearest_spelling(registry):
    with pytest.raises(ArtifactNotFoundError, match="Did you mean 'small'") as caught:
        resolved(registry, "inferaligner/smal@^1")
    assert caught.value.expected == "small, tiny"


def test_an_empty_range_lists_the_versions_that_there_are(registry):
    with pytest.raises(ArtifactNotFoundError, match="No version") as caught:
        resolved(registry, "inferaligner@^3")
    assert caught.value.found == "tiny 2.0.0, tiny 1.2.0, small 1.1.0, tiny 1.0.0"


def test_an_empty_registry_says_so(tmp_path):
    with pytest.raises(ArtifactNotFoundError, match="empty registry"):
        resolved(create_registry(tmp_path / "empty"), "inferaligner")


def test_a_file_reference_is_looked_up_in_its_own_registry(tmp_path, registry):
    empty = create_registry(tmp_path / "empty")
    assert resolved(empty, f"file://{registry.root}#inferaligner@2.0.0") == ["tiny 2.0.0"]


def test_the_hub_is_read_only_by_who_brings_trust(registry):
    with pytest.raises(SignatureError, match="under a trust policy"):
        resolved(registry, "hf://acme/inferaligner@^1")
    asked = []

    def remote(name):
        asked.append(name)
        return registry

    pins = pinned_variants(
        create_registry(registry.root / "empty"), parse_reference("hf://acme/inferaligner/tiny@^1"), remote
    )
    assert [pin.version for pin in pins] == ["1.2.0", "1.0.0"]
    assert asked == ["hf://acme"]


def test_choosing_among_entries_reads_no_manifest(registry):
    for manifest in registry.root.rglob("manifest.json"):
        manifest.unlink()
    entries = admitted_entries(registry, parse_reference("inferaligner@^1"))
    assert [f"{entry.variant} {entry.version}" for entry in entries] == ["tiny 1.2.0", "small 1.1.0", "tiny 1.0.0"]
