"""`steerguard calibrate`: a tiny model and a file of prompts in, an attestation or a new version out."""

from __future__ import annotations

import json

import pytest
import typer
from tests.evaluations import tiny_policy
from tests.guarded_models import fresh_model, registry_for, shared_model, tokenizer
from tests.signed_artifacts import ACME, HUB, attest_all, revoked
from tests.signed_registries import add_version, copied_registry, lock_of, trust_file
from tests.trusted_models import locked_project
from typer.testing import CliRunner

from steerguard.artifacts.attestation import parse_attestation
from steerguard.artifacts.manifest import manifest_digest
from steerguard.artifacts.verify import verify_artifact
from steerguard.canonical import sha256_hex
from steerguard.cli.calibrate import calibrate
from steerguard.registry.folder import read_folder
from steerguard.registry.local import LocalDirectory
from steerguard.registry.lockfile import write_lock
from steerguard.testing import tiny_model, tiny_registry, tiny_tokenizer

app = typer.Typer()
app.command()(calibrate)
SECRET = "a private sentence of a user"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate")
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    tiny_registry(folder / "registry", model, tokenizer)
    return folder


@pytest.fixture
def folder(shared, tmp_path):
    lines = [SECRET, *(f"benign prompt number {i}" for i in range(30)), SECRET]
    (tmp_path / "own.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def run(shared, folder, *options, artifact="harmful-intent@^1", out="out.json", weights="float32"):
    arguments = [artifact, "--model", str(shared / "model"), "--registry", str(shared / "registry")]
    arguments += ["--benign", str(folder / "own.txt"), "--weights", weights, "--created", "2026-02-03T04:05:06Z"]
    return CliRunner().invoke(app, [*arguments, "--out", str(folder / out), *options])


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_it_writes_an_attestation_and_leaves_the_registry_as_it_was(shared, folder):
    before = contents(shared / "registry")
    result = run(shared, folder)
    assert result.exit_code == 0, result.output
    content = (folder / "out.json").read_bytes()
    attestation = parse_attestation(content, where="out.json")
    (pin,) = LocalDirectory(shared / "registry").pinned("harmful-intent")
    assert attestation.subject.digest == pin.digest
    assert attestation.created == "2026-02-03T04:05:06Z"
    assert attestation.predicate.model.weights == "float32"
    assert (attestation.predicate.prompts.n, attestation.predicate.prompts.distinct) == (32, 31)
    assert attestation.predicate.calibration.n == 32
    assert sha256_hex(content) in result.output
    assert "1 of 32 prompts repeat" in result.output
    assert contents(shared / "registry") == before


def test_the_prompts_are_in_no_output(shared, folder):
    result = run(shared, folder)
    assert SECRET not in result.output
    assert SECRET.encode() not in (folder / "out.json").read_bytes()
    assert b"benign prompt" not in (folder / "out.json").read_bytes()


def test_the_same_command_writes_the_same_bytes(shared, folder):
    assert run(shared, folder).exit_code == run(shared, folder, out="again.json").exit_code == 0
    assert (folder / "out.json").read_bytes() == (folder / "again.json").read_bytes()


def test_it_writes_a_new_version_that_differs_in_the_calibration_and_adds_it(shared, folder):
    store = tiny_registry(folder / "registry", *_loaded(shared))
    result = run(shared, folder, "--as-version", "1.1.0", "--add-to", str(folder / "registry"), out="version")
    assert result.exit_code == 0, result.output
    files = read_folder(folder / "version")
    artifact = verify_artifact(files, manifest_digest(files["manifest.json"]))
    assert artifact.calibration.n == 32
    assert artifact.manifest.parent.digest == store.pinned("harmful-intent")[-1].digest
    assert [pin.version for pin in store.pinned("harmful-intent")] == ["1.1.0", "1.0.0"]
    assert json.loads(files["manifest.json"])["created"] == "2026-02-03T04:05:06Z"


def _loaded(shared):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(shared / "model").eval()
    return model, AutoTokenizer.from_pretrained(shared / "model")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"artifact": "harmful-intend@^1"}, "harmful-intent"),
        ({"artifact": "inferaligner@^1"}, "used as `probe`"),
        ({"artifact": "harmful-intent@^9"}, "^9"),
        ({"weights": "bfloat16"}, "fingerprint"),
        ({"weights": "int4"}, "type of weights"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(shared, folder, options, words):
    result = run(shared, folder, **options)
    assert result.exit_code == 1
    assert words in result.output
    assert not (folder / "out.json").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--as-version", "1.0.0"), "higher"),
        (("--as-version", "1.1"), "three numbers"),
        (("--created", "today"), "not a time"),
        (("--add-to", "registry"), "Only a new version"),
        (("--benign", "absent.txt"), "cannot be read"),
        (("--model", "absent"), "model folder does not exist"),
    ],
)
def test_wrong_options_are_refused(shared, folder, more, words):
    result = run(shared, folder, *more)
    assert result.exit_code == 1
    assert words in result.output
    assert not (folder / "out.json").exists()


