"""The rolling guard: answers are read while they are written, and only the rows that reach the threshold are touched."""

from __future__ import annotations

import json

import pytest
import torch
from tests.guarded_models import (
    ARCHITECTURES,
    Capture,
    answers,
    blocks_of,
    fresh_model,
    guarded,
    memory_log,
    policy,
    prompts,
    registry_for,
    run,
    same_rows,
    shared_model,
)
from tests.rolling_guards import (
    UNREACHED,
    hidden_states,
    opening,
    probe_of,
    refused_ids,
    rolling,
    split,
    watched,
)
from transformers import LogitsProcessorList

from steerguard.testing import MemorySink


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_rows_that_never_reach_it_are_the_unguided_run_bit_by_bit_beside_rows_that_are_cut(architecture, dtype):
    model = shared_model(architecture, dtype)
    batch = prompts(8)
    document = rolling(split(model, batch))
    for settings in ({}, {"do_sample": True, "temperature": 1.3, "top_p": 0.9}):
        plain = run(model, batch, **settings)
        found, reports = watched(model, document, batch, **settings)
        kept = [report.row for report in reports if report.applied == "guide"]
        assert same_rows(kept, plain, found, batch["input_ids"].shape[1])
        if not settings:
            assert 0 < len(kept) < 8


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("rows", [2, 5, 17])
def test_a_cut_row_holds_the_template_and_nothing_of_its_answer(rows, side):
    model = shared_model()
    batch = prompts(rows, side)
    width = batch["input_ids"].shape[1]
    plain = answers(run(model, batch, max_new_tokens=24)[0], width)
    (tokens, _), reports = watched(model, rolling(split(model, batch, max_new_tokens=24)), batch, max_new_tokens=24)
    cut = [report for report in reports if report.applied == "refuse"]
    assert 0 < len(cut) < rows
    for report in cut:
        found = answers(tokens, width)[report.row]
        assert found[: len(refused_ids(24))] == refused_ids(24)
        assert found != plain[report.row]
        assert (report.intended, report.cause, report.rules) == ("refuse", "answer_reading", ("r",))
        assert report.usage.generated_tokens == len(found)


@pytest.mark.parametrize(
    ("every", "first", "in_a_row"), [(1, 1, 1), (2, 1, 1), (3, 4, 1), (5, 2, 1), (1, 1, 3), (2, 3, 2)]
)
def test_scores_are_those_of_a_plain_forward_pass_at_the_newest_tokens(every, first, in_a_row):
    model = shared_model("qwen2")
    batch = prompts(6)
    width = batch["input_ids"].shape[1]
    tokens, _ = run(model, batch, eos_token_id=None)
    document = rolling(UNREACHED, every=every, first=first, in_a_row=in_a_row)
    _, reports = watched(model, document, batch, mode="monitor", eos_token_id=None)
    weight, blocks = probe_of(model)
    states = hidden_states(model, tokens, batch["attention_mask"], blocks)
    moments = [count for count in range(1, 12) if count >= first and (count - first) % every == 0]
    for row, report in enumerate(reports):
        each = [float((states[:, row, width + count - 1].double() * weight).sum(-1).mean()) for count in moments]
        lowest = {
            moments[last]: min(each[last - in_a_row + 1 : last + 1]) for last in range(in_a_row - 1, len(moments))
        }
        (reading,) = report.readings
        assert reading.source == "watch"
        assert reading.token == max(lowest, key=lowest.get)
        assert reading.score == pytest.approx(max(lowest.values()), rel=1e-4)


def test_reads_in_a_row_count_a_prefilled_answer_where_there_is_one():
    batch = prompts(4, prefills=["mo assi tell", None, "sure here is", None])
    document = rolling(-1e6, every=1, in_a_row=2)
    _, reports = watched(shared_model(), document, batch, eos_token_id=None)
    assert [report.readings[-1].token for report in reports] == [1, 2, 1, 2]
    assert {report.applied for report in reports} == {"refuse"}


