"""A guardian refuses what a second model finds harmful, in prompts and in answers, and changes nothing else."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.guarded_models import (
    CONTENTS,
    answers,
    conversation,
    fresh_model,
    memory_log,
    prompts,
    run,
    same_rows,
    tokenizer,
)
from tests.judged_models import classifier_registry, cost_of, guardian_policy, guardian_registry, judged
from tests.search_checks import forward_columns
from tests.searched_models import text_of, with_judge
from transformers import LogitsProcessor, LogitsProcessorList

from steerguard.critics.callable_cost import CallableCost
from steerguard.engine import search_rows
from steerguard.engine.search_program import named_failures
from steerguard.errors import ArtifactIntegrityError, UnsupportedPlanError
from steerguard.models.chat import render
from steerguard.testing import MemorySink

ROWS = 6
FREE = 1e5
REFUSED = "I cannot"
"""The template, cut at a word: twelve tokens may be generated."""


@functools.cache
def _setting():
    """The model, its registry with a guardian, that guardian in memory, and the plain answers."""
    model = fresh_model()
    registry, judge = guardian_registry(model)
    batch = prompts(ROWS)
    plain = run(model, batch)
    texts = [text_of(ids) for ids in answers(plain[0], batch["input_ids"].shape[1])]
    return model, registry, judge, batch, plain, texts


def _middle(costs):
    """A budget that half of the costs are within."""
    found = sorted(costs)
    assert found[ROWS // 2] - found[ROWS // 2 - 1] > 1e-4
    return (found[ROWS // 2 - 1] + found[ROWS // 2]) / 2


def _answer_costs():
    _, _, judge, _, _, texts = _setting()
    return [cost_of(judge, asked, answer) for asked, answer in zip(CONTENTS, texts, strict=False)]


def _prompt_costs():
    return _setting()[2].prompt_cost(CONTENTS[:ROWS]).tolist()


def _text(tokens, row, batch):
    return text_of(tokens[row, batch["input_ids"].shape[1] :])


def test_answers_over_the_budget_are_refused_and_the_others_are_the_models_own():
    model, registry, _, batch, plain, _ = _setting()
    costs = _answer_costs()
    budget = _middle(costs)
    with judged(model, guardian_policy(budget, "[output]"), registry) as (wrapped, reports):
        found = run(wrapped, batch)
    kept = [row for row, cost in enumerate(costs) if cost < budget]
    assert 0 < len(kept) < ROWS
    assert same_rows(kept, found, plain, batch["input_ids"].shape[1])
    for row, report in enumerate(reports):
        assert report.search.plain_cost == pytest.approx(costs[row], abs=1e-4)
        assert report.usage.extra_forward_tokens == report.search.forward_tokens == 0
        if row in kept:
            assert (report.applied, report.cause, report.search.outcome) == ("guide", "rule", "kept")
        else:
            assert (report.applied, report.cause, report.search.outcome) == ("refuse", "no_candidate", "no_candidate")
            assert _text(found[0], row, batch) == REFUSED


def test_prompts_over_the_budget_are_refused_and_the_others_are_the_models_own():
    model, registry, _, batch, plain, _ = _setting()
    asked, answered = _prompt_costs(), _answer_costs()
    budget = _middle(asked)
    with judged(model, guardian_policy(budget), registry) as (wrapped, reports):
        found = run(wrapped, batch)
    expected = [
        "prompt" if one >= budget else "kept" if other < budget else "no_candidate"
        for one, other in zip(asked, answered, strict=True)
    ]
    assert [report.search.outcome for report in reports] == expected
    assert {"prompt", "kept"} <= set(expected)
    kept = [row for row, outcome in enumerate(expected) if outcome == "kept"]
    assert same_rows(kept, found, plain, batch["input_ids"].shape[1])
    for row, report in enumerate(reports):
        if expected[row] == "prompt":
            assert (report.applied, report.cause) == ("refuse", "no_candidate")
            assert report.search.plain_cost is None
            assert _text(found[0], row, batch) == REFUSED


@pytest.mark.parametrize("rows", [1, ROWS])
def test_refused_prompts_cost_no_decode_step(rows):
    model, registry, *_ = _setting()
    batch = prompts(rows)
    with judged(model, guardian_policy(-FREE), registry) as (wrapped, reports), forward_columns(wrapped) as passes:
        run(wrapped, batch)
    assert passes == [tuple(batch["input_ids"].shape)]
    assert {report.search.outcome for report in reports} == {"prompt"}


def test_only_answers_are_judged_where_the_input_is_not_checked():
    model, registry, *_ = _setting()
    with judged(model, guardian_policy(-FREE, "[output]"), registry) as (wrapped, reports):
        run(wrapped, prompts(2))
    assert {report.search.outcome for report in reports} == {"no_candidate"}


def test_a_judge_that_cannot_read_a_text_refuses_the_row():
    model = fresh_model()
    registry, judge = guardian_registry(model, max_tokens=90)
    assert judge.settings.too_long == "raise"
    chats = [conversation("x"), conversation("tell me a very long story " * 6)]
    with judged(model, guardian_policy(FREE, "[input, output]"), registry) as (wrapped, reports):
        run(wrapped, render(tokenizer(), chats))
    assert [report.search.outcome for report in reports] == ["kept", "critic_failed"]
    assert [report.cause for report in reports] == ["rule", "critic_failed"]
    assert [report.applied for report in reports] == ["guide", "refuse"]


def _broken(*_):
    raise RuntimeError("no judge today")


def test_a_judge_that_raises_refuses_the_row():
    model, registry, _, batch, *_ = _setting()
    with judged(model, guardian_policy(FREE), registry) as (wrapped, reports):
        with_judge(wrapped, CallableCost(name="broken", unit="none", threshold=0.0, judge=_broken))
        tokens, _ = run(wrapped, batch)
    assert {(report.applied, report.cause, report.search.outcome) for report in reports} == {
        ("refuse", "critic_failed", "critic_failed")
    }
    assert all(_text(tokens, row, batch) == REFUSED for row in range(ROWS))


def test_a_judge_that_raises_on_prompts_refuses_before_any_decode_step():
    model, registry, _, batch, *_ = _setting()
    with judged(model, guardian_policy(FREE), registry) as (wrapped, reports), forward_columns(wrapped) as passes:
        engine = wrapped.guard.engine
        failing = tuple(named_failures(replace(one, prompt_cost=_broken)) for one in engine.program.searches)
        wrapped.guard._engine = wrapped.guard._policies._in_force = replace(
            engine, program=replace(engine.program, searches=failing)
        )
        run(wrapped, batch)
    assert len(passes) == 1
    assert {(report.cause, report.search.outcome) for report in reports} == {("critic_failed", "critic_failed")}


def test_the_time_in_which_prompts_are_judged_counts(monkeypatch):
    model, registry, _, batch, *_ = _setting()
    now = [0.0]
    monkeypatch.setattr(search_rows, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow(texts):
        now[0] += 1000.0
        return torch.zeros(len(texts))

    with judged(model, guardian_policy(FREE), registry) as (wrapped, reports):
        engine = wrapped.guard.engine
        searches = tuple(replace(one, prompt_cost=slow) for one in engine.program.searches)
        wrapped.guard._engine = wrapped.guard._policies._in_force = replace(
            engine, program=replace(engine.program, searches=searches)
        )
        run(wrapped, batch)
    over = 1000 * ROWS * 1000 - engine.program.plan.max_added_latency_ms
    assert all(report.search.late_ms >= over for report in reports)


def test_a_prompt_without_text_cannot_be_judged():
    model, registry, *_ = _setting()
    batch = render(tokenizer(), [conversation(""), conversation("go")])
    with judged(model, guardian_policy(FREE), registry) as (wrapped, reports):
        run(wrapped, batch)
    assert [report.search.outcome for report in reports] == ["critic_failed", "kept"]


class _Only(LogitsProcessor):
    """Lets nothing but one token through."""

    def __init__(self, token):
        self._token = token

    def __call__(self, _input_ids, scores):
        only = torch.full_like(scores, -torch.inf)
        only[:, self._token] = 0.0
        return only


@pytest.mark.parametrize(
    ("token", "expected"),
    [("<|reserved_0|>", ("refuse", "non_finite", "non_finite")), ("<|im_end|>", ("guide", "rule", "kept"))],
)
def test_an_answer_without_text_is_kept_only_where_it_has_no_token_but_ends_of_the_turn(token, expected):
    model, registry, *_ = _setting()
    index = tokenizer().convert_tokens_to_ids(token)
    assert text_of([index]) == ""
    with judged(model, guardian_policy(-FREE, "[output]"), registry) as (wrapped, reports):
        wrapped.generate(
            **prompts(2), max_new_tokens=4, do_sample=False, logits_processor=LogitsProcessorList([_Only(index)])
        )
    for report in reports:
        assert (report.applied, report.cause, report.search.outcome) == expected
        assert (report.search.cost, report.search.plain_cost) == (None, None)


def test_the_judge_is_given_the_last_user_message_and_the_generated_answer():
    model, registry, *_ = _setting()
    seen = []

    def judge(asked, answered):
        seen.extend(zip(asked, answered, strict=True))
        return [0.0] * len(asked)

    system = {"role": "system", "content": "Be kind."}
    earlier = [*conversation("hello"), {"role": "assistant", "content": "hi"}]
    chats = [conversation("one"), [system, *earlier, *conversation("  two ")], conversation("three")]
    batch = render(tokenizer(), chats, prefills=[None, None, "Sure, here"])
    with judged(model, guardian_policy(1.0, "[output]"), registry) as (wrapped, _):
        with_judge(wrapped, CallableCost(name="seen", unit="none", threshold=1.0, judge=judge))
        tokens, _ = run(wrapped, batch)
    assert [asked for asked, _ in seen] == ["one", "two", "three"]
    generated = [text_of(ids) for ids in answers(tokens, batch["input_ids"].shape[1])]
    assert [answered for _, answered in seen] == generated
    assert not generated[2].startswith("Sure")


def test_the_audit_log_says_what_the_guardian_did():
    model, registry, _, batch, *_ = _setting()
    budget = _middle(_prompt_costs())
    sink = MemorySink()
    with judged(model, guardian_policy(budget), registry, audit=memory_log(sink)) as (wrapped, reports):
        run(wrapped, batch)
    lines = [json.loads(line) for line in sink.lines]
    decisions = [line for line in lines if line["type"] == "guard.decision"]
    assert [line["search"]["outcome"] for line in decisions] == [report.search.outcome for report in reports]
    assert [line["search"]["method"] for line in decisions] == ["guardian"] * ROWS
    assert [line["cause"] for line in decisions] == [report.cause for report in reports]
    assert {"prompt", "kept"} <= {line["search"]["outcome"] for line in decisions}
    assert not any(content.encode() in line for content in CONTENTS[:3] for line in sink.lines)


def test_a_monitored_guardian_judges_nothing_and_refuses_nothing():
    model, registry, _, batch, plain, _ = _setting()
    with judged(model, guardian_policy(-FREE, mode="monitor"), registry) as (wrapped, reports):
        found = run(wrapped, batch)
    assert same_rows(range(ROWS), found, plain, batch["input_ids"].shape[1])
    assert {(report.mode, report.applied) for report in reports} == {("monitor", "allow")}


def test_a_judge_that_reads_no_prompts_alone_is_refused_where_the_input_is_checked():
    model = fresh_model()
    registry, _ = classifier_registry(model)
    with (
        pytest.raises(UnsupportedPlanError, match=r"check: \[output\]"),
        judged(model, guardian_policy(0.0), registry),
    ):
        pass
    with judged(model, guardian_policy(FREE, "[output]"), registry) as (wrapped, reports):
        run(wrapped, prompts(1))
    assert reports[0].search.outcome == "kept"


def test_a_guardian_whose_files_were_changed_guards_nothing():
    model = fresh_model()
    registry, _ = guardian_registry(model)
    folder = registry.pinned("harm-cost")[0].manifest.params["model"]["folder"]
    changed = Path(folder) / "tokenizer_config.json"
    changed.write_text(changed.read_text() + "\n")
    with pytest.raises(ArtifactIntegrityError), judged(model, guardian_policy(FREE), registry):
        pass
