"""`steerguard certify` as a command: a saved tiny model, prompts and labelled answers in, a certificate out."""

from __future__ import annotations

import csv
import json

import pytest
import typer
from tests.evaluations import policy_text, prompt_files, tiny_policy
from tests.guarded_models import registry_for, shared_model, tokenizer
from tests.signed_artifacts import ACME, attest_all
from tests.signed_registries import copied_registry, lock_of, trust_file
from tests.trusted_models import locked_project
from tests.unit.evaluate.test_judge import garden, rows
from typer.testing import CliRunner

from steerguard.canonical import canonical_bytes
from steerguard.cli.certify import INTERRUPTED, certify
from steerguard.evaluate.certificate_document import parse_certificate
from steerguard.evaluate.journal import Journal
from steerguard.registry.lockfile import write_lock

app = typer.Typer()
app.command()(certify)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    shared_model().save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    with (folder / "labelled.csv").open("w", newline="") as out:
        csv.writer(out).writerows([("question", "Response", "label"), *rows()])
    (folder / "benign.txt").write_text("\n".join(garden(40)))
    return folder


@pytest.fixture
def command(tmp_path, shared):
    (tmp_path / "policy.yaml").write_text(policy_text(), encoding="utf-8")
    bad, good = prompt_files(tmp_path)
    standard = registry_for(shared_model()).root

    def call(
        *more,
        prompts=(bad, good),
        policy="policy.yaml",
        judge=shared / "labelled.csv",
        out="c.json",
        registry=standard,
    ):
        return CliRunner().invoke(
            app,
            [
                *("--model", str(shared / "model"), "--policy", str(tmp_path / policy), "--judge", str(judge)),
                *(word for one in prompts for word in ("--prompts", one)),
                *("--registry", str(registry), "--out", str(tmp_path / out)),
                *("--max-new-tokens", "4", "--batch-size", "4", "--dtype", "float32"),
                *("--created", "2026-02-03T04:05:06Z", *more),
            ],
        )

    return call


def test_it_writes_a_certificate_that_verify_accepts(command, tmp_path, shared):
    result = command("--judge-harmless", str(shared / "benign.txt"), "--confidence", "0.99")
    assert result.exit_code == 0, result.stderr
    certificate = parse_certificate((tmp_path / "c.json").read_bytes(), where="c.json")
    assert (certificate.predicate.n, certificate.predicate.confidence) == (12, "0.99")
    assert certificate.predicate.judge.rows == "judge"
    assert certificate.predicate.judge.identity.startswith("word-tfidf-answer/1 sha256:")
    assert certificate.created == "2026-02-03T04:05:06Z"
    checked = CliRunner().invoke(app, ["--verify", str(tmp_path / "c.json")])
    assert checked.exit_code == 0, checked.stderr
    for said in (result.stdout, checked.stdout):
        assert f"at most {certificate.predicate.upper_bound}" in said
        assert "not signed" in said
        assert "its manifest states none" in said


def test_a_changed_certificate_is_refused(command, tmp_path):
    assert command().exit_code == 0
    data = json.loads((tmp_path / "c.json").read_bytes())
    data["predicate"]["upper_bound"] = "0.000001"
    (tmp_path / "c.json").write_bytes(canonical_bytes(data))
    result = CliRunner().invoke(app, ["--verify", str(tmp_path / "c.json")])
    assert result.exit_code == 1
    assert "contradict" in result.stderr


