"""Guarantees 2 and 3: one verdict per row, whatever stands beside it, whichever side is padded, however it is cached."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch
from tests.guarded_models import (
    ARCHITECTURES,
    CONTENTS,
    answers,
    blocks_of,
    conversation,
    guarded,
    policy,
    prompts,
    run,
    scores_of,
    shared_model,
    splitting_threshold,
    tokenizer,
)

from steerguard.models.chat import render

EPSILON = {torch.float32: 1e-4, torch.bfloat16: 0.3}
"""How far scores of one prompt may differ between batch shapes; the scores here spread over about ten units."""


@pytest.mark.parametrize("dtype", EPSILON, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_score_depends_neither_on_padding_side_nor_on_batch_size(architecture, dtype):
    model = shared_model(architecture, dtype)
    left = torch.tensor(scores_of(model, prompts(8, "left")))
    right = torch.tensor(scores_of(model, prompts(8, "right")))
    alone = torch.tensor([
        scores_of(model, render(tokenizer(), [conversation(text)]))[0] for text in CONTENTS
    ])  # fmt: skip
    assert left.std() > 5 * EPSILON[dtype] / 2
    assert (left - right).abs().max() < EPSILON[dtype]
    assert (left - alone).abs().max() < EPSILON[dtype]


def test_verdicts_agree_across_padding_and_batch_size_outside_epsilon():
    model = shared_model()
    threshold = splitting_threshold()
    wanted = [score >= threshold for score in scores_of(model, prompts(8))]
    assert min(abs(score - threshold) for score in scores_of(model, prompts(8))) > EPSILON[torch.float32]
    with guarded(model, policy(threshold)) as wrapped:
        for batch in (prompts(8, "left"), prompts(8, "right"), prompts(3, "left"), prompts(24, "right")):
            with wrapped.guard.collect() as reports:
                wrapped.generate(**batch, max_new_tokens=2, do_sample=False)
            verdicts = [report.intended == "guide" for report in reports]
            assert verdicts[:3] == wanted[:3]
            assert verdicts[:8] == wanted[: len(verdicts)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prefilled_answer_does_not_move_the_score(architecture):
    model = shared_model(architecture)
    plain = torch.tensor(scores_of(model, prompts(4)))
    prefilled = torch.tensor(scores_of(model, prompts(4, prefills=["Sure, here is", "No", None, "x" * 40])))
    assert (plain - prefilled).abs().max() < 1e-4
    with guarded(model, policy(0.0)) as wrapped:
        alone = prompts(1)
        answered = {**prompts(1, prefills=["Sure"])}
        scores = []
        for batch in (alone, answered):
            with wrapped.guard.collect() as reports:
                wrapped.generate(**batch, max_new_tokens=3, do_sample=False)
            scores.append(reports[0].readings[0].score)
    assert abs(scores[0] - scores[1]) < 1e-5


def test_steering_from_the_prompt_end_counts_the_prefilled_answer():
    model = shared_model()
    settings = "coefficient: 4.0, positions: last_prompt_token_and_decode"
    answered = prompts(1, prefills=["Sure"])
    with guarded(model, policy(-1e6, settings=settings)) as wrapped, wrapped.guard.collect() as reports:
        tokens, _ = run(wrapped, answered, max_new_tokens=3, min_new_tokens=3)
    prefilled = answered["input_ids"].shape[1] - prompts(1)["input_ids"].shape[1]
    assert tokens.shape[1] - answered["input_ids"].shape[1] == 3
    assert reports[0].doses[0].positions == 2 * (1 + prefilled + 2)


def test_the_verdict_stays_frozen_while_an_answer_drifts():
    with guarded(shared_model(), policy(splitting_threshold())) as wrapped:
        seen = []
        with wrapped.guard.collect() as reports:
            run(wrapped, prompts(8), max_new_tokens=20, act=lambda _step: seen.append(wrapped.guard.hooked_blocks))
    assert len(set(seen)) == 1
    for report in reports:
        assert bool(report.doses) == (report.intended == "guide")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("settings", ["coefficient: 4.0", "coefficient: 4.0, gate: per_block, positions: decode"])
def test_decoding_without_a_cache_gives_the_same_tokens_and_doses(architecture, settings):
    model = shared_model(architecture)
    batch = prompts(8)
    document = policy(splitting_threshold(architecture), settings=settings)
    found = []
    with guarded(model, document) as wrapped:
        for use_cache in (True, False):
            with wrapped.guard.collect() as reports:
                tokens, logits = run(wrapped, batch, use_cache=use_cache)
            found.append((tokens, logits, [(report.intended, report.doses) for report in reports]))
    assert found[0][2] == found[1][2]
    assert any(doses for _, doses in found[0][2])
    assert answers(found[0][0], batch["input_ids"].shape[1]) == answers(found[1][0], batch["input_ids"].shape[1])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(one, other, atol=2e-3, rtol=1e-4)


def _interleaved(works, model_of_hook):
    """Run each work in a thread of its own; both stop at every forward pass of block 1 until the other is there too."""
    barrier = threading.Barrier(len(works))
    results = [None] * len(works)

    def meet(*_):
        try:
            barrier.wait(timeout=20)
        except threading.BrokenBarrierError:
            return

    def work(index):
        try:
            results[index] = works[index]()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            results[index] = error
        finally:
            barrier.abort()

    handles = [blocks_of(model)[1].register_forward_hook(meet) for model in model_of_hook]
    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(works))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    finally:
        for handle in handles:
            handle.remove()
    return results


def _told(decisions):
    return [dataclasses.replace(decision, request="") for decision in decisions]


def _work(wrapped, batch):
    def work():
        with wrapped.guard.collect() as reports:
            tokens, logits = run(wrapped, batch)
        return tokens, logits, _told(reports)

    return work


def _equal(one, other):
    same_logits = all(torch.equal(first, second) for first, second in zip(one[1], other[1], strict=True))
    return torch.equal(one[0], other[0]) and same_logits and one[2] == other[2]


def test_two_threads_on_one_model_equal_the_same_calls_one_after_the_other():
    with guarded(shared_model(), policy(splitting_threshold())) as wrapped:
        works = [_work(wrapped, prompts(8)), _work(wrapped, prompts(5, "right"))]
        sequential = [work() for work in works]
        for _ in range(3):
            interleaved = _interleaved(works, [wrapped])
            assert all(_equal(one, other) for one, other in zip(sequential, interleaved, strict=True))
        assert wrapped.guard.hooked_blocks == ()


def test_an_open_and_a_closed_batch_in_two_threads_do_not_touch_each_other():
    model = shared_model()
    batch = prompts(8)
    order = torch.tensor(scores_of(model, batch)).argsort()
    low, high = ({key: tensor[rows] for key, tensor in batch.items()} for rows in (order[:4], order[4:]))
    plain = run(model, low)
    with guarded(model, policy(splitting_threshold())) as wrapped:
        works = [_work(wrapped, low), _work(wrapped, high)]
        sequential = [work() for work in works]
        interleaved = _interleaved(works, [wrapped])
    assert all(_equal(one, other) for one, other in zip(sequential, interleaved, strict=True))
    assert torch.equal(plain[0], interleaved[0][0])
    assert not any(decision.doses for decision in interleaved[0][2])
    assert all(decision.doses for decision in interleaved[1][2])


def test_two_policies_on_two_models_in_two_threads_equal_sequential_runs():
    first, second = shared_model("llama"), shared_model("gpt2")
    refusing = policy(splitting_threshold("gpt2"), "refuse")
    with guarded(first, policy(splitting_threshold())) as one, guarded(second, refusing) as other:
        works = [_work(one, prompts(8)), _work(other, prompts(8))]
        sequential = [work() for work in works]
        interleaved = _interleaved(works, [one, other])
    assert all(_equal(left, right) for left, right in zip(sequential, interleaved, strict=True))


def test_a_thread_that_raises_does_not_disturb_the_other():
    with guarded(shared_model(), policy(splitting_threshold())) as wrapped:

        def boom(step):
            if step == 2:
                raise RuntimeError("user code")

        works = [_work(wrapped, prompts(8)), lambda: run(wrapped, prompts(8), act=boom)]
        sequential = works[0]()
        interleaved = _interleaved(works, [wrapped])
        assert wrapped.guard.hooked_blocks == ()
    assert _equal(sequential, interleaved[0])
    assert isinstance(interleaved[1], RuntimeError)
    assert str(interleaved[1]) == "user code"


@pytest.mark.parametrize("ways", [{}, {"do_sample": True}, {"num_beams": 3}], ids=["greedy", "sampled", "beams"])
def test_processors_of_the_app_learn_nothing_from_refused_rows(ways):
    model = shared_model()
    batch = prompts(8)
    document = policy(splitting_threshold(), "refuse")
    with guarded(model, document) as wrapped, wrapped.guard.collect() as reports:
        _, steps = run(wrapped, batch, **ways)
    copies = ways.get("num_beams", 1)
    refused = [report.row for report in reports if report.applied == "refuse"]
    assert 0 < len(refused) < 8
    for seen in steps:
        by_prompt = seen.view(8, copies, -1)
        assert all(not by_prompt[row].any() for row in refused)
        assert all(by_prompt[row].any() for row in range(8) if row not in refused)
