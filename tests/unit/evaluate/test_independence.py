"""A judge and prompts that what is measured was trained on are refused; what nobody can check is said."""

from __future__ import annotations

import json

import pytest
from tests.guarded_models import registry_for, shared_model

from steerguard.artifacts.manifest import ArtifactManifest
from steerguard.canonical import sha256_hex
from steerguard.content import registry_directory
from steerguard.errors import EvaluationError
from steerguard.evaluate.independence import AskedFile, JudgeFiles, check_independence, training_files
from steerguard.evaluate.training_texts import own_training_texts

COST_FILE, JUDGE_FILE, PROMPT_FILE, OTHER = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


def manifest():
    """A manifest that states no training data."""
    return registry_for(shared_model()).pinned("harmful-intent")[0].manifest


def told(training):
    """The same manifest with such a statement."""
    data = manifest().model_dump(mode="json", by_alias=True)
    return ArtifactManifest.model_validate_json(json.dumps({**data, "training": training}))


def judge(**settings):
    return JudgeFiles(
        **{
            "labelled_sha256": JUDGE_FILE,
            "harmless_sha256": None,
            "rows": "judge",
            "questions": ("how is tea made?",),
            **settings,
        }
    )


def asked(sha256=PROMPT_FILE, prompts=("what is bread?",)):
    return [AskedFile(name="set", sha256=sha256, prompts=prompts)]


def not_at_hand(sha256):
    return None


def check(training, judge_files=None, prompts=None, texts=not_at_hand):
    return check_independence([told(training)], judge_files or judge(), prompts or asked(), texts)


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"prompts": {"x.jsonl": COST_FILE}, "seed": 0}, [("x.jsonl", COST_FILE, None)]),
        (
            {"files": [{"path": "t.csv", "sha256": COST_FILE, "rows": "cost_model"}]},
            [("t.csv", COST_FILE, "cost_model")],
        ),
        ({"responses": {"t.csv": f"sha256:{COST_FILE}"}, "rows": "all"}, [("t.csv", COST_FILE, "all")]),
        ({"rows": "all", "inner": {"rows": "cost_model", "t.csv": COST_FILE}}, [("t.csv", COST_FILE, "cost_model")]),
        ({"seed": 1, "note": "no file"}, []),
    ],
)
def test_files_are_found_wherever_a_manifest_states_them(training, expected):
    assert [(file.name, file.sha256, file.rows) for file in training_files(told(training))] == expected


def test_labelled_answers_of_a_cost_model_are_found():
    data = manifest().model_dump(mode="json", by_alias=True)
    stated = {"labelled_answers": [{"path": "t.csv", "sha256": COST_FILE, "rows": "cost_model"}]}
    found = training_files(ArtifactManifest.model_validate_json(json.dumps({**data, **stated})))
    assert [(file.name, file.sha256, file.rows) for file in found] == [("t.csv", COST_FILE, "cost_model")]


def test_pinned_files_of_a_judge_of_texts_are_no_training_files():
    data = manifest().model_dump(mode="json", by_alias=True)
    params = {**data["params"], "model": {"files": {"model.safetensors": COST_FILE}}}
    other = {"reads": {"file": "vocabulary.txt", "sha256": OTHER}}
    pinned = ArtifactManifest.model_validate_json(json.dumps({**data, **other, "params": params}))
    assert training_files(pinned) == ()
    found = check_independence([pinned], judge(), asked(), not_at_hand)
    assert f"training data of {pinned.reference}: its manifest states none" in found.not_checked
    assert found.checked[0].startswith("0 training files that 1 artifacts state")


def test_a_file_that_is_stated_twice_counts_once():
    assert len(training_files(told({"prompts": {"x.jsonl": COST_FILE}, "again": {"x.jsonl": COST_FILE}}))) == 1


def test_a_manifest_without_a_statement_has_no_files_and_is_named_as_not_checked():
    bare = manifest()
    assert training_files(bare) == ()
    found = check_independence([bare], judge(), asked(), not_at_hand)
    assert any(bare.reference in line for line in found.not_checked)


def test_the_judges_own_rows_of_a_cost_models_file_are_accepted():
    found = check({"t.csv": JUDGE_FILE, "rows": "cost_model"})
    assert len(found.checked) == 3


@pytest.mark.parametrize(
    ("training", "rows"),
    [
        ({"t.csv": JUDGE_FILE, "rows": "cost_model"}, "all"),
        ({"t.csv": JUDGE_FILE, "rows": "all"}, "judge"),
        ({"t.csv": JUDGE_FILE}, "judge"),
        ({"t.csv": JUDGE_FILE}, "all"),
    ],
)
def test_a_judge_that_shares_rows_with_an_artifact_is_refused(training, rows):
    with pytest.raises(EvaluationError, match="judge was trained on rows") as caught:
        check(training, judge(rows=rows))
    assert "t.csv of harmful-intent/tiny@1.0.0" in str(caught.value)


def test_harmless_answers_that_an_artifact_learned_are_refused():
    with pytest.raises(EvaluationError, match="harmless answers"):
        check({"benign.jsonl": OTHER, "rows": "cost_model"}, judge(harmless_sha256=OTHER))


@pytest.mark.parametrize("taken", [COST_FILE, JUDGE_FILE, OTHER])
def test_prompts_from_a_training_file_are_refused(taken):
    with pytest.raises(EvaluationError, match="come from a training file"):
        check({"t.csv": COST_FILE, "rows": "cost_model"}, judge(harmless_sha256=OTHER), asked(taken))


def test_a_prompt_that_is_a_question_of_the_judge_is_refused_without_saying_it():
    with pytest.raises(EvaluationError, match="1 of 2 prompts") as caught:
        check({}, prompts=asked(prompts=("  How is TEA  made?", "what is bread?")))
    assert "TEA" not in str(caught.value)


def test_a_prompt_of_a_training_file_that_is_at_hand_is_refused():
    training = {"prompts": {"own.jsonl": COST_FILE}}
    with pytest.raises(EvaluationError, match=r"own\.jsonl of harmful-intent"):
        check(training, texts={COST_FILE: ("What is bread?",)}.get)
    found = check(training, texts={COST_FILE: ("something else",)}.get)
    assert "no prompt is one of the 1 training prompts in own.jsonl of harmful-intent/tiny@1.0.0" in found.checked
    assert any("not at hand" in line for line in check(training).not_checked)


def test_questions_that_are_numbers_cannot_be_compared_and_that_is_said():
    numbers = check({}, judge(questions=("1", "22"))).not_checked
    assert any("numbers" in line for line in numbers)
    assert not any("numbers" in line for line in check({}).not_checked)


def test_the_shipped_prompt_files_are_found_by_their_digest():
    path = registry_directory() / "prompts" / "benign.jsonl"
    texts = own_training_texts(sha256_hex(path.read_bytes()))
    assert texts is not None
    assert 1000 < len(texts) < len(path.read_text(encoding="utf-8").splitlines())
    assert own_training_texts("0" * 64) is None
