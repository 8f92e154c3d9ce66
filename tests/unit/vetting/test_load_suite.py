"""Suites: what ships fits what ships, and a wrong file says where it is wrong."""

from __future__ import annotations

import pytest
from tests.vetting_suites import BARS, ROWS, suite_file, vetted_artifact

from steerguard.errors import EvaluationError, PromptFileError
from steerguard.registry.local import embedded_registry
from steerguard.vetting.load_suite import load_suite, policy_for, read_set, shipped_suites
from steerguard.vetting.suite import Bar, expect_of


def test_the_shipped_suites_are_quick_and_standard():
    assert shipped_suites() == ("quick", "standard")


@pytest.mark.parametrize("name", ["quick", "standard"])
def test_a_shipped_suite_has_a_policy_for_every_embedded_artifact(name):
    loaded = load_suite(name)
    registry = embedded_registry()
    for entry in registry.entries():
        manifest = registry.pin(entry).manifest
        policy = policy_for(loaded.suite.case_for(manifest), manifest, where=name)
        named = [detector.artifact for detector in policy.detectors]
        named += [need.reference for one in policy.guidance for need in one.artifact_needs()]
        assert manifest.reference in named


@pytest.mark.parametrize("name", ["quick", "standard"])
def test_a_shipped_suite_asks_held_out_prompts_as_its_title_says(name):
    loaded = load_suite(name)
    for one in loaded.suite.sets:
        assert one.keep["split"] == ("held_out",)
        assert "held_out" in one.title
        assert len(read_set(loaded, one)) == one.rows


def test_every_bar_of_a_shipped_suite_can_be_missed():
    for name in shipped_suites():
        for case in load_suite(name).suite.cases:
            for bar in case.bars:
                worst = 0.0 if bar.at_least is not None else 1000.0
                assert not bar.reached(worst), (name, case.kind, bar)


def test_rows_are_chosen_by_field_and_spread_evenly(tmp_path):
    loaded = load_suite(suite_file(tmp_path))
    prompts = read_set(loaded, loaded.suite.set("benign"))
    assert len(prompts) == ROWS
    assert all("left out" not in prompts.prompt(index) for index in range(ROWS))
    few = load_suite(suite_file(tmp_path, rows=4))
    spread = read_set(few, few.suite.set("benign"))
    assert [spread.prompt(index) for index in range(4)] == [prompts.prompt(index) for index in (0, 2, 4, 6)]


def test_other_prompts_than_the_pinned_ones_are_refused(tmp_path):
    loaded = load_suite(suite_file(tmp_path))
    with (tmp_path / "prompts" / "benign.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "more"}]}\n')
    with pytest.raises(EvaluationError, match="not those that the suite was written for"):
        read_set(loaded, loaded.suite.set("benign"))


def test_more_rows_than_there_are_is_an_error(tmp_path):
    loaded = load_suite(suite_file(tmp_path, rows=ROWS + 1))
    with pytest.raises(EvaluationError, match="more rows than there are"):
        read_set(loaded, loaded.suite.set("harmful"))


def test_a_missing_prompt_file_is_an_error(tmp_path):
    loaded = load_suite(suite_file(tmp_path))
    (tmp_path / "prompts" / "benign.jsonl").unlink()
    with pytest.raises(PromptFileError, match="cannot be read"):
        read_set(loaded, loaded.suite.set("benign"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("batch_size: 4", "batch_size: 0", "settings.batch_size"),
        ("rounds: 3", "rounds: 2", "overhead.rounds"),
        ("expect: answer", "expect: refuse", "a set that should be answered"),
        ("name: benign", "name: harmful", "same name"),
        ("set: harmful, at_least: 0.0", "set: harmful", "exactly one of"),
        ("set: harmful, at_least: 0.0", "set: benign, at_least: 0.0", "should refuse"),
        ("artifact: $ARTIFACT", "artifact: harmful-intent@^1", "does not mention"),
        ("kind: VettingSuite", "kind: Suite", "kind"),
        ("rows: 2", "rows: 99", "at most as many rows"),
        ("metric: over_refusal", "metric: overrefusal", "bars.1.metric"),
    ],
)
def test_a_wrong_suite_names_what_is_wrong(tmp_path, old, new, said):
    with pytest.raises(EvaluationError) as caught:
        load_suite(suite_file(tmp_path, **{old: new}))
    assert said in str(caught.value)
    assert "suite.yaml:" in str(caught.value.where)


def test_a_suite_that_is_no_yaml_names_the_line(tmp_path):
    path = suite_file(tmp_path)
    path.write_text(path.read_text() + "\nmore: &anchor 1\n")
    with pytest.raises(EvaluationError) as caught:
        load_suite(path)
    assert "suite.yaml" in str(caught.value.where)


def test_an_unknown_name_proposes_a_near_one():
    with pytest.raises(EvaluationError, match="quick") as caught:
        load_suite("quik")
    assert caught.value.next_step == "Did you mean `quick`?"


def test_an_artifact_of_another_kind_has_no_case(tmp_path):
    suite = load_suite(suite_file(tmp_path)).suite
    with pytest.raises(EvaluationError, match="no policy for this kind") as caught:
        suite.case_for(vetted_artifact("inferaligner").manifest)
    assert "steering_vectors" in str(caught.value.found)


def test_a_bar_compares_with_the_estimate():
    low, high = Bar(metric="harmful_refused", set="h", at_least=0.6), Bar(metric="coherence", set="b", at_most=1.3)
    assert (low.reached(0.6), low.reached(0.59), low.text) == (True, False, ">= 0.6")
    assert (high.reached(1.3), high.reached(1.31), high.text) == (True, False, "<= 1.3")
    assert Bar(metric="over_refusal", set="b", at_most=0).reached(0.0)
    assert [expect_of("harmful_acted"), expect_of("overhead")] == ["refuse", "answer"]
    assert len(BARS) == 2
