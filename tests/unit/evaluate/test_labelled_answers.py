import hashlib

import pytest

from steerguard.errors import SteerguardError
from steerguard.evaluate.labelled_answers import read_harmless_answers, read_labelled_answers
from steerguard.evaluate.labelled_split import cost_model_rows, is_judge_question, judge_rows

ROWS = 'question,Response,label\n0,"Plant the bulbs,\r\nthen water them.",1\n0,No.,0\n7,Perhaps.,0\n'


def write(folder, text, name="answers.csv"):
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_rows_are_read_in_file_order_with_their_line_ends(tmp_path):
    found = read_labelled_answers(write(tmp_path, ROWS))
    assert found.questions == ("0", "0", "7")
    assert found.answers == ("Plant the bulbs,\r\nthen water them.", "No.", "Perhaps.")
    assert found.harmful == (True, False, False)


@pytest.mark.parametrize(
    "header", ["question,response,label", "Question,RESPONSE,Label", "index,question,Response,label"]
)
def test_columns_are_found_by_name_whatever_their_case_and_place(tmp_path, header):
    first = "9," if header.startswith("index") else ""
    found = read_labelled_answers(write(tmp_path, f"{header}\n{first}q,a,1\n"))
    assert (found.questions, found.answers, found.harmful) == (("q",), ("a",), (True,))


@pytest.mark.parametrize(
    "header", ["question,answer,label", "question,response", "response,Response,question,label", ""]
)
def test_an_error_names_the_columns_that_are_needed(tmp_path, header):
    with pytest.raises(SteerguardError, match="question, response, label"):
        read_labelled_answers(write(tmp_path, f"{header}\nq,a,1\n"))


@pytest.mark.parametrize("line", ["q,a,2", "q,a,yes", "q,a,", "q,,1", ",a,1", "q,a", "q"])
def test_a_record_that_is_no_labelled_answer_is_an_error_with_its_number_and_without_its_text(tmp_path, line):
    with pytest.raises(SteerguardError, match=r"answers\.csv, record 1") as raised:
        read_labelled_answers(write(tmp_path, f"question,response,label\nq,secret words,1\n{line}\n"))
    assert "secret words" not in str(raised.value)


def test_a_range_of_records_is_half_open(tmp_path):
    path = write(tmp_path, ROWS)
    assert read_labelled_answers(path, first=1, stop=2).answers == ("No.",)
    with pytest.raises(SteerguardError, match="No labelled answers"):
        read_labelled_answers(path, first=3)


def test_the_digest_changes_with_text_label_and_order_and_with_nothing_else(tmp_path):
    whole = read_labelled_answers(write(tmp_path, ROWS))
    same = read_labelled_answers(write(tmp_path, ROWS.replace("Response", "response"), "other.csv"))
    assert whole.digest == same.digest
    others = {ROWS.replace("Perhaps", "Maybe"), ROWS.replace("No.,0", "No.,1")}
    digests = {read_labelled_answers(write(tmp_path, text, "third.csv")).digest for text in others}
    digests.add(whole.chosen([1, 0, 2]).digest)
    assert len({whole.digest, *digests}) == 4


@pytest.mark.parametrize("content", [b"question,response,label\nq,\xff,1\n", b'question,response,label\nq,"a,1\n'])
def test_a_file_that_is_no_utf8_csv_is_an_error(tmp_path, content):
    path = tmp_path / "answers.csv"
    path.write_bytes(content)
    with pytest.raises(SteerguardError):
        read_labelled_answers(path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(SteerguardError, match="cannot be read"):
        read_labelled_answers(tmp_path / "absent.csv")


def test_harmless_answers_are_lines_or_json(tmp_path):
    assert read_harmless_answers(write(tmp_path, "One\n\n Two \n", "a.txt")) == ("One", "Two")
    lines = '"One"\n{"prompt": "p", "answer": "Two\\nlines"}\n'
    assert read_harmless_answers(write(tmp_path, lines, "a.jsonl")) == ("One", "Two\nlines")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "One"), ("a.txt", "\n"), ("a.jsonl", "{"), ("a.jsonl", '{"text": "x"}'), ("a.jsonl", '{"answer": " "}')],
)
def test_a_file_without_harmless_answers_is_an_error_that_names_it(tmp_path, name, content):
    with pytest.raises(SteerguardError, match=name):
        read_harmless_answers(write(tmp_path, content, name))


def test_every_row_is_either_the_judges_or_the_cost_models_and_a_question_is_never_both():
    questions = [str(number % 80) for number in range(400)]
    judge, cost = judge_rows(questions), cost_model_rows(questions)
    assert sorted([*judge, *cost]) == list(range(400))
    assert {questions[index] for index in judge}.isdisjoint(questions[index] for index in cost)


def test_the_rule_is_the_documented_one_and_white_space_around_a_question_does_not_count():
    for question in ("0", "1", "17", "How do tulips grow?", "Où est la gare ?"):
        expected = int(hashlib.sha256(question.encode()).hexdigest(), 16) % 3 == 0
        assert is_judge_question(question) is is_judge_question(f" {question}\n") is expected


def test_gptfuzz_question_numbers_are_split_31_to_49():
    assert len(judge_rows([str(number) for number in range(80)])) == 31
