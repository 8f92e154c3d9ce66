"""The first generated tokens alone: exactly they are changed, then the hooks leave, and enough of them is `decode`."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import (
    FAMILIES,
    blocks_of,
    guarded,
    policy,
    prompts,
    run,
    shared_model,
    splitting_threshold,
    tokenizer,
)
from tests.positions_by_hand import STEERED, assert_equals_numpy, registry, settings_with, vectors_of, watched

from steerguard.errors import GuidanceDidNotFireError, LooserPolicyError, PolicyValidationError, UnsupportedPlanError

PREFILLS = ("Sure, here is", None, "No", "x" * 40, None, "I", "Yes", None)


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("method", FAMILIES)
def test_the_first_steps_and_no_other_position_equal_numpy(method, steps, side, use_cache):
    model, batch, store = shared_model(), prompts(8, side, list(PREFILLS)), registry()
    theta, width = vectors_of(method, store)["theta"], batch["input_ids"].shape[1]
    document = policy(
        splitting_threshold(), method=method, settings=settings_with(f"positions: {{first_steps: {steps}}}")
    )
    with (
        guarded(model, document, registry=store) as wrapped,
        wrapped.guard.collect() as reports,
        watched(model) as seen,
    ):
        run(wrapped, batch, use_cache=use_cache, min_new_tokens=8)
    opened = [report.intended == "guide" for report in reports]
    assert 0 < sum(opened) < 8

    def part(block, _row, column):
        return theta[block] if width <= column < width + steps else None

    changed = assert_equals_numpy(seen, part, opened, lambda index: width + index - 1 if use_cache and index else 0)
    assert changed == [2 * steps * is_open for is_open in opened]
    for row, report in enumerate(reports):
        doses = [(dose.positions, dose.expected_positions) for dose in report.doses]
        assert doses == [(changed[row], changed[row])] * opened[row]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_cache": False},
        {"num_beams": 3},
        {"num_beams": 2, "num_return_sequences": 2, "do_sample": True},
        {"num_return_sequences": 2, "do_sample": True},
        {"prefill_chunk_size": 3},
    ],
    ids=["greedy", "uncached", "beams", "sampled beams", "samples", "chunks"],
)
@pytest.mark.parametrize(
    ("method", "architecture"), [*((name, "llama") for name in FAMILIES), ("inferaligner", "gpt2")]
)
def test_as_many_first_steps_as_the_answer_has_are_the_rule_decode_bit_by_bit(architecture, method, settings):
    model, batch = shared_model(architecture), prompts(6, prefills=list(PREFILLS[:6]))
    found = []
    for rule in ("decode", "{first_steps: 7}", "{first_steps: 1024}"):
        document = policy(
            splitting_threshold(architecture, rows=6), method=method, settings=settings_with(f"positions: {rule}")
        )
        with guarded(model, document) as wrapped, wrapped.guard.collect() as reports:
            tokens, logits = run(wrapped, batch, max_new_tokens=8, **settings)
        found.append((tokens, logits, [(report.intended, report.doses, report.usage) for report in reports]))
    for tokens, logits, told in found[1:]:
        assert torch.equal(tokens, found[0][0])
        assert told == found[0][2]
        assert all(
            torch.equal(one.view(torch.int32), other.view(torch.int32))
            for one, other in zip(logits, found[0][1], strict=True)
        )
    assert {intended for intended, _, _ in found[0][2]} == {"guide", "allow"}


def _hooked(document, batch, **settings):
    seen = []
    with guarded(shared_model(), document) as wrapped, wrapped.guard.collect() as reports:
        run(wrapped, batch, act=lambda _: seen.append(wrapped.guard.hooked_blocks), min_new_tokens=8, **settings)
        assert wrapped.guard.hooked_blocks == ()
    return seen, reports


@pytest.mark.parametrize("beams", [1, 3])
def test_hooks_leave_after_the_last_of_the_first_steps(beams):
    document = policy(-1e6, settings=settings_with("positions: {first_steps: 3}"))
    seen, _ = _hooked(document, prompts(3), num_beams=beams)
    assert seen[:6] == [STEERED] * 3 + [()] * 3


def test_what_ends_early_leaves_what_stays_on_the_same_blocks():
    rules = """
  - {id: brief, method: fitted_refusal, artifact: refusal-vectors@^1, positions: {first_steps: 2}}
rules:
  - {id: r, when: {always: true}, then: {action: guide, use: [steer, brief]}}
