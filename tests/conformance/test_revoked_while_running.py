"""An artifact that is revoked while its guard runs: every way of generating refuses from the next call on."""

from __future__ import annotations

import pytest
import torch
from tests.beam_search import BEAMS
from tests.guarded_models import (
    ARCHITECTURES,
    TEMPLATE,
    conversation,
    policy,
    prompts,
    registry_for,
    run,
    shared_model,
    splitting_threshold,
    state_of,
)
from tests.revocations import listed
from tests.rolling_guards import opening, rolling, split
from tests.searched_models import search_policy
from tests.watched_models import Keeper, assert_refused, refused, texts, watched
from transformers import DynamicCache

ROWS = 4


WAYS = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 1.5},
    "several answers": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": BEAMS, "do_sample": False},
    "all beams": {"num_beams": BEAMS, "num_return_sequences": BEAMS, "do_sample": False},
    "sampled beams": {"num_beams": BEAMS, "do_sample": True},
    "no cache": {"do_sample": False, "use_cache": False},
    "in chunks": {"do_sample": False, "prefill_chunk_size": 3},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_row_is_refused_from_the_next_call_on(way):
    model = shared_model()
    batch, settings = prompts(ROWS), {"max_new_tokens": 30, **WAYS[way]}
    width = batch["input_ids"].shape[1]
    with watched(model, policy(splitting_threshold(), action="guide")) as one:
        with one.model.guard.collect() as before:
            one.model.generate(**batch, **settings)
        assert not any(refused(report) for report in before)
        one.revoke()
        with one.model.guard.collect() as reports:
            tokens = one.model.generate(**batch, **settings)
        assert len(reports) == tokens.shape[0] == len(before)
        assert_refused(reports, tokens, width)
        assert one.model.guard.hooked_blocks == ()
    assert model.generate(**batch, max_new_tokens=2) is not None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_revoked_batch_is_what_a_refused_batch_is(architecture):
    """Template, end and padding are those of any refused row; no hook goes on the model, and nothing stays."""
    model, batch = shared_model(architecture), prompts(ROWS)
    with watched(model, policy(-1e6, "refuse")) as one:
        usual, _ = run(one.model, batch, max_new_tokens=30)
    with watched(model, policy(1e6, "guide")) as one:
        before = state_of(model)
        one.revoke()
        installed = []
        wanted = one.model.guard.engine.hooks.install
        one.model.guard.engine.hooks.install = lambda hooks: installed.append(hooks) or wanted(hooks)
        try:
            tokens, _ = run(one.model, batch, max_new_tokens=30)
        finally:
            del one.model.guard.engine.hooks.install
        assert torch.equal(tokens, usual)
        assert not any(installed)
        assert state_of(model) == before


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_the_compiled_executor_refuses_as_the_eager_one_and_serves_again(mode):
    model, batch = shared_model(), prompts(ROWS)
    with watched(model, policy(splitting_threshold()), mode=mode, executor="compiled") as one:
        before, _ = run(one.model, batch)
        one.revoke()
        with one.model.guard.collect() as reports:
            tokens, _ = run(one.model, batch, max_new_tokens=30)
        if mode == "enforce":
            assert_refused(reports, tokens, batch["input_ids"].shape[1])
        else:
            assert {(report.applied, report.cause) for report in reports} == {("allow", "revoked")}
        one.publish(listed(sequence=3))
        assert torch.equal(run(one.model, batch)[0], before)


@pytest.mark.parametrize("limit", [1, 3, 40])
def test_the_template_is_cut_as_for_any_refused_row(limit):
    with watched(shared_model(), policy(-1e6, "refuse")) as one, one.model.guard.collect() as reports:
        usual, _ = run(one.model, prompts(1), max_new_tokens=limit)
        one.revoke()
        tokens, _ = run(one.model, prompts(1), max_new_tokens=limit)
    assert torch.equal(usual, tokens)
    assert reports[0].template_cut == reports[1].template_cut == (limit < 10)


