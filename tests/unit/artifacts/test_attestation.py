"""Attestations: one form, no surprise fields, no contradiction, no prompt."""

from __future__ import annotations

import json

import pytest
from tests.artifact_samples import sample_calibration

from steerguard.artifacts.attestation import (
    Attestation,
    BenignPrompts,
    CalibrationStatement,
    MeasuredModel,
    Subject,
    attestation_bytes,
    parse_attestation,
)
from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError


def sample():
    return Attestation(
        subject=Subject(family="harmful-intent", variant="tiny", version="1.0.0", digest="sha256:" + "a" * 64),
        predicate=CalibrationStatement(
            model=MeasuredModel(weights="float32", fingerprint_distance="1e-07"),
            prompts=BenignPrompts(n=19, distinct=18, sha256="b" * 64),
            calibration=sample_calibration(),
        ),
        created="2026-01-01T00:00:00Z",
    )


def edited(edit):
    data = json.loads(attestation_bytes(sample()))
    edit(data)
    return canonical_bytes(data)


def test_an_attestation_survives_its_bytes():
    content = attestation_bytes(sample())
    assert parse_attestation(content, where="x.json") == sample()
    data = json.loads(content)
    assert (data["apiVersion"], data["kind"], data["predicateType"]) == (
        "steerguard/v1alpha1",
        "Attestation",
        "calibration",
    )


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda data: data.update(kind="ArtifactManifest"), "kind"),
        (lambda data: data.update(apiVersion="steerguard/v9"), "apiVersion"),
        (lambda data: data.update(predicateType="vetting"), "predicateType"),
        (lambda data: data.update(signature="x"), "signature"),
        (lambda data: data.pop("subject"), "subject"),
        (lambda data: data["subject"].update(digest="sha256:short"), "subject.digest"),
        (lambda data: data.update(created="yesterday"), "created"),
        (lambda data: data["predicate"]["calibration"].update(n=18), "calibration: n"),
        (lambda data: data["predicate"]["calibration"]["benign_scores"].reverse(), "benign_scores"),
        (lambda data: data["predicate"]["prompts"].update(n=20), "predicate.prompts"),
        (lambda data: data["predicate"]["prompts"].update(distinct=20), "predicate.prompts"),
        (lambda data: data["predicate"]["model"].update(fingerprint_distance="nan"), "fingerprint_distance"),
    ],
)
def test_a_wrong_field_is_named(edit, named):
    with pytest.raises(ArtifactFormatError) as raised:
        parse_attestation(edited(edit), where="x.json")
    assert named in str(raised.value)
    assert "x.json" in str(raised.value)


def test_bytes_that_are_not_canonical_are_refused():
    with pytest.raises(ArtifactFormatError, match="canonical"):
        parse_attestation(json.dumps(json.loads(attestation_bytes(sample())), indent=1).encode(), where="x.json")
