"""An evaluation of a tiny model from files to figures."""

from __future__ import annotations

import json

import pytest
import torch
from tests.evaluations import model_and_tokenizer, policy_text, tiny_inputs, tiny_policy
from tests.guarded_models import answers, state_of

from steerguard.canonical import digest
from steerguard.errors import SteerguardError
from steerguard.evaluate.answering import Answerer, EncodedSet
from steerguard.evaluate.journal import read_rows
from steerguard.evaluate.result import Evaluation
from steerguard.evaluate.run import evaluate
from steerguard.models.chat import render
from steerguard.policy.load import parse_policy


class LongAnswersAreHarmful:
    """A judge by rule."""

    identity = "length of the answer"
    threshold = 0.5

    def __init__(self):
        self.seen = []

    def probabilities(self, prompts, answers):
        self.seen += answers
        return [min(len(answer), 100) / 100 for answer in answers]


def run(folder, inputs, **named):
    model, tokenizer = model_and_tokenizer()
    return evaluate(model, tokenizer, inputs, folder, **{"report": False, **named})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    inputs = tiny_inputs(folder, judge=LongAnswersAreHarmful(), perplexity=True)
    return folder / "out", inputs, run(folder / "out", inputs, report=True)


def test_the_written_document_is_the_returned_one(finished):
    folder, _, evaluation = finished
    assert Evaluation.model_validate_json((folder / "evaluation.json").read_bytes()) == evaluation
    assert [run.name for run in evaluation.runs] == ["unguided", "tiny"]


def test_every_prompt_has_one_row_per_run_in_the_order_of_the_file(finished):
    folder, inputs, _ = finished
    rows = [(row.run, row.set, row.index, row.prompt, row.prefill) for row in read_rows(folder)]
    assert rows == [
        (run, part.name, index, part.prompt(index), part.prefill(index))
        for run in ("unguided", "tiny")
        for part in inputs.sets
        for index in range(len(part))
    ]


def test_unguided_answers_are_those_of_bare_generate(finished):
    folder, inputs, _ = finished
    model, tokenizer = model_and_tokenizer()
    for part in inputs.sets:
        rows = [row for row in read_rows(folder) if row.run == "unguided" and row.set == part.name]
        for row in rows:
            prefills = None if part.prefills is None else [part.prefill(row.index)]
            batch = render(tokenizer, [part.conversations[row.index]], prefills=prefills)
            with torch.inference_mode():
                ids = model.generate(**batch, max_new_tokens=4, do_sample=False)
            (expected,) = answers(ids, batch["input_ids"].shape[1])
            assert row.answer == tokenizer.decode(expected, skip_special_tokens=True)


def test_rows_with_a_closed_gate_are_identical_and_others_say_what_was_done(finished):
    folder, _, evaluation = finished
    guarded = [row for row in read_rows(folder) if row.run == "tiny"]
    assert {row.applied for row in guarded} == {"allow", "guide", "refuse"}
    assert all(row.identical_to_unguided for row in guarded if row.applied == "allow")
    assert all("I cannot.".startswith(row.answer) for row in guarded if row.applied == "refuse")
    assert all((row.changed_positions > 0) == (row.applied == "guide") for row in guarded)
    closed = {figure.value for figure in evaluation.figures if figure.measure == "closed_identical"}
    assert closed == {"1.0000"}


def test_judge_and_perplexity_are_in_the_rows_and_the_prefill_is_judged_too(finished):
    folder, inputs, evaluation = finished
    rows = list(read_rows(folder))
    assert all(row.harm is not None and float(row.perplexity["unguided"]) >= 1 for row in rows)
    plain = {(row.set, row.index): row for row in rows if row.run == "unguided"}
    for row in rows:
        if row.identical_to_unguided:
            assert row.perplexity == plain[row.set, row.index].perplexity
    assert any(text.startswith("Sure 0") for text in inputs.judge.seen)
    assert (evaluation.settings.judge, evaluation.settings.judge_threshold) == ("length of the answer", "0.5")
    assert evaluation.settings.references_sha256 == digest(["I cannot."])
    assert {"harm", "harmful", "perplexity.unguided"} <= {figure.measure for figure in evaluation.figures}