def test_a_call_in_flight_ends_as_it_began():
    model, batch = shared_model(), prompts(ROWS)
    document = policy(splitting_threshold(), action="guide")
    with watched(model, document) as one:
        plain, _ = run(one.model, batch)
        asked = []
        with one.model.guard.collect() as reports:
            found, _ = run(one.model, batch, act=lambda step: asked.append(step) or (step == 2 and one.revoke()))
        assert len(asked) == 12
        assert torch.equal(plain, found)
        assert not any(report.cause == "revoked" for report in reports)
        assert one.records("artifact.revoked") == []
        with one.model.guard.collect() as reports:
            run(one.model, batch)
        assert all(refused(report) for report in reports)


def test_a_prompt_that_is_not_recognised_is_refused_for_the_revocation_too():
    allowed = "unrecognised_prompt: {action: allow, reason: completions are reviewed by hand, expires: 2999-12-31}"
    batch = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    with watched(shared_model(), policy(more=allowed)) as one, one.model.guard.collect() as reports:
        run(one.model, batch)
        one.revoke()
        tokens, _ = run(one.model, batch, max_new_tokens=30)
    assert [report.cause for report in reports] == ["unrecognised_prompt", "revoked"]
    assert texts(tokens, 3) == [TEMPLATE]


@pytest.mark.parametrize("strategy", ["buffer", "window"])
def test_a_stream_is_the_template_and_its_record_comes_first(strategy):
    more = f"streaming: {{strategy: {strategy}}}"
    with watched(shared_model(), policy(1e6, more=more)) as one:
        one.revoke()
        keeper = Keeper()
        tokens = one.model.generate(**prompts(1), streamer=keeper, max_new_tokens=30, do_sample=False)
        width = prompts(1)["input_ids"].shape[1]
        assert [value.tolist() for value in keeper.values[1:-1]] == [[token] for token in tokens[0, width:].tolist()]
        assert keeper.values[-1] is None
        assert texts(tokens, width) == [TEMPLATE]
        kinds = [record["type"] for record in one.records()]
        assert kinds.index("artifact.revoked") < kinds.index("guard.decision")


def test_a_warning_is_recorded_and_changes_nothing():
    batch = prompts(ROWS)
    with watched(shared_model(), policy(splitting_threshold())) as one:
        plain, steps = run(one.model, batch)
        one.revoke(action="warn", reason="superseded")
        with one.model.guard.collect() as reports:
            found, again = run(one.model, batch)
        assert torch.equal(plain, found)
        assert all(torch.equal(first, second) for first, second in zip(steps, again, strict=True))
        assert "revoked" not in {report.cause for report in reports}
        assert [record["action"] for record in one.records("artifact.revoked")] == ["warn"]


@pytest.mark.parametrize("way", WAYS)
def test_monitor_mode_records_it_and_changes_nothing(way):
    batch, settings = prompts(ROWS), {"max_new_tokens": 6, **WAYS[way]}
    model = shared_model()
    torch.manual_seed(3)
    plain = model.generate(**batch, **settings)
    with watched(model, policy(splitting_threshold()), mode="monitor") as one, one.model.guard.collect() as reports:
        one.revoke()
        torch.manual_seed(3)
        found = one.model.generate(**batch, **settings)
        assert torch.equal(plain, found)
        assert {(report.intended, report.applied, report.cause) for report in reports} == {
            ("refuse", "allow", "revoked")
        }
        assert [record["action"] for record in one.records("artifact.revoked")] == ["refuse"]


def test_check_and_explain_say_it_without_reading():
    with watched(shared_model(), policy(1e6)) as one:
        one.revoke()
        (first, second) = one.model.guard.check([conversation("hello"), conversation("how to cook")])
        assert refused(first)
        assert refused(second)
        assert first.readings == ()
        lines = str(one.model.guard.explain(conversation("hello")))
        assert "because of an artifact that was revoked" in lines
        assert "Nothing was read" in lines


def test_scoring_asks_at_every_pass():
    batch = prompts(ROWS)
    with watched(shared_model(), policy(1e6)) as one, one.model.guard.forward() as scoring:
        plain = one.model(**batch)
        one.revoke()
        output = one.model(**batch)
        first, second = scoring.decisions
        assert not any(refused(decision) for decision in first)
        assert all(refused(decision) for decision in second)
        assert not torch.equal(plain.logits, output.logits)
        said = output.logits[:, -1].argmax(-1)
        assert len(set(said.tolist())) == 1
        assert set(output.logits.unique().tolist()) == {-1024.0, 0.0}


