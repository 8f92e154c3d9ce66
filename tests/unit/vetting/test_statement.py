"""The signed statement: who may sign it, what it is about, where it goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.signed_artifacts import ACME, LAB, NOW, REGISTRY, release, trust
from tests.unit.vetting.test_run import recorded
from tests.vetting_suites import vetted_artifact, vetting_job

from steerguard.artifacts.release import release_path, release_statement
from steerguard.artifacts.vetting import parse_vetting, vetting_path
from steerguard.errors import EvaluationError, SignatureError, VettingError
from steerguard.signing.dsse import sign, verified_payload
from steerguard.signing.keys import SigningKey
from steerguard.signing.statement import STATEMENT
from steerguard.trust.judge import TrustedJudge
from steerguard.vetting.statement import require_independent, signed_statement, write_statement


@pytest.fixture(scope="module")
def vetter():
    return SigningKey.generate()


def released(*keys):
    """The files of an artifact with a release envelope of each key."""
    vetted = vetted_artifact()
    statement = release_statement(vetted.manifest, vetted.digest, "acme", "2026-01-01T00:00:00Z")
    return {**vetted.files, **{release_path(key.public.id): sign(statement, STATEMENT, (key,)) for key in keys}}


def test_the_envelope_verifies_and_is_about_the_artifact(tmp_path, vetter):
    job = vetting_job(tmp_path, level=1)
    _, record = recorded(job)
    record = record.model_copy(update={"vetted_by": vetter.public.text})
    content = signed_statement(job.artifact, record, vetter)
    payload, signers = verified_payload(content, STATEMENT, (vetter.public,), where="s")
    assert signers == (vetter.public,)
    statement = parse_vetting(payload, where="s")
    assert (statement.digest, statement.predicate) == (job.artifact.digest, record)
    weights = {entry.path for entry in job.artifact.manifest.files if entry.path.startswith("weights/")}
    assert {subject.name for subject in statement.subject[1:]} == weights


def test_a_record_that_names_another_key_is_not_signed(tmp_path, vetter):
    job = vetting_job(tmp_path, level=1)
    with pytest.raises(VettingError, match="another key"):
        signed_statement(job.artifact, recorded(job)[1], vetter)


def test_another_key_than_the_publishers_is_independent(vetter):
    require_independent(released(SigningKey.generate()), vetter.public, where="a")


def test_the_publisher_is_not(vetter):
    with pytest.raises(VettingError, match="publisher of an artifact cannot vet it"):
        require_independent(released(SigningKey.generate(), vetter), vetter.public, where="a")


def test_who_is_said_to_be_the_publisher_is_not_either(vetter):
    files = released(SigningKey.generate())
    path = next(path for path in files if path.startswith("attestations/"))
    files[path] = files[path].replace(path.split(".")[1].encode(), vetter.public.id.encode())
    with pytest.raises(VettingError, match="publisher of an artifact cannot vet it"):
        require_independent(files, vetter.public, where="a")


def test_without_a_release_nobody_is_independent(vetter):
    with pytest.raises(VettingError, match="nobody has signed a release"):
        require_independent(vetted_artifact().files, vetter.public, where="a")


def test_a_broken_release_is_refused(vetter):
    files = {**vetted_artifact().files, "attestations/release.ed25519-0.json": b"{}"}
    with pytest.raises(SignatureError):
        require_independent(files, vetter.public, where="a")


def test_a_statement_is_never_written_over_another(tmp_path):
    path = tmp_path / "attestations" / "vetting.json"
    write_statement(path, b"one")
    with pytest.raises(EvaluationError, match="cannot be written"):
        write_statement(path, b"two")
    assert path.read_bytes() == b"one"
    assert [entry.name for entry in path.parent.iterdir()] == ["vetting.json"]


def test_the_statement_changes_nothing_of_the_digest(tmp_path, vetter):
    vetted = vetted_artifact()
    files = {**vetted.files, "attestations/vetting.x.20260101T000000Z.json": b"{}"}
    job = vetting_job(tmp_path, level=1, artifact=replace(vetted, files=files))
    assert recorded(job)[1].verdict == "pass"


@pytest.mark.parametrize(
    ("require", "level"), [("{vetting_level: 2, other_vetter: true}", 2), ("{vetting_level: 3}", 3)]
)
def test_a_trust_policy_believes_a_passing_record_of_its_vetter(tmp_path, require, level):
    job = vetting_job(tmp_path, level=level)
    record = recorded(job)[1].model_copy(update={"vetted_by": LAB.public.text})
    path = vetting_path(LAB.public.id, record.vetted_at)
    attestations = {
        **release(job.artifact.manifest, job.artifact.digest, ACME),
        path: signed_statement(job.artifact, record, LAB),
    }
    judge = TrustedJudge(trust(require=require), {}, now=lambda: NOW)
    assert judge.admit(job.artifact.entry, registry=REGISTRY, attestations=attestations).vetting_level == level


def test_a_trust_policy_does_not_believe_a_failing_one(tmp_path):
    bars = ("{metric: harmful_acted, set: harmful, at_least: 0.9}",)
    job = vetting_job(tmp_path, bars=bars, at_least="{value: 1000.0}")
    record = recorded(job)[1].model_copy(update={"vetted_by": LAB.public.text})
    attestations = {
        **release(job.artifact.manifest, job.artifact.digest, ACME),
        vetting_path(LAB.public.id, record.vetted_at): signed_statement(job.artifact, record, LAB),
    }
    judge = TrustedJudge(trust(require="{vetting_level: 1}"), {}, now=lambda: NOW)
    with pytest.raises(VettingError):
        judge.admit(job.artifact.entry, registry=REGISTRY, attestations=attestations)
