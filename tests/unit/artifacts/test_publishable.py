"""What a card must show before an artifact may be published."""

from __future__ import annotations

import json

import pytest
from tests.vetting_suites import vetted_artifact

from steerguard.artifacts.card_metadata import card_metadata, with_front_matter
from steerguard.artifacts.manifest import parse_manifest
from steerguard.artifacts.publishable import require_publishable
from steerguard.artifacts.side_effects import (
    REQUIRED,
    SideEffectFigure,
    SideEffects,
    SuiteName,
    measured_content,
    side_effects_of,
    side_effects_section,
)
from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError, PublishRefusedError
from steerguard.registry.local import embedded_registry


def figure(name, **fields):
    return SideEffectFigure(
        **{
            "id": name,
            "title": f"Title of {name}",
            "set": "own benign prompts, held_out",
            "n": 20,
            "value": "0.0500",
            "low": "0.0100",
            "high": "0.2000",
            "interval": "wilson",
            "weights": "bfloat16",
            "hardware": "x86_64 CPU, 2 threads",
            **fields,
        }
    )


def side_effects(manifest, figures=None):
    return SideEffects(
        content_digest=measured_content(manifest),
        suite=SuiteName(name="quick", version="1.0.0", sha256="0" * 64),
        policy="vet-probe",
        max_new_tokens=16,
        sdk="0.1",
        figures=tuple(figure(name) for name in REQUIRED) if figures is None else figures,
    )


def publishable_files(effects=None, **changed):
    """The files of an artifact whose card shows the side effects; integrity is not what is judged here."""
    parent = vetted_artifact()
    effects = side_effects(parent.manifest) if effects is None else effects
    card = f"# A probe\n\n{side_effects_section(effects)}\n"
    files = {
        **parent.files,
        "benchmarks.json": canonical_bytes({"side_effects": effects.model_dump(mode="json")}),
        "README.md": with_front_matter(card, card_metadata(parent.manifest, effects)).encode(),
    }
    return {path: content for path, content in {**files, **changed}.items() if content is not None}


def refused(files):
    with pytest.raises(PublishRefusedError) as caught:
        require_publishable(files)
    return caught.value


def test_measured_side_effects_that_the_card_shows_are_enough():
    require_publishable(publishable_files())


@pytest.mark.parametrize("missing", REQUIRED)
def test_each_missing_figure_is_named(missing):
    manifest = vetted_artifact().manifest
    effects = side_effects(manifest, tuple(figure(name) for name in REQUIRED if name != missing))
    error = refused(publishable_files(effects))
    assert error.found == f"missing: {missing}"
    assert "steerguard vet" in error.next_step


def test_without_benchmarks_all_figures_are_missing():
    error = refused(publishable_files(**{"benchmarks.json": None}))
    assert error.found == "missing: over_refusal, coherence, overhead"


@pytest.mark.parametrize("reference", ["harmful-intent", "inferaligner-steps", "harm-cost"])
def test_the_embedded_artifacts_have_no_side_effects_yet(reference):
    registry = embedded_registry()
    entry = next(entry for entry in registry.entries() if entry.family == reference)
    assert "missing" in refused(registry.read(registry.pin(entry))).found


def test_a_card_without_the_section_is_refused():
    files = publishable_files()
    card = files["README.md"].replace(b"0.0500 | 0.0100 to 0.2000", b"0.0400 | 0.0100 to 0.2000", 1)
    assert "does not show" in refused({**files, "README.md": card}).summary


def test_line_ends_of_another_system_are_the_same_text():
    files = publishable_files()
    require_publishable({**files, "README.md": files["README.md"].replace(b"\n", b"\r\n")})


def test_figures_of_other_tensors_are_refused():
    files = publishable_files()
    fields = json.loads(files["manifest.json"])
    for entry in fields["files"]:
        if entry["path"] == "weights/probe.safetensors":
            entry["sha256"] = "0" * 64
    manifest = canonical_bytes(fields)
    assert "other tensors" in refused({**files, "manifest.json": manifest}).summary


def test_text_may_change_without_a_new_measurement():
    manifest = vetted_artifact().manifest
    fields = json.loads(vetted_artifact().files["manifest.json"])
    for entry in fields["files"]:
        if entry["path"] == "README.md":
            entry["sha256"] = "0" * 64
    assert measured_content(parse_manifest(canonical_bytes({**fields, "version": "1.0.1"}))) == measured_content(
        manifest
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"license: apache-2.0", b"license: mit"),
        (b"pipeline_tag: text-generation\n", b""),
        (b"- steerguard\n", b"- other\n"),
        (b"value: 0.05\n", b"value: 0.01\n"),
        (b"---\n", b""),
        (b"library_name: steerguard", b"library_name: [steerguard"),
    ],
)
def test_front_matter_that_says_something_else_is_refused(old, new):
    files = publishable_files()
    assert old in files["README.md"]
    error = refused({**files, "README.md": files["README.md"].replace(old, new, 1)})
    assert str(error.where).startswith("README.md")


def test_more_tags_and_fields_are_welcome():
    files = publishable_files()
    card = files["README.md"].replace(b"- steerguard\n", b"- steerguard\n- mine\n", 1)
    require_publishable({**files, "README.md": card.replace(b"---\n", b"---\nlanguage: en\n", 1)})


@pytest.mark.parametrize("path", ["manifest.json", "README.md"])
def test_a_missing_file_is_named(path):
    assert refused(publishable_files(**{path: None})).where == path


def test_a_card_that_is_no_text_is_refused():
    assert "UTF-8" in refused(publishable_files(**{"README.md": b"\xff"})).summary


@pytest.mark.parametrize(
    "change",
    [
        {"value": "0.9000"},
        {"low": "-0.1000"},
        {"n": 0},
        {"interval": "guess"},
        {"more": "x"},
    ],
)
def test_a_figure_that_cannot_be_is_refused(change):
    data = side_effects(vetted_artifact().manifest).model_dump(mode="json")
    data["figures"][0].update(change)
    with pytest.raises(ArtifactFormatError):
        side_effects_of({"side_effects": data})


def test_a_figure_twice_is_refused():
    manifest = vetted_artifact().manifest
    data = side_effects(manifest, (figure("overhead"), figure("overhead"))).model_dump(mode="json")
    with pytest.raises(ArtifactFormatError, match="twice"):
        side_effects_of({"side_effects": data})


def test_nobody_measured_is_not_an_error_of_the_format():
    assert side_effects_of({"build": []}) is None