def test_the_first_score_that_reaches_it_is_the_one_that_is_kept():
    model = shared_model()
    batch = prompts(8)
    _, every_one = watched(model, rolling(-1e6), batch, mode="monitor")
    assert {report.readings[-1].token for report in every_one} == {1}
    threshold = split(model, batch)
    _, reports = watched(model, rolling(threshold), batch)
    for report in reports:
        (reading,) = report.readings
        (bound,) = reading.thresholds
        assert (bound.rule, bound.bound, bound.value) == ("watch", "at_least", pytest.approx(threshold))
        assert (reading.score >= bound.value) == (report.applied == "refuse")


def test_a_prefilled_answer_is_read_before_the_first_token_is_chosen():
    model = shared_model()
    prefills = ["mo assi tell", None, "sure here is", None]
    batch = prompts(4, prefills=prefills)
    for side in ("left", "right"):
        batch = prompts(4, side, prefills=prefills)
        with guarded(model, rolling(-1e6, first=4096)) as wrapped, wrapped.guard.collect() as reports:
            capture = Capture()
            tokens = wrapped.generate(
                **batch, max_new_tokens=12, do_sample=False, logits_processor=LogitsProcessorList([capture])
            )
        assert [report.applied for report in reports] == ["refuse", "guide", "refuse", "guide"]
        assert [report.readings[-1].token if report.readings else None for report in reports] == [0, None, 0, None]
        found = answers(tokens, batch["input_ids"].shape[1])
        assert all(found[row][: len(refused_ids())] == refused_ids() for row in (0, 2))


def test_the_prefilled_score_is_that_of_the_last_prompt_token_whole_and_in_chunks():
    model = shared_model()
    batch = prompts(4, prefills=["mo assi", "sure", "tell me", "zz"])
    weight, blocks = probe_of(model)
    states = hidden_states(model, batch["input_ids"], batch["attention_mask"], blocks)
    wanted = [float((states[:, row, -1].double() * weight).sum(-1).mean()) for row in range(4)]
    for chunk in (None, 3):
        _, reports = watched(model, rolling(-1e6), batch, prefill_chunk_size=chunk)
        assert [report.readings[-1].score for report in reports] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("pad", range(0, 300, 25))
def test_a_row_that_has_ended_is_read_no_more(pad):
    model = shared_model()
    batch = prompts(8)
    width = batch["input_ids"].shape[1]
    plain, _ = run(model, batch, eos_token_id=None)
    # The second token of one row ends it, and the others go on.
    end = int(plain[3, width + 1])
    document = rolling(UNREACHED, every=1)
    _, reports = watched(model, document, batch, mode="monitor", eos_token_id=end, pad_token_id=pad)
    lengths = [row.index(end) if end in row else 11 for row in plain[:, width:].tolist()]
    assert lengths[3] == 1
    assert max(lengths) == 11
    weight, blocks = probe_of(model)
    states = hidden_states(model, plain, batch["attention_mask"], blocks)
    for row, (report, length) in enumerate(zip(reports, lengths, strict=True)):
        scores = (states[:, row, width : width + 11].double() * weight[:, None]).sum(-1).mean(0)
        wanted = pytest.approx(float(scores[:length].max()), rel=1e-4) if length else None
        assert (report.readings[-1].score if report.readings else None) == wanted


def test_monitor_records_what_enforcement_would_do_and_changes_nothing():
    model = shared_model()
    batch = prompts(8)
    threshold = split(model, batch)
    plain = run(model, batch)
    for document in (rolling(threshold), opening(threshold)):
        found, reports = watched(model, document, batch, mode="monitor")
        assert torch.equal(plain[0], found[0])
        assert all(torch.equal(one, other) for one, other in zip(plain[1], found[1], strict=True))
        assert {report.applied for report in reports} == {"allow"}
        assert all(report.doses == () for report in reports)
    _, monitored = watched(model, rolling(threshold), batch, mode="monitor")
    _, enforced = watched(model, rolling(threshold), batch)
    assert [(r.intended, r.cause, r.readings) for r in monitored] == [
        (r.intended, r.cause, r.readings) for r in enforced
    ]