def test_the_work_folder_is_continued_after_an_interrupt(command, tmp_path, monkeypatch):
    append, left = Journal.append, iter(range(1))

    def interrupted(self, rows):
        if next(left, None) is None:
            raise KeyboardInterrupt
        append(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", interrupted)
        stopped = command("--work", str(tmp_path / "work"))
    assert stopped.exit_code == INTERRUPTED
    assert not (tmp_path / "c.json").exists()
    assert command("--work", str(tmp_path / "work")).exit_code == 0
    assert command(out="fresh.json").exit_code == 0
    assert (tmp_path / "c.json").read_bytes() == (tmp_path / "fresh.json").read_bytes()


def test_prompts_out_of_the_judges_file_are_refused(command, tmp_path, shared):
    result = command(prompts=(f"{shared / 'labelled.csv'}#Response[0:5]",))
    assert result.exit_code == 1
    assert "come from a training file" in result.stderr
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize(
    ("more", "given", "said"),
    [
        ((), {"policy": "absent.yaml"}, "absent.yaml"),
        ((), {"prompts": ("absent.txt",)}, "cannot be read"),
        ((), {"prompts": ("prompts.xlsx",)}, "no file of a known kind"),
        ((), {"judge": "absent.csv"}, "cannot be read"),
        (("--judge-kind", "stars"), {}, "no such judge"),
        (("--judge-rows", "cost_model"), {}, "no such judge"),
        (("--confidence", "2"), {}, "no confidence"),
        (("--created", "today"), {}, "not a time"),
        (("--model", "absent"), {}, "does not exist"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(command, tmp_path, more, given, said):
    result = command(*more, **given)
    assert result.exit_code == 1
    assert said in result.stderr
    assert not (tmp_path / "c.json").exists()


def test_an_empty_file_of_prompts_is_refused(command, tmp_path):
    (tmp_path / "none.txt").write_text("")
    result = command(prompts=(str(tmp_path / "none.txt"),))
    assert result.exit_code == 1
    assert not (tmp_path / "c.json").exists()


def test_an_output_that_exists_is_left_as_it_is(command, tmp_path):
    (tmp_path / "c.json").write_text("mine")
    result = command()
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert (tmp_path / "c.json").read_text() == "mine"


def test_what_is_missing_is_named():
    result = CliRunner().invoke(app, ["--policy", "harmlessness"])
    assert result.exit_code == 1
    assert "no --model, --prompts, --judge, --out" in result.stderr


@pytest.mark.parametrize("content", [None, b"", b"{}", b"no json"])
def test_verify_refuses_what_is_no_certificate(tmp_path, content):
    path = tmp_path / "c.json"
    if content is not None:
        path.write_bytes(content)
    result = CliRunner().invoke(app, ["--verify", str(path)])
    assert result.exit_code == 1
    assert "Error: " in result.stderr


def test_a_registry_under_a_trust_policy_is_certified_where_it_is_signed(command, tmp_path):
    registry = copied_registry(tmp_path / "registry", shared_model())
    trust = str(trust_file(tmp_path, registry))
    refused = command("--trust", trust, registry=registry.root)
    assert refused.exit_code == 1
    assert "SignatureError: " in refused.stderr
    assert not (tmp_path / "c.json").exists()
    attest_all(registry, ACME)
    accepted = command("--trust", trust, registry=registry.root)
    assert accepted.exit_code == 0, accepted.stderr
    assert command(out="plain.json").exit_code == 0
    assert (tmp_path / "c.json").read_bytes() == (tmp_path / "plain.json").read_bytes()


def test_what_is_locked_on_the_hub_and_pulled_is_certified(command, tmp_path, monkeypatch):
    monkeypatch.setenv("STEERGUARD_STORE", str(tmp_path / "store"))
    project = locked_project(tmp_path, shared_model(), document=tiny_policy())
    (tmp_path / "policy.yaml").write_text(json.dumps(project.policy.document()), encoding="utf-8")
    trust, lock = ("--trust", str(project.trust)), ("--lock", str(project.lock))
    for given, code in ((trust, "UnlockedArtifactError"), (lock, "SignatureError"), ((), "UnlockedArtifactError")):
        assert f"{code}: " in command(*given).stderr
    result = command(*trust, *lock)
    assert result.exit_code == 0, result.stderr
    certificate = parse_certificate((tmp_path / "c.json").read_bytes(), where="c.json")
    families = ("harmful-intent", "inferaligner")
    used = {registry_for(shared_model()).pinned(family)[0].digest for family in families}
    assert {one.digest for one in certificate.subject.artifacts} == used


def test_a_lock_file_of_another_policy_is_refused(command, tmp_path):
    registry = copied_registry(tmp_path / "registry", shared_model())
    attest_all(registry, ACME)
    lock = tmp_path / "steerguard.lock"
    write_lock(lock, lock_of(registry, [tiny_policy(name="other")]))
    trust = str(trust_file(tmp_path, registry))
    result = command("--trust", trust, "--lock", str(lock), registry=registry.root)
    assert result.exit_code == 1
    assert "LockMismatchError: " in result.stderr
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize(("option", "code"), [("--trust", "TrustPolicyError"), ("--lock", "LockFormatError")])
def test_a_trust_policy_or_lock_file_that_cannot_be_read_is_said_first(command, tmp_path, option, code):
    result = command(option, str(tmp_path / "absent"), "--model", "absent")
    assert result.exit_code == 1
    assert f"{code}: " in result.stderr
