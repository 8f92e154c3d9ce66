"""The vetted artifact over a registry: it is what a plan really uses, or the vetting stops."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.guarded_models import registry_for, shared_model
from tests.vetting_suites import model_and_tokenizer, vetted_artifact, vetting_job

from steerguard.errors import ArtifactIntegrityError, EvaluationError
from steerguard.evaluate.guarding import guarded
from steerguard.policy.load import parse_policy
from steerguard.vetting.load_suite import policy_for
from steerguard.vetting.overlay import Overlay, require_used


def test_it_replaces_the_artifact_of_the_same_name_and_keeps_the_others(tmp_path):
    base, vetted = registry_for(shared_model()), vetted_artifact()
    other = replace(vetted, digest=f"sha256:{'0' * 64}")
    overlay = Overlay(base, other)
    assert [entry.reference for entry in overlay.entries()] == [entry.reference for entry in base.entries()]
    assert [entry.digest for entry in overlay.entries() if entry.family == "harmful-intent"] == [other.digest]
    assert overlay.name == base.name
    for entry in base.entries():
        if entry.family != "harmful-intent":
            assert overlay.pin(entry) == base.pin(entry)
            assert dict(overlay.read(overlay.pin(entry))) == dict(base.read(base.pin(entry)))


def test_a_new_artifact_is_added():
    base, vetted = registry_for(shared_model()), vetted_artifact()
    renamed = replace(vetted, manifest=vetted.manifest.model_copy(update={"family": "aaa"}))
    assert Overlay(base, renamed).entries()[0].family == "aaa"
    assert len(Overlay(base, renamed).entries()) == len(base.entries()) + 1


def test_its_manifest_must_have_the_digest_of_the_entry():
    overlay = Overlay(registry_for(shared_model()), replace(vetted_artifact(), digest=f"sha256:{'0' * 64}"))
    entry = next(entry for entry in overlay.entries() if entry.family == "harmful-intent")
    with pytest.raises(ArtifactIntegrityError):
        overlay.pin(entry)


def test_attestations_are_those_of_the_vetted_files():
    vetted = vetted_artifact()
    files = {**vetted.files, "attestations/release.x.json": b"{}"}
    overlay = Overlay(registry_for(shared_model()), replace(vetted, files=files))
    assert overlay.attestations(vetted.entry) == {"attestations/release.x.json": b"{}"}


def test_a_plan_that_uses_another_artifact_is_refused(tmp_path):
    model, tokenizer = model_and_tokenizer()
    job = vetting_job(tmp_path)
    overlay = Overlay(job.base, job.artifact)
    policy = policy_for(job.suite.suite.cases[0], job.artifact.manifest, where="suite")
    with guarded(model, policy, tokenizer, overlay) as wrapped:
        require_used(wrapped.guard.plan, job.artifact.digest, "x")
        with pytest.raises(EvaluationError, match="does not use the artifact that is vetted") as caught:
            require_used(wrapped.guard.plan, f"sha256:{'1' * 64}", "x")
    assert job.artifact.digest in str(caught.value.found)


def test_a_policy_without_artifacts_is_said_so(tmp_path):
    model, tokenizer = model_and_tokenizer()
    text = (
        "{apiVersion: steerguard/v1alpha1, kind: GuidancePolicy, metadata: {name: none, version: 1.0.0, description: d,"
        " owner: o}, target: {modalities: [text]}, default: {action: allow}, refusal: {template: no}}"
    )
    policy = parse_policy(text, file="p.yaml")
    with guarded(model, policy, tokenizer, registry_for(model)) as wrapped, pytest.raises(EvaluationError) as caught:
        require_used(wrapped.guard.plan, f"sha256:{'1' * 64}", "x")
    assert caught.value.found == "no artifact at all"
