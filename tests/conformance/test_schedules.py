"""Every schedule of every method changes exactly the residuals that it says, in every way of running a batch.

The reference is plain numpy: at each changed block and in each forward pass, what goes into the next block must be what
came out of this one plus the vector of the position, in float32 and to the last bit.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from tests.guarded_models import (
    FAMILIES,
    SCHEDULES,
    answers,
    blocks_of,
    fresh_model,
    guarded,
    policy,
    prompts,
    registry_for,
    run,
    same_rows,
    shared_model,
    splitting_threshold,
    tokenizer,
)
from tests.positions_by_hand import watched

from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import GuidanceDidNotFireError, UnsupportedPlanError
from steerguard.guidance.vector_schedules import VECTORS_FILE
from steerguard.testing import tiny_registry

STRENGTH, COEFFICIENT, STEPS = 0.75, 3.0, 3
STEERED = (1, 2)
PREFILLS = ("Sure, here is", None, "No", "x" * 40, None, "I", "Yes", None)
"""Some longer than the steps of `by_step`, some shorter."""
SETTINGS = f"coefficient: {COEFFICIENT}"
CONSTANT_ONLY = {"refusal_direction"}
"""Methods whose artifacts have no schedule of their own."""
CASES = [
    (method, schedule)
    for method in FAMILIES
    for schedule in SCHEDULES
    if schedule == "constant" or method not in CONSTANT_ONLY
]


def _registry(schedule, model=None):
    return registry_for(model or shared_model(), schedule=schedule, steps=STEPS, strength=str(STRENGTH))


def _vectors(method, schedule):
    registry = _registry(schedule)
    (pin,) = registry.pinned(FAMILIES[method])
    tensors = verify_artifact(registry.read(pin), pin.digest).tensors[VECTORS_FILE]
    scale = np.float32(STRENGTH * COEFFICIENT)
    return {name: tensor.numpy() * scale for name, tensor in tensors.items() if name.startswith("theta")}


def _part(vectors, schedule, block, attention, end, column):
    """The vector of one position, or None, from the words of the schedule."""
    width = len(attention)
    if column < width and not attention[column]:
        return None
    if schedule == "constant":
        return vectors["theta"][block]
    if column <= end:
        return vectors["theta_last" if column == end else "theta_prompt"][block]
    if schedule == "by_phase":
        return vectors["theta_decode"][block]
    step = sum(attention[end + 1 : column]) + max(column - width, 0)
    return vectors["theta_steps"][step][block] if step < STEPS else None


def _ends(batch):
    """Column of the end of the generation prompt, from the length of the same prompt without a prefill."""
    plain = prompts(len(batch["input_ids"]))["attention_mask"].sum(1).tolist()
    ends = []
    for row, attention in enumerate(batch["attention_mask"].tolist()):
        ends.append([column for column, counts in enumerate(attention) if counts][plain[row] - 1])
    return ends


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("prefills", [None, PREFILLS], ids=["plain", "prefilled"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("method", "schedule"), CASES)
def test_hidden_states_equal_numpy_at_every_position_of_every_pass(method, schedule, side, prefills, use_cache):
    model, batch = shared_model(), prompts(8, side, prefills and list(prefills))
    vectors, ends = _vectors(method, schedule), _ends(batch)
    attention = batch["attention_mask"].tolist()
    width = len(attention[0])
    document = policy(splitting_threshold(), method=method, settings=SETTINGS)
    with (
        guarded(model, document, registry=_registry(schedule)) as wrapped,
        wrapped.guard.collect() as reports,
        watched(model, STEERED) as seen,
    ):
        tokens, _ = run(wrapped, batch, use_cache=use_cache, min_new_tokens=8)
    opened = [report.intended == "guide" for report in reports]
    assert 0 < sum(opened) < 8
    changed = [0] * 8
    for block, (before, after) in seen.items():
        assert len(before) == len(after) == tokens.shape[1] - width
        for index, (plain, steered) in enumerate(zip(before, after, strict=True)):
            first = width + index - 1 if use_cache and index else 0
            wanted = plain.copy()
            for row in range(8):
                for column in range(plain.shape[1]):
                    part = _part(vectors, schedule, block, attention[row], ends[row], first + column)
                    if opened[row] and part is not None:
                        wanted[row, column] += part
                        changed[row] += use_cache or index == len(before) - 1
            np.testing.assert_array_equal(wanted, steered)
            assert np.array_equal(wanted[~np.array(opened)].view(np.int32), steered[~np.array(opened)].view(np.int32))
    for row, report in enumerate(reports):
        assert sum(dose.positions for dose in report.doses) == changed[row]
        assert [dose.positions for dose in report.doses] == [dose.expected_positions for dose in report.doses]


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize(("method", "schedule"), CASES)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma", "mixtral"])
def test_closed_rows_equal_the_unguided_run_bit_by_bit(architecture, method, schedule, use_cache):
    model, batch = shared_model(architecture), prompts(8, prefills=list(PREFILLS))
    plain = run(model, batch, use_cache=use_cache)
    document = policy(splitting_threshold(architecture), method=method, settings="coefficient: 8.0")
    registry = _registry(schedule, model)
    with guarded(model, document, registry=registry) as wrapped, wrapped.guard.collect() as reports:
        steered = run(wrapped, batch, use_cache=use_cache)
    closed = [report.row for report in reports if report.intended == "allow"]
    assert 0 < len(closed) < 8
    assert same_rows(closed, plain, steered, batch["input_ids"].shape[1])
    assert all(not torch.equal(plain[1][0][row], steered[1][0][row]) for row in range(8) if row not in closed)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_with_and_without_a_cache_tokens_and_doses_agree(schedule):
    model, batch = shared_model(), prompts(8, prefills=list(PREFILLS))
    found = []
    with guarded(model, policy(splitting_threshold(), settings=SETTINGS), registry=_registry(schedule)) as wrapped:
        for use_cache in (True, False):
            with wrapped.guard.collect() as reports:
                tokens, logits = run(wrapped, batch, use_cache=use_cache)
            found.append((tokens, logits, [report.doses for report in reports]))
    assert found[0][2] == found[1][2]
    assert torch.equal(found[0][0], found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(one, other, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_row_alone_gets_what_it_gets_in_a_batch(schedule):
    model, batch = shared_model(), prompts(8, prefills=list(PREFILLS))
    with guarded(model, policy(-1e6, settings=SETTINGS), registry=_registry(schedule)) as wrapped:
        together, logits = run(wrapped, batch, eos_token_id=None)
        for row in (0, 1, 3):
            keep = batch["attention_mask"][row].bool()
            alone = {key: tensor[row : row + 1, keep] for key, tensor in batch.items()}
            tokens, found = run(wrapped, alone, eos_token_id=None)
            assert torch.equal(tokens[0, keep.sum() :], together[row, len(keep) :])
            for one, other in zip(found, logits, strict=True):
                assert torch.allclose(one[0], other[row], atol=2e-3, rtol=1e-4)


def _hooked(schedule, prefills=None):
    seen = []
    with guarded(shared_model(), policy(-1e6, settings=SETTINGS), registry=_registry(schedule)) as wrapped:
        batch = prompts(3, prefills=prefills)
        run(wrapped, batch, act=lambda _step: seen.append(wrapped.guard.hooked_blocks), min_new_tokens=8)
        assert wrapped.guard.hooked_blocks == ()
    return seen


def test_hooks_of_steps_are_gone_after_the_last_step():
    assert _hooked("by_step")[:6] == [STEERED] * STEPS + [()] * (6 - STEPS)
    assert set(_hooked("by_phase")) == {STEERED}


def test_a_prefilled_answer_uses_up_steps_row_by_row():
    tokens = [len(tokenizer()(text, add_special_tokens=False)["input_ids"]) for text in ("a", "ab")]
    assert tokens == [1, 2]
    assert _hooked("by_step", ["a", "ab", "ab"])[:4] == [STEERED] * (STEPS - 1) + [()] * (4 - STEPS + 1)
    assert set(_hooked("by_step", ["x" * 40] * 3)) == {()}


@pytest.mark.parametrize("limit", [1, 2, 3, 6])
def test_no_more_steps_are_laid_out_than_the_answer_may_have_tokens(limit):
    model, batch, held = shared_model(), prompts(3), []
    width = batch["input_ids"].shape[1]
    # Who once asked for hidden states has left hooks of the library's own there.
    others = {hook for block in STEERED for hook in blocks_of(model)[block]._forward_hooks.values()}
    with guarded(model, policy(-1e6, settings=SETTINGS), registry=_registry("by_step")) as wrapped:
        free, _ = run(wrapped, batch, eos_token_id=None)

        def act(step):
            if step == 0:
                hooks = [hook for block in STEERED for hook in blocks_of(model)[block]._forward_hooks.values()]
                hooks = [hook for hook in hooks if hook not in others]
                held.extend(inspect.getclosurevars(hook).nonlocals["ending"] for hook in hooks)

        with wrapped.guard.collect() as reports:
            tokens, _ = run(wrapped, batch, act=act, eos_token_id=None, max_new_tokens=limit)
    assert held == [min(limit - 1, STEPS)] * (2 if limit > 1 else 0)
    assert torch.equal(tokens, free[:, : width + limit])
    for row, report in enumerate(reports):
        length = int(batch["attention_mask"][row].sum())
        assert [dose.positions for dose in report.doses] == [2 * (length + min(limit - 1, STEPS))]


def test_when_every_row_is_closed_no_step_leaves_a_hook():
    seen = []
    with guarded(shared_model(), policy(1e6, settings=SETTINGS), registry=_registry("by_step")) as wrapped:
        run(wrapped, prompts(3), act=lambda _step: seen.append(wrapped.guard.hooked_blocks))
    assert set(seen) == {()}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rows_that_end_early_do_not_disturb_the_count(schedule):
    model, batch = fresh_model(), prompts(4)
    registry = registry_for(shared_model(), schedule=schedule, steps=8)
    with guarded(model, policy(-1e6, settings=SETTINGS), registry=registry) as wrapped:
        free, _ = run(wrapped, batch, eos_token_id=None)
        width = batch["input_ids"].shape[1]
        ending = free[0, width + 1].item()
        with wrapped.guard.collect() as reports:
            tokens, _ = run(wrapped, batch, eos_token_id=ending)
    assert answers(tokens, width)[0] == free[0, width : width + 2].tolist()
    assert all(dose.positions == dose.expected_positions for report in reports for dose in report.doses)


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("schedule", ["by_phase", "by_step"])
@pytest.mark.parametrize("step", [0, 1])
def test_hooks_that_are_removed_before_the_last_step_raise(schedule, step, use_cache):
    with guarded(shared_model(), policy(-1e6, settings=SETTINGS), registry=_registry(schedule)) as wrapped:

        def act(now):
            if now == step:
                for block in blocks_of(wrapped):
                    block._forward_hooks.clear()

        with wrapped.guard.collect() as reports, pytest.raises(GuidanceDidNotFireError, match="number of positions"):
            run(wrapped, prompts(3), act=act, use_cache=use_cache, min_new_tokens=6)
        assert reports == []


@pytest.mark.parametrize("tokens", [1, 2], ids=["one position", "two positions"])
def test_a_pass_too_many_that_uses_up_a_step_raises(tokens):
    model, passes = shared_model(), []

    def pass_again(*_arguments):
        passes.append(1)
        if len(passes) == 2:
            # The fence refuses a real one.
            for hook in [hook for block in blocks_of(model) for hook in block._forward_hooks.values()]:
                hook(None, (), torch.zeros(3, tokens, 32))

    with guarded(model, policy(-1e6, settings=SETTINGS), registry=_registry("by_step")) as wrapped:
        handle = model.lm_head.register_forward_hook(pass_again)
        try:
            with pytest.raises(GuidanceDidNotFireError, match="number of positions"):
                run(wrapped, prompts(3), min_new_tokens=8)
        finally:
            handle.remove()


def test_a_constant_step_and_a_stepped_one_on_the_same_blocks_add_up(tmp_path):
    model = shared_model()
    tiny_registry(tmp_path / "stepped", model, tokenizer(), schedule="by_step", steps=STEPS)
    stepped = f'"file://{tmp_path}/stepped#refusal-vectors@^1"'
    rules = f"""
  - {{id: steps, method: fitted_refusal, artifact: {stepped}, coefficient: 2.0}}
