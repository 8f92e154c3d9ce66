"""A policy's own calibration: used when it is what the policy pins and fits artifact and model, refused otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.guarded_models import conversation, guarded, policy, registry_for, shared_model, tokenizer

from steerguard.artifacts.attestation import attestation_bytes
from steerguard.artifacts.verify import verify_artifact
from steerguard.build.own_calibration import attest, calibrate
from steerguard.canonical import canonical_bytes, sha256_hex
from steerguard.errors import ArtifactFormatError, ArtifactIntegrityError, CalibrationError, SteerguardError
from steerguard.models.inspect import inspect_model
from steerguard.plan.compile import compile_plan
from steerguard.plan.describe import describe
from steerguard.plan.planned_rules import float32, raised
from steerguard.plan.resolve import ResolvedArtifact, resolve_artifacts
from steerguard.policy.load import load_policy

DETECTOR = (
    "{{id: d, type: linear_probe, artifact: harmful-intent@^1, calibration: {{file: {file}, sha256: {sha256!r}}}}}"
)


def document(file, content, *, bound="{fpr: 0.05}", more=""):
    entry = DETECTOR.format(file=file, sha256=sha256_hex(content))
    return policy(bound, detector=False, more=f"detectors: [{entry}{more}]")


@pytest.fixture(scope="module")
def attestation():
    model = shared_model()
    store = registry_for(model)
    (pin,) = store.pinned("harmful-intent")
    artifact = verify_artifact(store.read(pin), pin.digest)
    own = calibrate(
        artifact, model, tokenizer(), [conversation(f"benign prompt {i}") for i in range(40)], source="tests"
    )
    return attest(artifact, own, created="2026-01-01T00:00:00Z")


@pytest.fixture
def content(attestation):
    return attestation_bytes(attestation)


@pytest.fixture
def file(tmp_path, content):
    path = tmp_path / "own.json"
    path.write_bytes(content)
    return path


def plan_of(chosen):
    model = shared_model()
    facts = inspect_model(model, tokenizer())
    return compile_plan(chosen, facts, resolve_artifacts(chosen, facts, registry_for(model)))


def test_thresholds_come_from_the_policys_calibration(attestation, file, content):
    own = plan_of(document(file, content))
    (rule,) = own.rules
    calibrated = float32(attestation.predicate.calibration.threshold("0.05"))
    assert rule.when.at_least.value == raised(calibrated, own.tolerances["d"])
    assert rule.when.at_least.value != plan_of(policy("{fpr: 0.05}")).rules[0].when.at_least.value
    assert rule.when.at_least.fpr == "0.05"


def test_the_plan_records_which_calibration_it_used(file, content):
    own, shipped, raw = (plan_of(chosen) for chosen in (document(file, content), policy("{fpr: 0.05}"), policy(0.5)))
    (record,) = own.document()["detectors"]
    assert record["calibration"] == {"origin": "attestation", "digest": f"sha256:{sha256_hex(content)}", "n": 40}
    assert shipped.detectors[0].calibration.origin == "artifact"
    assert shipped.detectors[0].calibration.n == 99
    assert raw.detectors[0].calibration is None
    assert own.digest != shipped.digest
    assert any(
        f"the policy's calibration on 40 benign prompts, sha256:{sha256_hex(content)}" in s for s in describe(own)
    )
    assert any("the artifact's own calibration on 99 benign prompts" in sentence for sentence in describe(shipped))
    assert not any("Rates of" in sentence for sentence in describe(raw))


def test_an_explanation_says_which_calibration_was_used(file, content):
    with guarded(shared_model(), document(file, content)) as model:
        text = str(model.guard.explain(conversation("hello there")))
    assert f"Rates of `d` come from the policy's calibration on 40 benign prompts, sha256:{sha256_hex(content)}" in text


def test_two_detectors_of_one_artifact_keep_their_own_calibrations(file, content):
    second = ", {id: e, type: linear_probe, artifact: harmful-intent@^1}"
    rules = """
rules:
  - {id: r, when: {detector: d, score: {at_least: {fpr: 0.05}}}, then: {action: refuse}}
  - {id: s, when: {detector: e, score: {at_least: {fpr: 0.05}}}, then: {action: refuse}}
