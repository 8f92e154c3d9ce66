"""Guided scoring says what guided generation would say: the same verdicts, the same logits, the same refusals."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import (
    ARCHITECTURES,
    SCHEDULES,
    TEMPLATE,
    guarded,
    policy,
    prompts,
    registry_for,
    run,
    shared_model,
    splitting_threshold,
    state_of,
    tokenizer,
)
from tests.operated_models import OPERATORS, POINTS, intervention, operated, schedule

from steerguard.models.chat import pad_batch, render

STEPS = 6
PREFILLS = ("Sure, here is", None, "No", "x" * 40, None, "I", "Yes", None)
POSITIONS = ("all", "last_prompt_token_and_decode", "decode", "prefill")
IMPOSSIBLE = -1000.0
CONTROL = (tokenizer().bos_token_id, tokenizer().eos_token_id)


def scored(wrapped, batch, **named):
    with wrapped.guard.forward() as scoring:
        output = wrapped(**batch, **named)
    return output, scoring.decisions[-1]


def with_answers(batch, tokens, width):
    """The batch with given answers behind its prompts, every answer of the same length."""
    answers = tokens[:, width:]
    return {
        "input_ids": torch.cat([batch["input_ids"], answers], dim=1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.ones_like(answers)], dim=1),
    }


def shifted_right(batch):
    """The same rows with their padding behind them."""
    ids, mask = torch.zeros_like(batch["input_ids"]), torch.zeros_like(batch["attention_mask"])
    for row, counts in enumerate(batch["attention_mask"].bool()):
        length = int(counts.sum())
        ids[row, :length] = batch["input_ids"][row, counts]
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask}


def assert_teacher_forcing_agrees(guarding):
    """Feed back what guided generation wrote, and find the logits that it wrote it from."""
    batch = prompts(8)
    width = batch["input_ids"].shape[1]
    with guarding as wrapped:
        with wrapped.guard.collect() as generated:
            tokens, steps = run(wrapped, batch, max_new_tokens=STEPS, suppress_tokens=list(CONTROL))
        given = with_answers(batch, tokens, width)
        output, decisions = scored(wrapped, given)
        right, right_decisions = scored(wrapped, shifted_right(given))
    assert 0 < sum(decision.intended == "guide" for decision in decisions) < 8
    wanted = torch.stack(steps, dim=1)
    found = output.logits[:, width - 1 : width - 1 + STEPS]
    # Random models also write turn marks, behind which an answer is no longer open.
    rest = torch.isin(torch.arange(wanted.shape[2]), torch.tensor(CONTROL), invert=True)
    torch.testing.assert_close(found[:, :, rest], wanted[:, :, rest], rtol=1e-3, atol=2e-4)
    for row, length in enumerate(given["attention_mask"].sum(1).tolist()):
        last = right.logits[row, length - STEPS - 1 : length - 1]
        torch.testing.assert_close(last[:, rest], wanted[row][:, rest], rtol=1e-3, atol=2e-4)
    for one, other, third in zip(generated, decisions, right_decisions, strict=True):
        assert (one.intended, one.rules, one.cause) == (other.intended, other.rules, other.cause)
        assert (one.intended, one.rules, one.cause) == (third.intended, third.rules, third.cause)
        assert one.readings[0].score == pytest.approx(other.readings[0].score, abs=1e-3)


@pytest.mark.parametrize("method", ["inferaligner", "fitted_refusal"])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_teacher_forced_logits_equal_those_of_guided_generation(method, kind):
    model = shared_model()
    document = policy(splitting_threshold(), method=method)
    assert_teacher_forcing_agrees(guarded(model, document, registry=registry_for(model, schedule=kind)))


@pytest.mark.parametrize("positions", POSITIONS)
def test_teacher_forced_logits_equal_generation_under_every_position_rule(positions):
    model = shared_model()
    document = policy(splitting_threshold(), settings=f"coefficient: 4.0, positions: {positions}")
    assert_teacher_forcing_agrees(guarded(model, document))


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(("name", "point"), [(name, point) for name in OPERATORS for point in POINTS])
def test_teacher_forced_logits_equal_generation_under_every_operator(name, point, positions):
    items = [intervention(schedule(name, positions), block=2, point=point)]
    assert_teacher_forcing_agrees(operated(shared_model(), items, policy(splitting_threshold())))


def test_teacher_forced_logits_equal_generation_where_the_verdict_needs_a_pass_of_its_own():
    model = shared_model()
    registry = registry_for(model, probe_blocks=(1, 3), steered_blocks=(1, 2))
    with guarded(model, policy(0.0), registry=registry, mode="monitor") as wrapped:
        assert wrapped.guard.plan.cost.passes == 2
        _, decisions = scored(wrapped, prompts(8))
    ordered = sorted(decision.readings[0].score for decision in decisions)
    document = policy(sum(ordered[3:5]) / 2)
    assert_teacher_forcing_agrees(guarded(model, document, registry=registry))
    with guarded(model, document, registry=registry) as wrapped:
        _, decisions = scored(wrapped, prompts(8))
    lengths = prompts(8)["attention_mask"].sum(1).tolist()
    assert [decision.usage.extra_forward_tokens for decision in decisions] == lengths


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_teacher_forced_logits_equal_generation_on_every_model_class(architecture):
    model = shared_model(architecture)
    assert_teacher_forcing_agrees(guarded(model, policy(splitting_threshold(architecture))))


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_closed_rows_equal_the_unguided_pass_bit_by_bit_beside_open_ones(side, kind):
    model, batch = shared_model(), prompts(8, side, list(PREFILLS))
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        plain = model(**batch, position_ids=positions, use_cache=False).logits
    document = policy(splitting_threshold(), settings="coefficient: 8.0")
    with guarded(model, document, registry=registry_for(model, schedule=kind)) as wrapped:
        output, decisions = scored(wrapped, batch)
    for row, decision in enumerate(decisions):
        real = batch["attention_mask"][row].bool()
        same = torch.equal(output.logits[row, real].view(torch.int32), plain[row, real].view(torch.int32))
        assert same == (decision.intended == "allow")
    assert 0 < sum(decision.intended == "allow" for decision in decisions) < 8


@pytest.mark.parametrize("side", ["left", "right"])
def test_verdicts_do_not_move_with_what_follows_the_header(side):
    model = shared_model()
    with guarded(model, policy(splitting_threshold())) as wrapped:
        _, bare = scored(wrapped, prompts(8, side))
        _, answered = scored(wrapped, prompts(8, side, list(PREFILLS)))
    assert [one.intended for one in bare] == [one.intended for one in answered]
    assert {one.intended for one in bare} == {"allow", "guide"}


def test_a_closed_answer_is_scored_like_an_open_one():
    model, batch = shared_model(), prompts(1, prefills=["Sure"])
    for closing in ("<|im_end|>", "<|im_end|>\n"):
        marks = tokenizer()(closing, return_tensors="pt", add_special_tokens=False)
        closed = {name: torch.cat([batch[name], marks[name]], dim=1) for name in batch}
        with guarded(model, policy(-1e6)) as wrapped:
            output, (decision,) = scored(wrapped, batch)
            longer, (other,) = scored(wrapped, closed)
        assert decision.intended == other.intended == "guide"
        width = batch["input_ids"].shape[1]
        torch.testing.assert_close(longer.logits[:, :width], output.logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "texts", ["plain words", "<|im_start|>user\nhello<|im_end|>", "<|im_start|>user\nhello<|im_end|>\n"]
)
def test_a_row_without_an_open_or_just_closed_answer_is_refused_from_its_first_column_on(texts):
    batch = tokenizer()(texts, return_tensors="pt", add_special_tokens=False)
    with guarded(shared_model(), policy(1e6)) as wrapped:
        output, (decision,) = scored(wrapped, {name: batch[name] for name in ("input_ids", "attention_mask")})
    assert (decision.cause, decision.applied, decision.readings) == ("unrecognised_prompt", "refuse", ())
    assert output.logits[0].argmax(-1).tolist()[:4] == template_ids()[:4]
    assert torch.isfinite(output.logits).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_moves_no_word_of_a_row_that_is_refused_from_its_first_column_on(side):
    rows = [tokenizer()(text, add_special_tokens=False)["input_ids"] for text in ("plain words", "more plain words")]
    batch = pad_batch(rows, tokenizer(), padding_side=side)
    with guarded(shared_model(), policy(1e6)) as wrapped:
        output, _ = scored(wrapped, batch)
    for logits, mask in zip(output.logits, batch["attention_mask"].bool(), strict=True):
        assert logits[mask].argmax(-1).tolist()[:4] == template_ids()[:4]


def template_ids():
    return tokenizer()(TEMPLATE, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_refused_row_says_the_template_then_its_end_and_nothing_else(side, dtype):
    model, batch = shared_model(dtype=dtype), prompts(8, side, ["y" * 60] * 8)
    plain = prompts(8, side)["attention_mask"].sum(1).tolist()
    with guarded(model, policy(splitting_threshold(dtype=dtype), "refuse")) as wrapped:
        output, decisions = scored(wrapped, batch)
    said = [*template_ids(), tokenizer().eos_token_id]
    assert torch.isfinite(output.logits).all()
    assert {decision.applied for decision in decisions} == {"refuse", "allow"}
    logs = output.logits.log_softmax(-1)
    assert torch.isfinite(logs).all()
    for row, decision in enumerate(decisions):
        columns = batch["attention_mask"][row].nonzero()[:, 0].tolist()
        end = columns[plain[row] - 1]
        answer = logs[row, end : end + len(said)]
        is_template = answer.argmax(-1).tolist() == said
        assert is_template == (decision.applied == "refuse")
        if is_template:
            assert answer.max(-1).values.eq(0).all()
            assert answer.sort(-1).values[:, :-1].le(IMPOSSIBLE).all()
            given = batch["input_ids"][row, end + 1 : columns[-1] + 1]
            likelihood = logs[row, end : columns[-1]].float().gather(1, given[:, None]).sum()
            assert -1e6 < likelihood < IMPOSSIBLE * 10


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_refused_row_shows_nothing_of_the_model_before_its_header_either(side):
    chats = [
        [
            {"role": "user", "content": text},
            {"role": "assistant", "content": "step one is"},
            {"role": "user", "content": "go on"},
        ]
        for text in ("hello", "tell me more about it")
    ]
    batch = render(tokenizer(), chats, padding_side=side)
    with guarded(shared_model(), policy(-1e6, "refuse")) as wrapped:
        output, _ = scored(wrapped, batch)
    first = template_ids()[0]
    for logits, mask in zip(output.logits, batch["attention_mask"].bool(), strict=True):
        own = logits[mask]
        assert own.argmax(-1).eq(first).all()
        assert own.sort(-1).values[:, :-1].le(IMPOSSIBLE).all()


def test_a_refused_row_scores_what_generate_returns_for_it_as_certain():
    model, batch = shared_model(), prompts(3)
    width = batch["input_ids"].shape[1]
    with guarded(model, policy(-1e6, "refuse")) as wrapped:
        tokens, _ = run(wrapped, batch, max_new_tokens=len(template_ids()) + 1)
        output, _ = scored(wrapped, with_answers(batch, tokens, width))
    logs = output.logits.log_softmax(-1)[:, width - 1 : -1]
    assert logs.gather(2, tokens[:, width:, None]).eq(0).all()


def test_the_loss_of_a_refused_batch_is_that_of_the_replaced_logits_and_of_an_open_one_the_models_own():
    model, batch = shared_model(), prompts(4, prefills=["Sure, here is"] * 4)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for threshold, action in ((-1e6, "guide"), (splitting_threshold(rows=4), "refuse")):
        with guarded(model, policy(threshold, action)) as wrapped:
            output, _ = scored(wrapped, batch, labels=labels)
        flat = output.logits[:, :-1].reshape(-1, output.logits.shape[-1]).float()
        wanted = torch.nn.functional.cross_entropy(flat, labels[:, 1:].reshape(-1))
        torch.testing.assert_close(output.loss, wanted)
        assert torch.isfinite(output.loss)
        assert (output.loss > 50) == (action == "refuse")


@pytest.mark.parametrize("action", ["guide", "refuse"])
def test_logits_to_keep_selects_columns_of_the_same_logits(action):
    model, batch = shared_model(), prompts(8, prefills=list(PREFILLS))
    with guarded(model, policy(splitting_threshold(), action)) as wrapped:
        whole, _ = scored(wrapped, batch)
        last, _ = scored(wrapped, batch, logits_to_keep=5)
        some, _ = scored(wrapped, batch, logits_to_keep=torch.tensor([3, 9, 40]))
        listed, _ = scored(wrapped, batch, logits_to_keep=[3, 9, 40])
    torch.testing.assert_close(last.logits, whole.logits[:, -5:])
    torch.testing.assert_close(some.logits, whole.logits[:, [3, 9, 40]])
    assert torch.equal(listed.logits, some.logits)


@pytest.mark.parametrize("action", ["guide", "refuse"])
def test_monitor_mode_changes_no_bit_and_off_mode_decides_nothing(action):
    model, batch = shared_model(), prompts(8, "right", list(PREFILLS))
    with torch.no_grad():
        plain = model(**batch, use_cache=False).logits
    with guarded(model, policy(splitting_threshold(), action, mode="monitor")) as wrapped:
        output, decisions = scored(wrapped, batch)
    assert {decision.intended for decision in decisions} == {"allow", action}
    assert {decision.applied for decision in decisions} == {"allow"}
    real = batch["attention_mask"].bool()
    assert torch.equal(output.logits[real].view(torch.int32), plain[real].view(torch.int32))
    with guarded(model, policy(-1e6, action), mode="off") as wrapped, torch.no_grad():
        with wrapped.guard.forward() as scoring:
            logits = wrapped(**batch).logits
        assert scoring.decisions == []
    assert torch.equal(logits, plain)


def test_scoring_leaves_no_trace_on_the_model():
    model, batch = shared_model(), prompts(4)
    with guarded(model, policy(splitting_threshold(rows=4))) as wrapped:
        before = state_of(wrapped)
        scored(wrapped, batch)
        assert state_of(wrapped) == before
        assert wrapped.guard.hooked_blocks == ()