default: {action: allow}"""
    batch = prompts(3)
    document = policy(rules=rules, settings=settings_with("positions: decode"), detector=False)
    seen, reports = _hooked(document, batch, max_new_tokens=8)
    assert set(seen) == {STEERED}
    assert [[dose.positions for dose in report.doses] for report in reports] == [[2 * 7, 2 * 2]] * 3


@pytest.mark.parametrize("step", [0, 1])
def test_hooks_that_are_removed_before_the_last_of_the_first_steps_raise(step):
    document = policy(-1e6, settings=settings_with("positions: {first_steps: 3}"))
    with guarded(shared_model(), document) as wrapped:

        def act(now):
            if now == step:
                for block in blocks_of(wrapped):
                    block._forward_hooks.clear()

        with wrapped.guard.collect() as reports, pytest.raises(GuidanceDidNotFireError, match="number of positions"):
            run(wrapped, prompts(3), act=act, min_new_tokens=6)
        assert reports == []


@pytest.mark.parametrize("steps", [2, 100])
def test_scored_answers_get_what_generated_ones_get(steps):
    batch, answered = prompts(8), 6
    width, control = batch["input_ids"].shape[1], [tokenizer().bos_token_id, tokenizer().eos_token_id]
    document = policy(splitting_threshold(), settings=f"coefficient: 8.0, positions: {{first_steps: {steps}}}")
    with guarded(shared_model(), document) as wrapped:
        with wrapped.guard.collect() as reports:
            tokens, logits = run(wrapped, batch, max_new_tokens=answered, min_new_tokens=6, suppress_tokens=control)
        answers = tokens[:, width:]
        ids, mask = (
            torch.cat([batch["input_ids"], answers], 1),
            torch.cat([batch["attention_mask"], answers * 0 + 1], 1),
        )
        with wrapped.guard.forward() as scoring:
            scored = wrapped(input_ids=ids, attention_mask=mask).logits
    wanted = torch.stack(logits, dim=1)
    kept = torch.isin(torch.arange(wanted.shape[2]), torch.tensor(control), invert=True)
    torch.testing.assert_close(scored[:, width - 1 : -1][:, :, kept], wanted[:, :, kept], rtol=1e-3, atol=2e-4)
    # The last token of an answer is scored, and never fed back while it is generated.
    given, fed_back = min(steps, answered), min(steps, answered - 1)
    for one, other in zip(reports, scoring.decisions[-1], strict=True):
        assert [dose.positions for dose in one.doses] == [2 * fed_back] * (one.intended == "guide")
        assert [dose.positions for dose in other.doses] == [2 * given] * (one.intended == "guide")


def test_what_ends_early_cannot_be_opened_in_the_middle_of_an_answer():
    rules = """
  - {id: watch, method: rolling_guard, artifact: harmful-intent@^1, threshold: {value: 0.0}, then: open, opens: [steer]}
rules:
  - {id: r, when: {always: true}, then: {action: guide, use: [watch]}}
default: {action: allow}"""
    document = policy(rules=rules, settings=settings_with("positions: {first_steps: 2}"), detector=False)
    with pytest.raises(UnsupportedPlanError, match="cannot be opened"), guarded(shared_model(), document):
        pass


@pytest.mark.parametrize(
    "bad", ["{first_steps: 0}", "{first_steps: 1025}", "{first_steps: 2.0}", "{steps: 2}", "first_steps"]
)
def test_first_steps_that_say_nothing_are_refused_with_their_place(bad):
    with pytest.raises(PolicyValidationError, match=r"guidance\.0\.positions"):
        policy(settings=settings_with(f"positions: {bad}"))


def test_a_component_is_not_removed_for_a_few_steps():
    with pytest.raises(PolicyValidationError, match="mode: ablate"):
        policy(method="refusal_direction", settings="mode: ablate, positions: {first_steps: 2}")


@pytest.mark.parametrize("method", sorted(set(FAMILIES) - {"refusal_direction"}))
def test_first_steps_beside_a_schedule_are_a_plan_error(method):
    document = policy(-1e6, method=method, settings="positions: {first_steps: 2}")
    refused = pytest.raises(UnsupportedPlanError, match="first_steps: 2")
    with refused, guarded(shared_model(), document, registry=registry("by_step")):
        pass


@pytest.mark.parametrize(
    ("in_force", "wanted"),
    [
        ("positions: decode", "positions: {first_steps: 1024}"),
        ("positions: {first_steps: 4}", "positions: {first_steps: 8}"),
        ("positions: {first_steps: 8}", "positions: {first_steps: 4}"),
        ("modality_tokens: include", "modality_tokens: exclude"),
        ("modality_tokens: exclude", "modality_tokens: include"),
    ],
)
def test_other_positions_are_not_a_tightening(in_force, wanted):
    with guarded(shared_model(), policy(-1e6, settings=in_force)) as wrapped:
        run(wrapped, prompts(1), policy=policy(-1e6, settings=in_force), max_new_tokens=1)
        with pytest.raises(LooserPolicyError, match="steer"):
            run(wrapped, prompts(1), policy=policy(-1e6, settings=wanted), max_new_tokens=1)