default: {action: allow}"""
    entry = DETECTOR.format(file=file, sha256=sha256_hex(content))
    plan = plan_of(policy(rules=rules, detector=False, more=f"detectors: [{entry}{second}]"))
    assert [detector.calibration.origin for detector in plan.detectors] == ["attestation", "artifact"]
    assert plan.rules[0].when.at_least.value != plan.rules[1].when.at_least.value


def edited(content, edit):
    data = json.loads(content)
    edit(data)
    return canonical_bytes(data)


@pytest.mark.parametrize(
    ("edit", "kind", "words"),
    [
        (lambda data: data["subject"].update(digest="sha256:" + "0" * 64), CalibrationError, "another artifact"),
        (lambda data: data["predicate"]["model"].update(weights="bfloat16"), CalibrationError, "type of weights"),
        (
            lambda data: data["predicate"]["model"].update(fingerprint_distance="0.5"),
            CalibrationError,
            "does not fit",
        ),
        (lambda data: data.update(kind="Lockfile"), ArtifactFormatError, "kind"),
        (lambda data: data["predicate"]["calibration"].update(n=39), ArtifactFormatError, "number of scores"),
    ],
)
def test_what_does_not_fit_is_refused_with_expected_found_and_where(file, content, edit, kind, words):
    wrong = edited(content, edit)
    file.write_bytes(wrong)
    with pytest.raises(kind, match=words) as raised:
        plan_of(document(file, wrong))
    error = raised.value
    assert error.expected is not None
    assert error.found is not None
    assert "detector `d`" in str(error.where)
    assert file.name in str(error.where)


def test_other_bytes_than_the_policy_pins_are_refused(file, content):
    chosen = document(file, content)
    file.write_bytes(content + b"\n")
    with pytest.raises(ArtifactIntegrityError, match="not the one that the policy pins") as raised:
        plan_of(chosen)
    assert raised.value.expected == sha256_hex(content)
    assert raised.value.next_step


def test_a_missing_file_a_folder_and_an_impossible_path_are_refused(tmp_path, content):
    for file in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(CalibrationError, match="does not exist"):
            plan_of(document(file, content))
    with pytest.raises(SteerguardError):
        plan_of(document('"a\\0b"', content))


def test_a_rate_below_what_the_own_scores_bound_is_refused(file, content):
    with pytest.raises(CalibrationError, match="40 benign scores cannot bound"):
        plan_of(document(file, content, bound="{fpr: 0.02}"))


def test_compiling_without_the_policys_calibration_never_falls_back_to_the_artifacts(file, content):
    model = shared_model()
    facts = inspect_model(model, tokenizer())
    chosen = document(file, content)
    resolved = {
        name: ResolvedArtifact(pin=one.pin, store=one.store, calibration=one.calibration)
        for name, one in resolve_artifacts(chosen, facts, registry_for(model)).items()
    }
    with pytest.raises(CalibrationError, match="was not resolved"):
        compile_plan(chosen, facts, resolved)


def test_a_relative_path_starts_at_the_folder_of_the_policy_file(tmp_path, content, monkeypatch):
    import yaml

    folder = tmp_path / "policies"
    (folder / "calibrations").mkdir(parents=True)
    (folder / "calibrations" / "own.json").write_bytes(content)
    data = document("calibrations/own.json", content).document()
    (folder / "mine.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    loaded = load_policy(Path("policies") / "mine.yaml")
    monkeypatch.chdir("/")
    assert plan_of(loaded).detectors[0].calibration.origin == "attestation"
    assert plan_of(load_policy(loaded)).detectors[0].calibration.origin == "attestation"


def test_a_policy_made_in_code_reads_relative_paths_from_the_working_directory(file, content, monkeypatch):
    chosen = document(file.name, content)
    monkeypatch.chdir(file.parent)
    assert plan_of(chosen).detectors[0].calibration.origin == "attestation"
    monkeypatch.chdir("/")
    with pytest.raises(CalibrationError, match="does not exist"):
        plan_of(chosen)
    assert plan_of(chosen.located_in(file.parent)).detectors[0].calibration.origin == "attestation"
