"""Vetting a tiny artifact from suite to record."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.guarded_models import fresh_model, registry_for, shared_model, state_of, tokenizer
from tests.vetting_suites import ROWS, model_and_tokenizer, vetted_artifact, vetting_job

from steerguard.artifacts.manifest import manifest_bytes, manifest_digest
from steerguard.artifacts.vetting import check_record, parse_vetting, vetting_statement
from steerguard.errors import EvaluationError
from steerguard.signing.keys import SigningKey
from steerguard.vetting.overlay import Overlay, VettedArtifact
from steerguard.vetting.record import VettingTerms, conditions_of, record_of
from steerguard.vetting.run import vet

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def terms(days=10):
    key = SigningKey.generate().public.text
    return VettingTerms(vetted_by=key, conditions=("by a test",), now=NOW, valid_for=timedelta(days=days))


def recorded(job, model=None):
    found = vet(job, *(model_and_tokenizer() if model is None else (model, tokenizer())))
    return found, record_of(found, job.suite, terms())


def results(record):
    return {result.id: result for result in record.results}


def test_a_record_states_every_figure_with_its_interval_and_its_bar(tmp_path):
    job = vetting_job(tmp_path)
    found, record = recorded(job)
    by_id = results(record)
    assert set(by_id) >= {
        "harmful_acted.harmful",
        "harmful_refused.harmful",
        "benign_acted.benign",
        "over_refusal.benign",
        "overhead.benign",
    }
    assert by_id["over_refusal.benign"].n == ROWS
    assert by_id["over_refusal.benign"].bar == "<= 1.0"
    assert by_id["benign_acted.benign"].bar is by_id["benign_acted.benign"].passed is None
    for result in record.results:
        assert float(result.low) <= float(result.value) <= float(result.high)
    assert (record.level, record.verdict) == (2, "pass")
    assert record.suite.sha256 == job.suite.sha256
    assert record.environment.model.weights == "float32"
    assert float(record.environment.model.fingerprint_distance) < 1e-3
    assert (record.vetted_at, record.expires_at) == ("2026-11-22T12:00:00Z", "2026-12-02T12:00:00Z")
    assert any("vet-probe" in condition for condition in conditions_of(job, found))
    content = vetting_statement(job.artifact.manifest, job.artifact.digest, record)
    assert parse_vetting(content, where="s").predicate == record


def test_the_figures_are_those_of_the_policy(tmp_path):
    # A threshold below every score refuses everything, one above every score nothing.
    everything = results(recorded(vetting_job(tmp_path / "a", at_least="{value: -1000.0}"))[1])
    nothing = results(recorded(vetting_job(tmp_path / "b", at_least="{value: 1000.0}"))[1])
    assert (everything["harmful_acted.harmful"].value, everything["over_refusal.benign"].value) == ("1.0000", "1.0000")
    assert (nothing["harmful_acted.harmful"].value, nothing["benign_acted.benign"].value) == ("0.0000", "0.0000")
    assert "coherence.benign" not in everything
    assert nothing["coherence.benign"].value == "1.0000"


def test_a_missed_bar_fails_and_is_kept(tmp_path):
    bars = ("{metric: harmful_acted, set: harmful, at_least: 0.9}",)
    _, record = recorded(vetting_job(tmp_path, bars=bars, at_least="{value: 1000.0}"))
    assert record.verdict == "fail"
    missed = results(record)["harmful_acted.harmful"]
    assert (missed.passed, missed.bar, missed.value) == (False, ">= 0.9", "0.0000")
    check_record(record, where="record")


def test_a_bar_without_a_row_to_measure_it_on_fails(tmp_path):
    bars = ("{metric: over_refusal, set: benign, at_most: 1.0}", "{metric: coherence, set: benign, at_most: 9.0}")
    _, record = recorded(vetting_job(tmp_path, bars=bars, at_least="{value: -1000.0}"))
    assert record.verdict == "fail"
    assert [check.id for check in record.static_checks if not check.passed] == ["measured.coherence.benign"]


def test_a_damaged_artifact_is_not_run_and_the_record_says_so(tmp_path):
    vetted = vetted_artifact()
    damaged = replace(vetted, files={**vetted.files, "README.md": b"another card"})
    found, record = recorded(vetting_job(tmp_path, artifact=damaged))
    assert (record.level, record.verdict, record.results, record.suite) == (1, "fail", (), None)
    assert found.figures == ()
    check_record(record, where="record")


def test_another_model_is_not_answered_with(tmp_path):
    _, record = recorded(vetting_job(tmp_path), fresh_model("qwen2"))
    assert (record.level, record.verdict) == (1, "fail")
    assert record.static_checks[-1].id == "fit"


def test_level_1_runs_no_suite(tmp_path):
    found, record = recorded(vetting_job(tmp_path, level=1))
    assert (record.level, record.verdict, record.results, record.suite) == (1, "pass", (), None)
    assert found.policy is None


def test_the_model_is_as_before(tmp_path):
    model = shared_model()
    before = state_of(model)
    recorded(vetting_job(tmp_path))
    assert state_of(model) == before


def test_side_effects_need_the_benign_set_only(tmp_path):
    job = replace(vetting_job(tmp_path, at_least="{value: 1000.0}"), sets=("benign",))
    found = vet(job, *model_and_tokenizer())
    assert {figure.set for figure in found.figures} == {"benign"}
    assert {figure.name for figure in found.figures} >= {"over_refusal", "coherence", "overhead"}


def test_a_suite_whose_policy_names_another_artifact_is_refused(tmp_path):
    # The mark stands in the description only: the policy runs, with another artifact.
    job = vetting_job(
        tmp_path,
        artifact=vetted_artifact(),
        **{
            "artifact: $ARTIFACT": "artifact: other@^1",
            "description: for tests, owner": "description: $ARTIFACT, owner",
        },
    )
    manifest = job.artifact.manifest.model_copy(update={"family": "other"})
    content = manifest_bytes(manifest)
    files = {**job.artifact.files, "manifest.json": content}
    other = VettedArtifact(files=files, manifest=manifest, digest=manifest_digest(content))
    base = Overlay(registry_for(shared_model()), other)
    with pytest.raises(EvaluationError, match="does not use the artifact that is vetted"):
        vet(replace(job, base=base), *model_and_tokenizer())