rules:
  - {{id: r, when: {{always: true}}, then: {{action: guide, use: [steer, steps]}}}}
default: {{action: allow}}"""
    document = policy(rules=rules, settings=SETTINGS, detector=False)
    seen = []
    with guarded(model, document) as wrapped, wrapped.guard.collect() as reports:
        batch = prompts(3)
        tokens, _ = run(wrapped, batch, act=lambda _: seen.append(wrapped.guard.hooked_blocks), min_new_tokens=8)
    fed_back = tokens.shape[1] - batch["input_ids"].shape[1] - 1
    lengths = batch["attention_mask"].sum(1).tolist()
    assert set(seen) == {STEERED}
    for length, report in zip(lengths, reports, strict=True):
        assert [dose.positions for dose in report.doses] == [2 * (length + fed_back), 2 * (length + STEPS)]


@pytest.mark.parametrize("method", sorted(set(FAMILIES) - CONSTANT_ONLY))
@pytest.mark.parametrize("schedule", ["by_phase", "by_step"])
def test_positions_beside_a_schedule_are_a_plan_error(method, schedule):
    document = policy(-1e6, method=method, settings="coefficient: 1.0, positions: all")
    with (
        pytest.raises(UnsupportedPlanError, match=schedule),
        guarded(shared_model(), document, registry=_registry(schedule)),
    ):
        pass
