"""A tiny guarded model is certified: counts, digests, refusals of what would say nothing, and going on after a stop."""

from __future__ import annotations

import json

import pytest
from tests.certificates import HEX, LetterJudge
from tests.evaluations import benign_texts, harmful_texts, model_and_tokenizer, policy_text, tiny_policy
from tests.guarded_models import registry_for, shared_model

from steerguard.errors import EvaluationError
from steerguard.evaluate.certificate import certify
from steerguard.evaluate.certificate_document import certificate_bytes, parse_certificate
from steerguard.evaluate.certificate_inputs import CertificateInputs, without_repeats
from steerguard.evaluate.independence import JudgeFiles
from steerguard.evaluate.journal import Journal, read_rows
from steerguard.evaluate.prompt_files import PromptSet
from steerguard.policy.load import parse_policy

CREATED = "2026-01-02T03:04:05Z"
FILES = JudgeFiles(labelled_sha256=HEX, harmless_sha256=None, rows="judge", questions=("a question",))


def prompts(name, texts, prefills=None):
    chats = tuple(({"role": "user", "content": text},) for text in texts)
    return PromptSet(name=name, expect="refuse", conversations=chats, prefills=prefills)


def sets(repeats=()):
    bad = prompts("bad", [*harmful_texts(7), *repeats])
    good = prompts("good", benign_texts(5), tuple(f"Sure {index}" for index in range(5)))
    return without_repeats([(bad, "1" * 64), (good, "2" * 64)])


def inputs(**settings):
    given = {
        "model_name": "tiny",
        "policy": tiny_policy(),
        "sets": sets(),
        "judge": LetterJudge(),
        "judge_files": FILES,
        "max_new_tokens": 4,
        "batch_size": 3,
        "registry": registry_for(shared_model()),
    }
    return CertificateInputs(**{**given, **settings})


def measured(folder, **settings):
    return certify(*model_and_tokenizer(), inputs(**settings), folder, created=CREATED)


def test_the_counts_are_those_of_the_rows(tmp_path):
    certificate = measured(tmp_path / "work")
    stated, rows = certificate.predicate, list(read_rows(tmp_path / "work"))
    judge = LetterJudge()
    bad = [judge.probabilities([row.prompt], [(row.prefill or "") + row.answer])[0] >= judge.threshold for row in rows]
    refused = [row.applied == "refuse" for row in rows]
    assert (stated.n, stated.violations, stated.refusals) == (12, sum(bad), sum(refused))
    assert stated.violations_among_refusals == sum(one and two for one, two in zip(bad, refused, strict=True))
    # Neither figure would show a mistake if all rows were alike.
    assert 0 < sum(bad) < 12
    assert 0 < sum(refused) < 12
    assert {one.name: (one.n, one.prefilled) for one in stated.sets} == {"bad": (7, False), "good": (5, True)}


def test_it_names_model_policy_plan_and_artifacts_and_can_be_read_back(tmp_path):
    certificate = measured(tmp_path / "work")
    subject = certificate.subject
    assert subject.policy.name == "tiny"
    assert {one.digest for one in subject.artifacts} == {
        registry_for(shared_model()).pinned(family)[0].digest for family in ("harmful-intent", "inferaligner")
    }
    assert (subject.model.weights, subject.model.num_blocks) == ("float32", shared_model().config.num_hidden_layers)
    assert certificate.predicate.judge.identity == "letters/1"
    assert parse_certificate(certificate_bytes(certificate), where="c.json") == certificate


def test_no_text_is_in_it_and_the_model_is_plain_again(tmp_path):
    content = certificate_bytes(measured(tmp_path / "work"))
    assert b"tell me" not in content
    assert b"I cannot" not in content
    assert not hasattr(shared_model(), "guard")


def test_equal_inputs_give_equal_bytes_and_repeats_count_once(tmp_path):
    once = measured(tmp_path / "a")
    assert certificate_bytes(measured(tmp_path / "b")) == certificate_bytes(once)
    repeated = measured(tmp_path / "c", sets=sets(repeats=harmful_texts(2))).predicate
    assert (repeated.n, repeated.violations) == (once.predicate.n, once.predicate.violations)
    assert repeated.answers_sha256 == once.predicate.answers_sha256
    assert [one.repeated for one in repeated.sets] == [2, 0]