def test_scoring_in_monitor_mode_keeps_the_logits():
    batch, model = prompts(ROWS), shared_model()
    with torch.no_grad():
        plain = model(**batch, use_cache=False).logits
    with watched(model, policy(splitting_threshold()), mode="monitor") as one, one.model.guard.forward() as scoring:
        one.revoke()
        output = one.model(**batch)
        mask = batch["attention_mask"].bool()
        torch.testing.assert_close(output.logits[mask], plain[mask], rtol=1e-4, atol=1e-4)
        assert {(decision.applied, decision.cause) for decision in scoring.decisions[0]} == {("allow", "revoked")}


@pytest.mark.parametrize("opens", [False, True], ids=["refuses", "opens"])
@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_a_rolling_guard_reads_no_answer_any_more(opens, mode):
    model, batch = shared_model(), prompts(ROWS)
    threshold = split(model, batch)
    document = opening(threshold) if opens else rolling(threshold)
    with watched(model, document, mode=mode) as one, one.model.guard.collect() as reports:
        run(one.model, batch, max_new_tokens=6)
        assert all(report.readings for report in reports)
        one.revoke()
        del reports[:]
        tokens, _ = run(one.model, batch, max_new_tokens=30)
        if mode == "enforce":
            assert_refused(reports, tokens, batch["input_ids"].shape[1])
        else:
            assert {(report.applied, report.cause, report.readings) for report in reports} == {("allow", "revoked", ())}


@pytest.mark.parametrize("start", ["lazy", "always"])
def test_no_search_begins(start):
    batch = prompts(2)
    with watched(shared_model(), search_policy(start=start, cost_budget=-50.0)) as one:
        one.revoke("harm-cost")
        with one.model.guard.collect() as reports:
            tokens, _ = run(one.model, batch, max_new_tokens=30)
        assert_refused(reports, tokens, batch["input_ids"].shape[1])
        assert {report.search for report in reports} == {None}
        assert {report.usage.extra_forward_tokens for report in reports} == {0}


def test_a_verdict_that_needs_a_pass_of_its_own_needs_none():
    model = shared_model()
    registry = registry_for(model, probe_blocks=(1, 3), steered_blocks=(1, 2))
    with watched(model, policy(0.0), registry=registry) as one, one.model.guard.collect() as reports:
        assert one.model.guard.plan.cost.passes == 2
        one.revoke()
        tokens, _ = run(one.model, prompts(2), max_new_tokens=30)
        assert_refused(reports, tokens, prompts(2)["input_ids"].shape[1])
        assert {report.usage.extra_forward_tokens for report in reports} == {0}


def test_a_cache_of_the_app_is_emptied_and_serves_again_afterwards():
    model, batch, cache = shared_model(), prompts(2), DynamicCache()
    with watched(model, policy(1e6)) as one, one.model.guard.collect() as reports:
        tokens = one.model.generate(**batch, past_key_values=cache, max_new_tokens=3, do_sample=False)
        assert cache.get_seq_length() > 0
        longer = {
            "input_ids": torch.cat([tokens, tokens[:, -1:]], dim=1),
            "attention_mask": torch.ones(2, tokens.shape[1] + 1, dtype=torch.long),
        }
        longer["attention_mask"][:, : batch["input_ids"].shape[1]] = batch["attention_mask"]
        one.revoke()
        one.model.generate(**longer, past_key_values=cache, max_new_tokens=3, do_sample=False)
        assert all(refused(report) for report in reports[2:])
        assert cache.get_seq_length() == 0
        one.publish(listed(sequence=3))
        one.model.generate(**batch, past_key_values=cache, max_new_tokens=3, do_sample=False)
        assert not any(refused(report) for report in reports[4:])


def test_an_artifact_that_no_plan_uses_changes_nothing():
    with watched(shared_model(), policy(splitting_threshold())) as one, one.model.guard.collect() as reports:
        one.revoke("condition")
        run(one.model, prompts(2), max_new_tokens=2)
        assert "revoked" not in {report.cause for report in reports}
        assert one.records("artifact.revoked") == []
