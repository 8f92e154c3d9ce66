"""Evaluations and certificates under a trust policy and a lock file: what is admitted, refused, and continued."""

from __future__ import annotations

import pytest
from tests.certificates import HEX, LetterJudge
from tests.evaluations import harmful_texts, model_and_tokenizer, tiny_inputs, tiny_policy
from tests.guarded_models import shared_model
from tests.signed_artifacts import ACME, STRANGER, attest_all
from tests.signed_registries import add_version, copied_registry, lock_of, trust_file

from steerguard.errors import EvaluationError, LockMismatchError, SignatureError
from steerguard.evaluate import journal
from steerguard.evaluate.certificate import certify
from steerguard.evaluate.certificate_inputs import CertificateInputs, without_repeats
from steerguard.evaluate.independence import JudgeFiles
from steerguard.evaluate.prompt_files import PromptSet
from steerguard.evaluate.result import UNGUIDED
from steerguard.evaluate.run import evaluate, evaluation_bytes
from steerguard.trust.load import load_trust


class StoppedError(Exception):
    """Ends a measurement in the middle."""


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERGUARD_STORE", str(tmp_path / "store"))
    return copied_registry(tmp_path / "registry", shared_model())


@pytest.fixture
def trust(tmp_path, registry):
    return load_trust(trust_file(tmp_path, registry))


def evaluated(folder, **settings):
    return evaluate(*model_and_tokenizer(), tiny_inputs(folder.parent, **settings), folder, report=False)


def certified(folder, **settings):
    chats = tuple(({"role": "user", "content": text},) for text in harmful_texts(7))
    inputs = CertificateInputs(
        model_name="tiny",
        sets=without_repeats([(PromptSet(name="bad", expect="refuse", conversations=chats, prefills=None), "1" * 64)]),
        judge=LetterJudge(),
        judge_files=JudgeFiles(labelled_sha256=HEX, harmless_sha256=None, rows="judge", questions=("a question",)),
        max_new_tokens=4,
        batch_size=3,
        **{"policy": tiny_policy(), **settings},
    )
    return certify(*model_and_tokenizer(), inputs, folder, created="2026-01-02T03:04:05Z")


MEASURED = pytest.mark.parametrize("measured", [evaluated, certified])


def stopped(monkeypatch, measured, folder, **settings):
    """Measure until one batch is recorded."""
    append, left = journal.Journal.append, iter(range(1))

    def interrupted(self, rows):
        if next(left, None) is None:
            raise StoppedError
        append(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "append", interrupted)
        with pytest.raises(StoppedError):
            measured(folder, **settings)
    assert list(journal.read_rows(folder))


@MEASURED
def test_what_is_signed_is_measured_and_what_is_not_is_refused(measured, registry, trust, tmp_path):
    with pytest.raises(SignatureError):
        measured(tmp_path / "refused", registry=registry, trust=trust)
    attest_all(registry, STRANGER)
    with pytest.raises(SignatureError):
        measured(tmp_path / "refused", registry=registry, trust=trust)
    assert not hasattr(shared_model(), "guard")
    assert not list(journal.read_rows(tmp_path / "refused"))
    attest_all(registry, ACME)
    under_trust = measured(tmp_path / "trusted", registry=registry, trust=trust)
    assert measured(tmp_path / "plain", registry=registry) == under_trust


@MEASURED
def test_a_lock_file_of_another_policy_is_refused(measured, registry, trust, tmp_path):
    attest_all(registry, ACME)
    other = lock_of(registry, [tiny_policy(name="other")])
    with pytest.raises(LockMismatchError, match="not made for this text"):
        measured(tmp_path / "out", registry=registry, trust=trust, lock=other)
    assert not hasattr(shared_model(), "guard")


@MEASURED
def test_a_registry_may_be_named_as_for_wrap(measured, registry, trust, tmp_path):
    attest_all(registry, ACME)
    lock = lock_of(registry, [tiny_policy()])
    by_name = measured(tmp_path / "name", registry=registry.name, trust=trust, lock=lock)
    assert measured(tmp_path / "folder", registry=registry.root, trust=trust, lock=lock) == by_name


def test_the_plan_tells_which_artifacts_an_evaluation_used(registry, trust, tmp_path):
    attest_all(registry, ACME)
    before = evaluated(tmp_path / "before", registry=registry, trust=trust)
    add_version(registry, "harmful-intent", "1.1.0", tmp_path / "new")
    attest_all(registry, ACME)
    after = evaluated(tmp_path / "after", registry=registry, trust=trust)
    assert before.runs[1].policy_digest == after.runs[1].policy_digest
    assert before.runs[1].plan_digest != after.runs[1].plan_digest


def test_a_certificate_names_the_locked_artifacts(registry, trust, tmp_path):
    lock = lock_of(registry, [tiny_policy()])
    add_version(registry, "harmful-intent", "1.1.0", tmp_path / "new")
    attest_all(registry, ACME)
    locked = {
        one.digest for one in certified(tmp_path / "a", registry=registry, trust=trust, lock=lock).subject.artifacts
    }
    newest = {one.digest for one in certified(tmp_path / "b", registry=registry, trust=trust).subject.artifacts}
    assert locked == {one.digest for one in lock.artifacts}
    assert newest - locked == {registry.pinned("harmful-intent")[0].digest}


@MEASURED
def test_it_goes_on_with_the_same_artifacts_only(measured, registry, trust, tmp_path, monkeypatch):
    attest_all(registry, ACME)
    lock = lock_of(registry, [tiny_policy()])
    whole = measured(tmp_path / "whole", registry=registry, trust=trust)
    stopped(monkeypatch, measured, tmp_path / "part", registry=registry, trust=trust)
    add_version(registry, "harmful-intent", "1.1.0", tmp_path / "new")
    attest_all(registry, ACME)
    with pytest.raises(EvaluationError, match="other settings"):
        measured(tmp_path / "part", registry=registry, trust=trust)
    # What the lock file pins are the artifacts that it was begun with.
    assert measured(tmp_path / "part", registry=registry, trust=trust, lock=lock) == whole


def test_a_registry_that_changes_in_the_middle_ends_an_evaluation(registry, trust, tmp_path, monkeypatch):
    attest_all(registry, ACME)
    append = journal.Journal.append

    def published(self, rows):
        append(self, rows)
        if not (tmp_path / "new").exists():
            add_version(registry, "harmful-intent", "1.1.0", tmp_path / "new")
            attest_all(registry, ACME)

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "append", published)
        with pytest.raises(EvaluationError, match="The registry changed"):
            evaluated(tmp_path / "out", registry=registry, trust=trust)
    assert not hasattr(shared_model(), "guard")
    assert {row.run for row in journal.read_rows(tmp_path / "out")} == {UNGUIDED}


def test_a_lock_file_keeps_what_changes_in_the_middle_out(registry, trust, tmp_path):
    attest_all(registry, ACME)
    lock = lock_of(registry, [tiny_policy()])
    before = evaluated(tmp_path / "before", registry=registry, trust=trust, lock=lock)
    add_version(registry, "harmful-intent", "1.1.0", tmp_path / "new")
    after = evaluated(tmp_path / "after", registry=registry, trust=trust, lock=lock)
    assert evaluation_bytes(after) == evaluation_bytes(before)
