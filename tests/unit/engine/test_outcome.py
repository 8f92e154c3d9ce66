"""The fired proof: guidance that did not happen is an error, never a silence."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import (
    ALWAYS,
    blocks_of,
    fresh_model,
    guarded,
    policy,
    prompts,
    registry_for,
    run,
    shared_model,
    splitting_threshold,
)

from steerguard.errors import GuidanceDidNotFireError

OPEN = policy(-1e6)


def _clear_hooks(model):
    for block in blocks_of(model):
        block._forward_hooks.clear()


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("step", [0, 1, 3])
def test_hooks_removed_behind_the_engine_raise_and_release_no_text(step, use_cache):
    with guarded(shared_model(), OPEN) as wrapped:

        def act(now):
            if now == step:
                _clear_hooks(wrapped)

        with wrapped.guard.collect() as reports, pytest.raises(GuidanceDidNotFireError, match="positions"):
            run(wrapped, prompts(3), act=act, use_cache=use_cache, min_new_tokens=6)
        assert reports == []
        assert wrapped.guard.hooked_blocks == ()
        run(wrapped, prompts(3))


@pytest.mark.parametrize("document", [OPEN, policy(rules=ALWAYS, detector=False)], ids=["detector", "always"])
@pytest.mark.parametrize("cleared", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_a_hook_that_is_gone_before_the_prefill_reaches_it_raises(cleared, document):
    model = fresh_model()
    blocks = blocks_of(model)

    def sabotage(*_):
        for block in cleared:
            blocks[block]._forward_hooks.clear()

    needed = {0, 1, 2} if document is OPEN else {1, 2}
    with guarded(model, document, registry=registry_for(shared_model())) as wrapped:
        model.get_input_embeddings().register_forward_hook(sabotage)
        if needed & set(cleared):
            with pytest.raises(GuidanceDidNotFireError, match="prefill"):
                run(wrapped, prompts(3))
        else:
            run(wrapped, prompts(3))
        assert wrapped.guard.hooked_blocks == ()


@pytest.mark.parametrize("cleared", [0, 1])
def test_a_check_whose_detector_missed_a_block_raises(cleared):
    model = fresh_model()
    with guarded(model, OPEN, registry=registry_for(shared_model())) as wrapped:
        block = blocks_of(model)[cleared]
        model.get_input_embeddings().register_forward_hook(lambda *_: block._forward_hooks.clear())
        with pytest.raises(GuidanceDidNotFireError, match="incomplete: d"):
            wrapped.guard.check([{"role": "user", "content": "hello"}])


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", ["all", "last_prompt_token_and_decode", "decode", "prefill"])
def test_doses_equal_an_independent_count(positions, side, use_cache):
    model = shared_model()
    batch = prompts(8, side)

    document = policy(splitting_threshold(), settings=f"coefficient: 4.0, positions: {positions}")
    with guarded(model, document) as wrapped, wrapped.guard.collect() as reports:
        tokens, _ = run(wrapped, batch, use_cache=use_cache)
    fed_back = tokens.shape[1] - batch["input_ids"].shape[1] - 1
    assert fed_back > 1
    for row, report in enumerate(reports):
        length = int(batch["attention_mask"][row].sum())
        per_block = {
            "all": length + fed_back,
            "last_prompt_token_and_decode": 1 + fed_back,
            "decode": fed_back,
            "prefill": length,
        }[positions]
        wanted = [2 * per_block] if report.intended == "guide" else []
        assert [dose.positions for dose in report.doses] == wanted
        assert [dose.expected_positions for dose in report.doses] == wanted


def test_readings_carry_the_bounds_that_they_were_compared_with():
    rules = """
rules:
  - id: high
    when: {detector: d, score: {at_least: {value: 1.5}}}
    then: {action: refuse}
  - id: band
    when: {detector: d, score: {at_least: {value: 0.1}, below: {fpr: 0.05}}}
    then: {action: annotate}
default: {action: allow}"""
    with guarded(shared_model(), policy(rules=rules)) as wrapped:
        reports = wrapped.guard.check([[{"role": "user", "content": text}] for text in ("hello", "x", "go", "what")])
    for report in reports:
        (reading,) = report.readings
        bounds = {(bound.rule, bound.bound): bound for bound in reading.thresholds}
        assert set(bounds) == {("high", "at_least"), ("band", "at_least"), ("band", "below")}
        assert bounds["band", "below"].fpr == "0.05"
        assert bounds["band", "at_least"].value == torch.tensor(0.1).item()
        high = reading.score >= bounds["high", "at_least"].value
        band = bounds["band", "at_least"].value <= reading.score < bounds["band", "below"].value
        assert report.rules == (("high",) if high else ()) + (("band",) if band else ())
        assert report.intended == ("refuse" if high else "annotate" if band else "allow")


def test_a_per_block_gate_is_read_and_its_reading_reproduces_the_open_blocks():
    document = policy(-1e6, settings="coefficient: 4.0, gate: per_block")
    with guarded(shared_model(), document) as wrapped, wrapped.guard.collect() as reports:
        run(wrapped, prompts(8))
    patterns = set()
    for report in reports:
        gates = {reading.source: reading for reading in report.readings[1:]}
        assert set(gates) == {"steer/block 1", "steer/block 2"}
        opened = tuple(
            block
            for block in (1, 2)
            if gates[f"steer/block {block}"].score >= gates[f"steer/block {block}"].thresholds[0].value
        )
        assert (report.doses[0].open_blocks if report.doses else ()) == opened
        patterns.add(opened)
    assert len(patterns) > 1