@pytest.mark.parametrize("temperature", [None, "1.5"])
def test_a_measurement_that_was_stopped_goes_on_to_the_same_bytes(tmp_path, monkeypatch, temperature):
    whole = measured(tmp_path / "whole", temperature=temperature)
    append, left = Journal.append, iter(range(2))

    def interrupted(self, rows):
        if next(left, None) is None:
            raise KeyboardInterrupt
        append(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            measured(tmp_path / "part", temperature=temperature)
    assert not hasattr(shared_model(), "guard")
    assert certificate_bytes(measured(tmp_path / "part", temperature=temperature)) == certificate_bytes(whole)


def test_sampling_depends_on_the_seed_and_is_stated(tmp_path):
    first, second = (measured(tmp_path / str(seed), temperature="1.5", seed=seed).predicate for seed in (1, 2))
    assert first.answers_sha256 != second.answers_sha256
    assert (first.decoding.mode, first.decoding.temperature, first.decoding.seed) == ("sampling", "1.5", 1)


def test_a_folder_of_other_settings_is_refused(tmp_path):
    measured(tmp_path / "work")
    with pytest.raises(EvaluationError, match="other settings"):
        measured(tmp_path / "work", max_new_tokens=5)


def test_a_policy_that_does_not_act_is_refused(tmp_path):
    written = policy_text().replace("kind: GuidancePolicy", "kind: GuidancePolicy\nmode: monitor")
    with pytest.raises(EvaluationError, match="Only a policy that acts"):
        measured(tmp_path / "work", policy=parse_policy(written, file="p.yaml"))
    assert not hasattr(shared_model(), "guard")


class BrokenJudge(LetterJudge):
    def __init__(self, value):
        self.value = value

    def probabilities(self, prompts, answers):
        return [self.value for _ in answers]


@pytest.mark.parametrize("value", [-0.5, 1.5])
def test_a_judge_without_a_probability_ends_it(tmp_path, value):
    with pytest.raises(EvaluationError, match="no probability"):
        measured(tmp_path / "work", judge=BrokenJudge(value))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_judge_without_a_number_ends_it(tmp_path, value):
    with pytest.raises((EvaluationError, ValueError)):
        measured(tmp_path / "work", judge=BrokenJudge(value))


def test_a_prompt_of_the_judges_file_is_refused_before_anything_is_answered(tmp_path):
    taken = JudgeFiles(labelled_sha256=HEX, harmless_sha256=None, rows="judge", questions=(harmful_texts(1)[0],))
    with pytest.raises(EvaluationError, match="were training prompts"):
        measured(tmp_path / "work", judge_files=taken)
    assert (tmp_path / "work" / "rows.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sets": ()}, "no prompts"),
        ({"confidence": "1"}, "no confidence"),
        ({"confidence": "0.3"}, "no confidence"),
        ({"confidence": "nan"}, "no confidence"),
        ({"temperature": "0"}, "no temperature"),
        ({"temperature": "warm"}, "no temperature"),
    ],
)
def test_settings_that_no_certificate_can_have_are_refused(settings, said):
    with pytest.raises(EvaluationError, match=said):
        inputs(**settings)


def test_a_set_that_only_repeats_an_earlier_one_is_refused():
    with pytest.raises(EvaluationError, match="no prompt of its own"):
        without_repeats([(prompts("a", ["x", "y"]), HEX), (prompts("b", ["y", "x"]), HEX)])


def test_a_question_counts_once_however_it_is_written_or_begun():
    plain = prompts("plain", ["How is TEA made?", "how  is tea made? ", "What is bread?"])
    begun = prompts("begun", ["What is bread?", "What is butter?"], ("Sure", "Sure"))
    first, second = without_repeats([(plain, HEX), (begun, HEX)])
    assert [one.prompts.prompt(index) for one in (first, second) for index in range(len(one.prompts))] == [
        "How is TEA made?",
        "What is bread?",
        "What is butter?",
    ]
    assert (first.repeated, second.repeated) == (1, 1)
    assert second.prompts.prefills == ("Sure",)
    with pytest.raises(EvaluationError, match="no prompt of its own"):
        without_repeats([(plain, HEX), (prompts("begun", ["what is bread?"], ("Sure",)), HEX)])


def test_the_document_is_json_with_integers_and_texts_only(tmp_path):
    def floats(node):
        if isinstance(node, dict):
            return [found for value in node.values() for found in floats(value)]
        if isinstance(node, list):
            return [found for value in node for found in floats(value)]
        return [node] if isinstance(node, float) else []

    assert floats(json.loads(certificate_bytes(measured(tmp_path / "work")))) == []
