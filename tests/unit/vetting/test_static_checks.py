"""Level 1: each check finds what it is for, and nothing is judged after the first failure."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.guarded_models import fresh_model, shared_model, tokenizer
from tests.repinned import repinned
from tests.vetting_suites import vetted_artifact

from steerguard.models.inspect import inspect_model
from steerguard.vetting.static_checks import static_checks


def checked(vetted, model=None):
    model = shared_model() if model is None else model
    return static_checks(vetted, model, tokenizer(), inspect_model(model, tokenizer()))


def outcome(findings):
    return [(check.id, check.passed) for check in findings.checks]


def test_a_sound_artifact_passes_every_check():
    findings = checked(vetted_artifact())
    assert outcome(findings) == [("integrity", True), ("tensors", True), ("fit", True), ("fingerprint", True)]
    assert findings.passed
    assert float(findings.fingerprint_distance) < 1e-3
    assert all(check.found for check in findings.checks)


def test_a_changed_byte_fails_integrity():
    vetted = vetted_artifact()
    content = vetted.files["weights/probe.safetensors"]
    files = {**vetted.files, "weights/probe.safetensors": content[:-1] + bytes([content[-1] ^ 1])}
    findings = checked(replace(vetted, files=files))
    assert outcome(findings) == [("integrity", False)]
    assert "ArtifactIntegrityError" in findings.checks[0].found
    assert findings.fingerprint_distance is None


def test_a_tensor_that_is_not_finite_fails():
    vetted = vetted_artifact()
    path = "weights/probe.safetensors"
    nan = torch.tensor(float("nan")).numpy().tobytes()
    content = vetted.files[path][:-4] + nan
    findings = checked(repinned(vetted, {path: content}))
    assert outcome(findings) == [("integrity", True), ("tensors", False)]
    assert "NaN" in findings.checks[1].found


def test_another_architecture_does_not_fit():
    findings = checked(vetted_artifact(), fresh_model("qwen2"))
    assert outcome(findings)[-1] == ("fit", False)
    assert "decoder" in findings.checks[-1].found


def test_other_weights_have_another_fingerprint():
    model = fresh_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    findings = checked(vetted_artifact(), model)
    assert outcome(findings)[-1] == ("fingerprint", False)
    assert not findings.passed


@pytest.mark.parametrize("field", ["tokenizer_sha256", "chat_template_sha256"])
def test_another_tokenizer_does_not_fit(field):
    model = shared_model()
    facts = replace(inspect_model(model, tokenizer()), **{field: "0" * 64})
    findings = static_checks(vetted_artifact(), model, tokenizer(), facts)
    assert outcome(findings)[-1] == ("fit", False)
