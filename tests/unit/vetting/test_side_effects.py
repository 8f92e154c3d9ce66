"""A new version with measured side effects: what changes, what stays, and that it may be published."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.repinned import repinned
from tests.unit.artifacts.test_publishable import side_effects
from tests.vetting_suites import model_and_tokenizer, vetted_artifact, vetting_job

from steerguard.artifacts.manifest import manifest_digest, parse_manifest
from steerguard.artifacts.paths import is_pinned
from steerguard.artifacts.publishable import require_publishable
from steerguard.artifacts.side_effects import side_effects_of, side_effects_section
from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError, EvaluationError, PublishRefusedError
from steerguard.vetting.overlay import VettedArtifact
from steerguard.vetting.run import vet
from steerguard.vetting.side_effects import side_effects_found, with_side_effects

CREATED = "2026-11-22T12:00:00Z"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    job = vetting_job(tmp_path_factory.mktemp("suite"), at_least="{value: 1000.0}")
    effects = side_effects_found(vet(job, *model_and_tokenizer()), job.artifact, job.suite)
    return job.artifact, effects, with_side_effects(job.artifact, effects, version="1.0.1", created=CREATED)


def as_artifact(files):
    return VettedArtifact(
        files=files, manifest=parse_manifest(files["manifest.json"]), digest=manifest_digest(files["manifest.json"])
    )


def test_it_may_be_published_and_its_parent_may_not(measured):
    parent, _, files = measured
    require_publishable(files)
    with pytest.raises(PublishRefusedError, match="side effects"):
        require_publishable(parent.files)


def test_every_other_byte_is_the_parents(measured):
    parent, _, files = measured
    same = [path for path in parent.files if is_pinned(path) and path not in {"README.md", "benchmarks.json"}]
    assert len(same) > 2
    assert all(files[path] == parent.files[path] for path in same)
    assert set(files) == {path for path in parent.files if not path.startswith("attestations/")} | {"benchmarks.json"}


def test_the_manifest_says_what_changed(measured):
    parent, _, files = measured
    manifest = parse_manifest(files["manifest.json"])
    assert (manifest.version, manifest.created) == ("1.0.1", CREATED)
    assert manifest.parent.model_dump() == {"version": "1.0.0", "digest": parent.digest, "changed": "side effects"}
    before, after = json.loads(parent.files["manifest.json"]), json.loads(files["manifest.json"])
    assert {key for key in after if before.get(key) != after[key]} == {"version", "created", "parent", "files"}


def test_the_figures_say_what_they_are_of(measured):
    _, effects, files = measured
    stated = side_effects_of(json.loads(files["benchmarks.json"]))
    assert stated == effects
    assert [figure.id for figure in stated.figures] == ["over_refusal", "coherence", "overhead"]
    assert {figure.set for figure in stated.figures} == {"made-up benign prompts"}
    assert {figure.weights for figure in stated.figures} == {"float32"}
    assert all("threads" in figure.hardware for figure in stated.figures)
    assert stated.figure("over_refusal").n == 8
    assert side_effects_section(stated) in files["README.md"].decode()


def test_benchmarks_of_the_parent_are_kept(measured):
    _, effects, files = measured
    benchmarks = canonical_bytes({"build": [{"id": "x"}], "side_effects": "an older form"})
    parent = repinned(as_artifact(files), {"benchmarks.json": benchmarks})
    again = json.loads(with_side_effects(parent, effects, version="1.0.2", created=CREATED)["benchmarks.json"])
    assert again == {"build": [{"id": "x"}], "side_effects": effects.model_dump(mode="json")}


def test_measuring_again_replaces_the_section(measured):
    _, effects, files = measured
    once = files["README.md"].decode()
    again = with_side_effects(as_artifact(files), effects, version="1.0.2", created=CREATED)["README.md"].decode()
    assert once.count("## Side effects") == again.count("## Side effects") == 1
    assert again.count("model-index:") == 1


def test_attestations_stay_with_the_parent(measured):
    parent, effects, _ = measured
    signed = replace(parent, files={**parent.files, "attestations/release.x.json": b"{}"})
    files = with_side_effects(signed, effects, version="1.0.1", created=CREATED)
    assert not [path for path in files if path.startswith("attestations/")]


def test_the_section_stands_before_the_limits():
    parent = vetted_artifact()
    card = b"# A card\n\n- Version 1.0.0, type `probe`.\n\n## Limits\n\n- few\n"
    artifact = repinned(parent, {"README.md": card})
    effects = side_effects(artifact.manifest)
    text = with_side_effects(artifact, effects, version="1.0.1", created=CREATED)["README.md"].decode()
    assert text.index("## Side effects") < text.index("## Limits")
    assert "- Version 1.0.1, type" in text
    assert text.endswith("- few\n")


@pytest.mark.parametrize("version", ["1.0.0", "0.9.9", "1.1.0", "2.0.0"])
def test_another_version_than_a_higher_patch_is_refused(measured, version):
    parent, effects, _ = measured
    with pytest.raises(ArtifactFormatError, match="PATCH"):
        with_side_effects(parent, effects, version=version, created=CREATED)


def test_figures_of_other_tensors_are_refused(measured):
    parent, effects, _ = measured
    stale = effects.model_copy(update={"content_digest": f"sha256:{'0' * 64}"})
    with pytest.raises(PublishRefusedError, match="other tensors"):
        with_side_effects(parent, stale, version="1.0.1", created=CREATED)


def test_what_could_not_be_measured_is_named(tmp_path):
    job = vetting_job(tmp_path, at_least="{value: -1000.0}")
    with pytest.raises(EvaluationError, match="could not be measured") as caught:
        side_effects_found(vet(job, *model_and_tokenizer()), job.artifact, job.suite)
    assert caught.value.found == "missing: coherence"


def test_a_failed_check_is_named(tmp_path):
    vetted = vetted_artifact()
    job = vetting_job(tmp_path, artifact=replace(vetted, files={**vetted.files, "README.md": b"x"}))
    with pytest.raises(EvaluationError) as caught:
        side_effects_found(vet(job, *model_and_tokenizer()), job.artifact, job.suite)
    assert "integrity" in str(caught.value.found)
