"""Labelled answers for a cost model: pinned files, questions by index, which rows, and how they are cut."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import pytest

from steerguard.build.cost_data import drawn_per_question, labelled_set, pinned_file
from steerguard.build.recipe_cost import LabelledResponses, PinnedFile
from steerguard.errors import PromptFileError, RecipeError
from steerguard.evaluate.labelled_split import is_judge_question

QUESTIONS = {str(number): f"how to open lock {number}" for number in range(12)}


def written(folder: Path, name: str, header, rows) -> dict[str, str]:
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return {"path": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}


@pytest.fixture
def settings(tmp_path):
    """Twelve questions with two answers each, one of them harmful and long, and one that stands twice."""
    rows = []
    for index in QUESTIONS:
        rows += [(index, "break the door of number one two three four five", "1"), (index, "no", "0")]
    rows.append(("0", "no", "0"))
    return {
        "responses": written(tmp_path, "train.csv", ("question", "Response", "label"), rows),
        "questions": written(tmp_path, "questions.csv", ("index", "text"), list(QUESTIONS.items())),
        "tokens": 4,
    }


def read(folder, settings, tokenizer, **changed):
    entry = LabelledResponses.model_validate({**settings, **changed})
    return labelled_set(folder, entry, tokenizer, seed=0, where="artifact.labelled.0")


def test_only_rows_that_no_judge_may_use_are_read_unless_all_are_asked_for(tmp_path, settings, chatml_tokenizer):
    kept = read(tmp_path, settings, chatml_tokenizer)
    judged = {text for index, text in QUESTIONS.items() if is_judge_question(index)}
    assert judged
    assert set(kept.questions) == set(QUESTIONS.values()) - judged
    assert set(read(tmp_path, settings, chatml_tokenizer, rows="all").questions) == set(QUESTIONS.values())


def test_rows_become_prompts_and_cut_answers_and_equal_ones_count_once(tmp_path, settings, chatml_tokenizer):
    found = read(tmp_path, settings, chatml_tokenizer, rows="all")
    assert len(found.harmful) == len(found.questions) == len(found.given) == 24
    assert sum(found.harmful) == 12
    assert found.given.conversations[0] == ({"role": "user", "content": "how to open lock 0"},)
    whole = chatml_tokenizer("break the door of number one two three four five", add_special_tokens=False)["input_ids"]
    assert len(whole) > 4
    assert found.given.answers[0] == tuple(whole[:4])


def test_questions_may_stand_in_the_rows_themselves(tmp_path, settings, chatml_tokenizer):
    file = written(tmp_path, "texts.csv", ("label", "question", "response"), [("1", "how to pick", "so")])
    found = read(tmp_path, {"responses": file}, chatml_tokenizer, rows="all")
    assert found.questions == ("how to pick",)


def test_answers_are_drawn_by_question_and_by_seed(tmp_path, settings, chatml_tokenizer):
    found = read(tmp_path, settings, chatml_tokenizer, rows="all", max_per_question=1)
    assert sorted(found.questions) == sorted(QUESTIONS.values())
    assert len(found.given) == len(found.harmful) == 12
    questions = ["a"] * 50 + ["b"] * 3
    first = drawn_per_question(questions, 5, 0)
    assert first == drawn_per_question(questions, 5, 0) == sorted(first)
    assert first != drawn_per_question(questions, 5, 1)
    assert [questions[place] for place in first] == ["a"] * 5 + ["b"] * 3


def test_without_a_data_folder_the_error_names_file_and_digest(settings, chatml_tokenizer):
    with pytest.raises(RecipeError) as refused:
        read(None, settings, chatml_tokenizer)
    assert "train.csv" in str(refused.value)
    assert settings["responses"]["sha256"] in str(refused.value)
    assert "--data" in str(refused.value)


@pytest.mark.parametrize("name", ["responses", "questions"])
def test_a_missing_or_altered_file_is_refused_with_both_digests(tmp_path, settings, chatml_tokenizer, name):
    path = tmp_path / settings[name]["path"]
    path.write_bytes(path.read_bytes() + b"\n")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(RecipeError) as refused:
        read(tmp_path, settings, chatml_tokenizer)
    assert settings[name]["sha256"] in str(refused.value)
    assert found in str(refused.value)
    path.unlink()
    with pytest.raises(RecipeError, match="cannot be read"):
        read(tmp_path, settings, chatml_tokenizer)


def test_a_path_that_leaves_the_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    file = PinnedFile(path="../secret", sha256=hashlib.sha256(b"x").hexdigest())
    with pytest.raises(RecipeError, match="outside the data folder"):
        pinned_file(tmp_path / "in", file, where="artifact.labelled.0.responses")


def test_a_question_without_a_text_is_refused(tmp_path, settings, chatml_tokenizer):
    settings["questions"] = written(tmp_path, "few.csv", ("index", "text"), [("0", "one")])
    with pytest.raises(RecipeError, match="without a text"):
        read(tmp_path, settings, chatml_tokenizer, rows="all")


def test_other_columns_are_refused(tmp_path, settings, chatml_tokenizer):
    settings["questions"] = written(tmp_path, "other.csv", ("number", "text"), [("0", "one")])
    with pytest.raises(RecipeError, match="other columns"):
        read(tmp_path, settings, chatml_tokenizer)
    settings["responses"] = written(tmp_path, "other.csv", ("question", "label"), [("0", "1")])
    with pytest.raises(PromptFileError, match="other columns"):
        read(tmp_path, settings, chatml_tokenizer)