def test_an_output_that_exists_or_lies_inside_an_artifact_is_refused(shared, folder):
    (folder / "out.json").write_text("mine", encoding="utf-8")
    assert "exists already" in run(shared, folder).output
    assert (folder / "out.json").read_text(encoding="utf-8") == "mine"
    (pin,) = LocalDirectory(shared / "registry").pinned("harmful-intent")
    inside = shared / "registry" / pin.family / pin.variant / pin.version / "attestations" / "own.json"
    result = run(shared, folder, "--out", str(inside))
    assert "inside an artifact" in result.output
    assert not inside.exists()


def test_other_weights_of_the_same_shape_are_refused(shared, folder):
    tiny_model("llama", seed=5).save_pretrained(folder / "other")
    tiny_tokenizer().save_pretrained(folder / "other")
    result = run(shared, folder, "--model", str(folder / "other"))
    assert result.exit_code == 1
    assert "not those that the artifact was made on" in result.output


@pytest.fixture
def signed(folder, monkeypatch):
    """A model, an unsigned copy of its registry, and a trust policy that lets one publisher sign there."""
    monkeypatch.setenv("STEERGUARD_STORE", str(folder / "store"))
    fresh_model().save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    registry = copied_registry(folder / "registry", shared_model())
    return registry, ("--trust", str(trust_file(folder, registry)))


def subject(folder):
    return parse_attestation((folder / "out.json").read_bytes(), where="out.json").subject.digest


def test_an_artifact_under_a_trust_policy_is_calibrated_where_it_is_signed(signed, folder):
    registry, trust = signed
    refused = run(folder, folder, *trust)
    assert refused.exit_code == 1
    assert "SignatureError: " in refused.output
    assert not (folder / "out.json").exists()
    attest_all(registry, ACME)
    assert run(folder, folder, *trust).exit_code == 0
    assert subject(folder) == registry.pinned("harmful-intent")[0].digest
    assert run(folder, folder, out="plain.json").exit_code == 0
    assert (folder / "plain.json").read_bytes() == (folder / "out.json").read_bytes()


def test_who_is_not_trusted_is_said_before_a_model_is_loaded(signed, folder):
    result = run(folder, folder, *signed[1], "--model", str(folder / "absent"))
    assert "SignatureError: " in result.output


def test_an_unsigned_higher_version_is_not_passed_over(signed, folder):
    registry, trust = signed
    attest_all(registry, ACME)
    add_version(registry, "harmful-intent", "1.1.0", folder / "new")
    assert "SignatureError: " in run(folder, folder, *trust).output
    assert not (folder / "out.json").exists()


def test_a_lock_file_says_which_version_is_calibrated(signed, folder):
    registry, trust = signed
    attest_all(registry, ACME)
    before = registry.pinned("harmful-intent")[0].digest
    lock = folder / "steerguard.lock"
    write_lock(lock, lock_of(registry, [tiny_policy()]))
    add_version(registry, "harmful-intent", "1.1.0", folder / "new")
    attest_all(registry, ACME)
    result = run(folder, folder, *trust, "--lock", str(lock))
    assert result.exit_code == 0, result.output
    assert subject(folder) == before != registry.pinned("harmful-intent")[0].digest


def test_a_lock_file_without_the_reference_is_refused(signed, folder):
    registry, trust = signed
    attest_all(registry, ACME)
    lock = folder / "steerguard.lock"
    write_lock(lock, lock_of(registry, [tiny_policy()]))
    result = run(folder, folder, *trust, "--lock", str(lock), artifact="harmful-intent@1.0.0")
    assert result.exit_code == 1
    assert "UnlockedArtifactError: " in result.output
    assert not (folder / "out.json").exists()


def test_what_is_locked_on_the_hub_and_pulled_is_calibrated(signed, folder):
    project = locked_project(folder, shared_model(), document=tiny_policy())
    reference = f"{HUB}/harmful-intent@^1"
    trust, lock = ("--trust", str(project.trust)), ("--lock", str(project.lock))
    for given in ((), lock):
        assert "SignatureError: " in run(folder, folder, *given, artifact=reference).output
    result = run(folder, folder, *trust, *lock, artifact=reference)
    assert result.exit_code == 0, result.output
    assert subject(folder) == registry_for(shared_model()).pinned("harmful-intent")[0].digest
    project.publish_list(revoked(family="harmful-intent"))
    result = run(folder, folder, *trust, *lock, artifact=reference, out="again.json")
    assert "RevokedError: " in result.output
    assert not (folder / "again.json").exists()


def test_warnings_of_the_judge_are_printed(signed, folder):
    loosened = "unsigned_local: {action: allow, reason: built here for tests, expires: 2999-12-31}"
    trust = trust_file(folder, signed[0], extra=loosened)
    result = run(folder, folder, "--trust", str(trust))
    assert result.exit_code == 0, result.output
    assert "warning: " in result.stderr
    assert "built here for tests" in result.stderr
