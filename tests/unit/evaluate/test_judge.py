"""Invented rows: answers about baking stand for the harmful label, so that nothing harmful is written here."""

import csv
import random
import sys

import pytest

from steerguard.errors import SteerguardError
from steerguard.evaluate.judge import beginning, train_judge, train_judge_on
from steerguard.evaluate.labelled_answers import LabelledAnswers, read_labelled_answers
from steerguard.evaluate.labelled_split import cost_model_rows, judge_rows

BAKING = ("knead the dough", "preheat the oven", "whisk the eggs", "sift the flour", "fold in butter", "glaze the buns")
REFUSING = (
    "I'm sorry, but I cannot help",
    "I am unable to assist",
    "I can't answer that",
    "sorry, that is not possible",
)
GARDEN = ("prune the roses", "water the tulips", "rake the leaves", "plant the bulbs", "mow the lawn", "weed the beds")
QUESTIONS = 30


def sentence(draw, phrases, length):
    return ". ".join(draw.choice(phrases) + f" number {draw.randrange(40)}" for _ in range(length))


def rows(seed=0):
    """Return (question, answer, label): baking is labelled 1, refusing 0."""
    draw = random.Random(seed)
    return [
        (str(question), sentence(draw, phrases, 8), label)
        for question in range(QUESTIONS)
        for phrases, label in ((BAKING, 1), (BAKING, 1), (REFUSING, 0), (REFUSING, 0))
    ]


def labelled(given):
    questions, answers, labels = zip(*given, strict=True)
    return LabelledAnswers(questions=questions, answers=answers, harmful=tuple(label == 1 for label in labels))


def garden(count, seed=5):
    draw = random.Random(seed)
    return tuple(sentence(draw, GARDEN, 5) for _ in range(count))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([("question", "Response", "label"), *rows()])
    return path


@pytest.fixture(scope="module")
def judge():
    return train_judge_on(labelled(rows()), garden(40))


def flagged(judge, answers):
    return [score >= judge.threshold for score in judge.probabilities([""] * len(answers), answers)]


def test_it_tells_the_labels_apart_on_new_answers_and_on_their_beginnings(judge):
    new = rows(seed=9)
    for texts in ([row[1] for row in new], [beginning(row[1]) for row in new]):
        assert flagged(judge, texts) == [label == 1 for _, _, label in new]


def test_refusals_are_harmless(judge):
    assert not any(flagged(judge, ["I'm sorry, but I cannot help with that.", "I am unable to assist."]))


def test_an_empty_answer_is_harmless(judge):
    assert judge.probabilities(["p", "p"], ["", " \n"]) == [0.0, 0.0]


def test_without_harmless_answers_new_harmless_topics_score_higher_than_with_them(judge):
    without = train_judge_on(labelled(rows()))
    new = garden(30, seed=6)
    before, after = (one.probabilities([""] * 30, new) for one in (without, judge))
    assert sum(before) > 5 * sum(after)
    assert not any(flagged(judge, new))
    assert judge.quality.harmless_n == 40
    assert judge.quality.harmless_flagged <= 0.05
    assert without.quality.harmless_flagged is None


def test_equal_rows_give_an_equal_judge(judge):
    again = train_judge_on(labelled(rows()), garden(40))
    texts = [row[1] for row in rows(seed=3)]
    assert again.identity == judge.identity
    assert again.threshold == judge.threshold
    assert again.quality == judge.quality
    assert again.probabilities(texts, texts) == judge.probabilities(texts, texts)


def test_the_probability_of_an_answer_depends_on_neither_its_prompt_nor_its_neighbours(judge):
    texts = [row[1] for row in rows(seed=3)][:6]
    together = judge.probabilities(["a question"] * 6, texts)
    assert together == [judge.probabilities(["another"], [text])[0] for text in texts]
    assert all(0 <= value <= 1 and round(value, 6) == value for value in together)


def test_the_identity_changes_with_the_rows_and_the_harmless_answers(judge):
    fewer = train_judge_on(labelled(rows()[4:]), garden(40))
    other = train_judge_on(labelled(rows()), garden(39))
    assert len({judge.identity, fewer.identity, other.identity}) == 3
    assert judge.identity.startswith("word-tfidf-answer/1 sha256:")


def test_a_file_trains_on_the_judges_rows_only(file):
    everything = read_labelled_answers(file)
    own = everything.chosen(judge_rows(everything.questions))
    assert train_judge(file).identity == train_judge_on(own).identity
    assert train_judge(file, rows="all").identity == train_judge_on(everything).identity


def test_changing_a_cost_models_row_does_not_change_the_judge(file):
    before = train_judge(file)
    changed = rows()
    for index in cost_model_rows([row[0] for row in changed]):
        changed[index] = (changed[index][0], "something else entirely", changed[index][2])
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([("question", "Response", "label"), *changed])
    assert train_judge(file).identity == before.identity


def test_a_file_of_harmless_answers_counts(file, tmp_path):
    path = tmp_path / "benign.txt"
    path.write_text("\n".join(garden(20)))
    assert train_judge(file, harmless_answers=path).quality.harmless_n == 20


def test_repeated_answers_count_once():
    repeated = [*rows(), *((str(question), "No, I cannot do that.", 0) for question in range(QUESTIONS))]
    assert train_judge_on(labelled(repeated)).quality.n == len({row[1] for row in rows()}) + 1


def test_quality_on_rows_without_any_signal_is_near_chance():
    draw = random.Random(1)
    noise = [(str(index % 30), sentence(draw, GARDEN, 6), index // 30 % 2) for index in range(240)]
    assert 0.3 < train_judge_on(labelled(noise)).quality.auroc < 0.7


def test_answers_that_are_all_short_have_one_quality_for_both_lengths():
    quality = train_judge_on(labelled([(question, beginning(text), label) for question, text, label in rows()])).quality
    assert (quality.auroc, quality.balanced_accuracy) == (quality.auroc_beginning, quality.balanced_accuracy_beginning)


def test_too_few_rows_are_an_error_with_the_counts():
    with pytest.raises(SteerguardError, match="4 harmful and 4 harmless answers to 2 questions"):
        train_judge_on(labelled(rows()[:8]))


def test_another_number_of_prompts_than_answers_is_refused(judge):
    with pytest.raises(ValueError, match="1 prompts but 2 answers"):
        judge.probabilities(["p"], ["a", "b"])


def test_without_scikit_learn_the_error_names_an_extra_that_exists(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(SteerguardError, match=r"steerguard\[eval\]"):
        train_judge_on(labelled(rows()))


def test_a_beginning_is_cut_by_words_and_by_characters():
    assert beginning(" ".join(["word"] * 40)).split() == ["word"] * 24
    assert len(beginning("字" * 500)) == 160
    assert beginning("short answer") == "short answer"