def test_rows_that_the_verdict_does_not_watch_are_not_read_and_decode_without_a_hook():
    model = shared_model()
    batch = prompts(8)
    with guarded(model, policy(0.0), mode="monitor") as wrapped, wrapped.guard.collect() as reports:
        run(wrapped, batch, max_new_tokens=1)
    scores = sorted(report.readings[0].score for report in reports)
    rules = """
rules:
  - {id: r, when: {detector: d, score: {at_least: {value: %.9f}}}, then: {action: guide, use: [watch]}}
default: {action: allow}"""
    _, reports = watched(model, rolling(-1e6, rules=rules % scores[4], detector=True), batch)
    assert [report.applied for report in reports].count("refuse") == 4
    assert all(len(report.readings) == (2 if report.applied == "refuse" else 1) for report in reports)
    with guarded(model, rolling(-1e6, rules=rules % 1e6, detector=True)) as wrapped:
        seen = []
        run(wrapped, batch, act=lambda _step: seen.append(wrapped.guard.hooked_blocks))
    assert set(seen) == {()}


def test_a_score_that_is_not_finite_refuses_the_row_whatever_the_reaction():
    for make in (rolling, opening):
        model = fresh_model()
        batch = prompts(4)
        registry = registry_for(shared_model())
        calls = []

        def spoil(_module, _args, output, calls=calls):
            calls.append(1)
            if len(calls) < 4:
                return output
            hidden = output[0] if isinstance(output, tuple) else output
            hidden[1] = torch.nan
            return output

        with guarded(model, make(UNREACHED), registry=registry) as wrapped, wrapped.guard.collect() as reports:
            handle = blocks_of(model)[0].register_forward_hook(spoil, prepend=True)
            tokens, _ = run(wrapped, batch, eos_token_id=None)
            handle.remove()
        assert [report.cause for report in reports] == ["rule", "non_finite", "rule", "rule"]
        assert reports[1].readings[-1].score is None
        assert answers(tokens, batch["input_ids"].shape[1])[1] == refused_ids()


def test_the_record_says_when_and_why():
    sink = MemorySink()
    log = memory_log(sink)
    with guarded(shared_model(), rolling(-1e6, first=3), audit=log) as wrapped:
        run(wrapped, prompts(2))
    log.close()
    records = [json.loads(line) for line in sink.lines]
    decisions = [record for record in records if record["type"] == "guard.decision"]
    assert len(decisions) == 2
    for record in decisions:
        (reading,) = record["readings"]
        assert (reading["source"], reading["token"], record["cause"]) == ("watch", 3, "answer_reading")
        assert reading["thresholds"][0]["rule"] == "watch"


def test_the_cost_counts_read_blocks_and_what_a_row_keeps():
    model = shared_model()
    with guarded(model, rolling(0.0)) as wrapped:
        cost = wrapped.guard.plan.cost
        width = wrapped.guard.plan.model.hidden_size
    assert (cost.passes, cost.hooked_blocks_prefill, cost.hooked_blocks_open, cost.hooked_blocks_reading) == (
        1,
        2,
        0,
        2,
    )
    assert (cost.resident_bytes, cost.bytes_per_row) == (4 * width * 2, 24)
    with guarded(model, rolling(0.0, in_a_row=4)) as wrapped:
        assert wrapped.guard.plan.cost.bytes_per_row == 24 + 3 * 4
    assert cost.extra_forward_tokens(100) == 0
    with guarded(model, rolling(0.0)) as wrapped:
        seen = []
        run(wrapped, prompts(2), act=lambda _step: seen.append(len(wrapped.guard.hooked_blocks)))
    assert set(seen[:1]) == {cost.hooked_blocks_reading}