def test_the_result_and_the_speed_hold_no_text_of_prompts_or_answers(finished):
    folder, inputs, _ = finished
    for name in ("evaluation.json", "settings.json", "speed.json"):
        content = (folder / name).read_text(encoding="utf-8")
        assert not any(part.prompt(index) in content for part in inputs.sets for index in range(len(part)))


def test_speed_lies_beside_the_result(finished):
    folder, inputs, _ = finished
    parts = json.loads((folder / "speed.json").read_bytes())["parts"]
    assert [(part["run"], part["set"], part["rows"]) for part in parts] == [
        (run, part.name, len(part)) for run in ("unguided", "tiny") for part in inputs.sets
    ]


def test_the_folder_is_for_its_owner_only(finished):
    folder, _, _ = finished
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "rows.jsonl").stat().st_mode & 0o077 == 0


def test_the_model_is_as_before(tmp_path):
    model, _ = model_and_tokenizer()
    before = state_of(model)
    run(tmp_path / "out", tiny_inputs(tmp_path))
    assert state_of(model) == before


def test_the_model_is_as_before_when_an_evaluation_is_stopped_under_guidance(tmp_path, monkeypatch):
    model, _ = model_and_tokenizer()
    before = state_of(model)
    answer = Answerer.answer

    def interrupted(self, rows, *, guarded):
        if guarded:
            raise KeyboardInterrupt
        return answer(self, rows, guarded=guarded)

    monkeypatch.setattr(Answerer, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", tiny_inputs(tmp_path))
    assert state_of(model) == before


def test_policies_must_be_told_apart(tmp_path):
    with pytest.raises(SteerguardError, match="same name"):
        run(tmp_path / "out", tiny_inputs(tmp_path, policies=(tiny_policy(), tiny_policy(high=9.0))))
    with pytest.raises(SteerguardError, match="same name"):
        run(tmp_path / "other", tiny_inputs(tmp_path, policies=(tiny_policy(name="unguided"),)))


def test_a_policy_that_does_not_fit_is_refused_before_anything_is_answered(tmp_path):
    absent = parse_policy(policy_text(name="absent").replace("harmful-intent", "no-such"), file="absent.yaml")
    with pytest.raises(SteerguardError):
        run(tmp_path / "out", tiny_inputs(tmp_path, policies=(tiny_policy(), absent)))
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == b""
    run(tmp_path / "out", tiny_inputs(tmp_path))


def test_a_monitoring_policy_changes_nothing_and_says_what_it_would_do(tmp_path):
    watching = parse_policy(policy_text() + "mode: monitor\n", file="monitor.yaml")
    run(tmp_path / "out", tiny_inputs(tmp_path, policies=(watching,)))
    rows = [row for row in read_rows(tmp_path / "out") if row.run == "tiny"]
    assert {row.applied for row in rows} == {"allow"}
    assert {row.action for row in rows} == {"allow", "guide", "refuse"}
    assert {row.changed_positions for row in rows} == {0}
    assert all(row.identical_to_unguided for row in rows)


def test_a_report_that_cannot_be_drawn_is_refused_before_anything_is_answered(tmp_path, monkeypatch):
    monkeypatch.setattr("steerguard.evaluate.run.find_spec", lambda name: None if name == "matplotlib" else name)
    with pytest.raises(SteerguardError, match="needs matplotlib"):
        run(tmp_path / "out", tiny_inputs(tmp_path), report=True)
    assert not (tmp_path / "out").exists()


def test_answers_end_at_the_end_token_and_lose_their_padding():
    model, tokenizer = model_and_tokenizer()
    answerer = Answerer(model, tokenizer, 4)
    assert answerer._trimmed([5, 2, 0, 0]) == (5, 2)
    assert answerer._trimmed([5, 7, 0, 0]) == (5, 7)
    assert answerer.without_end((5, 2)) == (5,)
    assert answerer.without_end((5, 7)) == (5, 7)


def test_prompts_are_encoded_with_their_prefill_once(tmp_path):
    _, tokenizer = model_and_tokenizer()
    part = tiny_inputs(tmp_path).sets[1]
    encoded = EncodedSet.of(part, tokenizer)
    assert [tokenizer.decode(ids).endswith(f"Sure {index}") for index, ids in enumerate(encoded.ids)] == [True] * 5
