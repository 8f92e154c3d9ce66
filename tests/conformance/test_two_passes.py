"""Plans whose detectors read behind the first steered place: a pass that only reads, then the prefill."""

from __future__ import annotations

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
    registry_for,
    run,
    same_rows,
    shared_model,
    splitting_threshold,
    state_of,
)
from tests.multimodal_prompts import modality_prompts
from tests.operated_models import intervention, operated, schedule

from steerguard.errors import BudgetInfeasibleError

MODALITIES = "text, image, video"
EARLY = "coefficient: 4.0, blocks: [0, 2]"
LATE = "coefficient: 4.0, blocks: [2]"
"""The detector reads blocks 0 and 1: one pass is enough for the second, not for the first."""


def _generate(model, document, batch, **settings):
    with guarded(model, document) as wrapped, wrapped.guard.collect() as reports:
        found = run(wrapped, batch, **settings)
    return found, reports


class Counted:
    """Counts the tokens, padding left out, that pass the first block of a model."""

    def __init__(self, model, batch):
        self.tokens = self.passes = 0
        self._mask = batch["attention_mask"].bool()
        self._handle = blocks_of(model)[0].register_forward_hook(self._count)

    def _count(self, _module, _args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        rows, columns = hidden.shape[:2]
        self.passes += 1
        self.tokens += int(self._mask.sum()) if columns == self._mask.shape[1] else rows * columns

    def stop(self):
        self._handle.remove()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_pass_and_two_read_the_same_scores_and_decide_alike(architecture):
    model, batch, threshold = shared_model(architecture), prompts(8), splitting_threshold(architecture)
    _, late = _generate(model, policy(threshold, settings=LATE), batch, max_new_tokens=2)
    _, early = _generate(model, policy(threshold, settings=EARLY), batch, max_new_tokens=2)
    assert [report.readings for report in early] == [report.readings for report in late]
    assert [(report.intended, report.rules) for report in early] == [(one.intended, one.rules) for one in late]
    assert {bool(report.doses) for report in early} == {True, False}


@pytest.mark.parametrize("settings", [EARLY, EARLY + ", gate: per_block", EARLY + ", positions: decode"])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "falcon_mamba"])
def test_closed_rows_equal_the_unguided_run_bit_by_bit(architecture, settings):
    model, batch = shared_model(architecture), prompts(8)
    plain = run(model, batch, max_new_tokens=6)
    before = state_of(model)
    document = policy(splitting_threshold(architecture), settings=settings)
    steered, reports = _generate(model, document, batch, max_new_tokens=6)
    assert state_of(model) == before
    closed = [report.row for report in reports if not report.doses]
    assert 0 < len(closed) < 8
    assert same_rows(closed, plain, steered, batch["input_ids"].shape[1])
    steps = range(len(steered[1]))
    opened = [row for row in range(8) if row not in closed]
    assert all(any(not torch.equal(plain[1][step][row], steered[1][step][row]) for step in steps) for row in opened)


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_doses_agree_with_and_without_a_cache_and_on_either_side(side, use_cache):
    batch = prompts(8, side, prefills=["Sure", None] * 4)
    document = policy(splitting_threshold(), settings=EARLY)
    found, reports = _generate(shared_model(), document, batch, use_cache=use_cache, min_new_tokens=4, max_new_tokens=4)
    lengths = batch["attention_mask"].sum(1).tolist()
    for length, report in zip(lengths, reports, strict=True):
        assert [dose.positions for dose in report.doses] == ([2 * (length + 3)] if report.intended == "guide" else [])
    assert found[0].shape[1] - batch["input_ids"].shape[1] == 4


@pytest.mark.parametrize("threshold", [-1e6, 1e6], ids=["open", "closed"])
@pytest.mark.parametrize("settings", [EARLY, LATE])
def test_the_cost_formula_equals_the_counted_forward_tokens(settings, threshold):
    model, batch = shared_model(), prompts(5)
    plain, guided = Counted(model, batch), None
    tokens, _ = run(model, batch, eos_token_id=None, max_new_tokens=3)
    plain.stop()
    with guarded(model, policy(threshold, settings=settings)) as wrapped, wrapped.guard.collect() as reports:
        guided = Counted(model, batch)
        run(wrapped, batch, eos_token_id=None, max_new_tokens=3)
        guided.stop()
        cost = wrapped.guard.plan.cost
    lengths = batch["attention_mask"].sum(1).tolist()
    assert guided.tokens - plain.tokens == sum(report.usage.extra_forward_tokens for report in reports)
    assert [report.usage.extra_forward_tokens for report in reports] == [
        cost.extra_forward_tokens(length) for length in lengths
    ]
    assert guided.passes - plain.passes == cost.passes - 1 == (settings == EARLY)
    assert tokens.shape[1] == batch["input_ids"].shape[1] + 3


def test_when_no_gate_opened_the_prefill_itself_carries_no_hook():
    model, batch, seen = shared_model(), prompts(4), []
    with guarded(model, policy(1e6, settings=EARLY)) as wrapped:
        # Behind our own hooks of a pass come those of the first module inside the block.
        first = next(blocks_of(model)[1].children())
        handle = first.register_forward_pre_hook(lambda *_: seen.append(wrapped.guard.hooked_blocks))
        run(wrapped, batch, max_new_tokens=3)
        handle.remove()
    assert seen[0] == (0, 1)
    assert set(seen[1:]) == {()}


def test_only_reading_takes_no_pass_of_its_own():
    model, batch = shared_model(), prompts(4)
    plain = run(model, batch)
    with guarded(model, policy(0.0, settings=EARLY), mode="monitor") as wrapped, wrapped.guard.collect() as reports:
        counted = Counted(model, batch)
        watched = run(wrapped, batch)
        counted.stop()
    assert torch.equal(watched[0], plain[0])
    assert all(torch.equal(one, other) for one, other in zip(watched[1], plain[1], strict=True))
    assert counted.passes == len(plain[1])
    assert {report.usage.extra_forward_tokens for report in reports} == {0}


def test_a_check_decides_as_generation_does():
    threshold = splitting_threshold()
    with guarded(shared_model(), policy(threshold, settings=EARLY)) as wrapped, wrapped.guard.collect() as reports:
        wrapped.generate(**prompts(8), max_new_tokens=2, do_sample=False)
        found = wrapped.guard.check([conversation(text) for text in CONTENTS])
    assert [one.intended for one in found] == [report.intended for report in reports[:8]]
    assert [one.readings[0].score for one in found] == pytest.approx(
        [report.readings[0].score for report in reports[:8]], abs=1e-4
    )


def test_gates_of_single_blocks_read_what_the_blocks_before_them_have_changed():
    """The gates of a plan in one pass are the ones of the same plan with its verdict taken in a pass before."""
    model, batch = shared_model(), prompts(8)
    per_block = "coefficient: 4.0, blocks: [1, 2, 3], gate: per_block"
    _, one = _generate(model, policy(-1e6, settings=per_block), batch, max_new_tokens=2)
    # The second detector reads the last block, so the same steering takes two passes.
    registry = registry_for(model, probe_blocks=(0, 3))
    with guarded(model, policy(-1e6, settings=per_block), registry=registry) as wrapped:
        assert wrapped.guard.plan.cost.passes == 2
        with wrapped.guard.collect() as two:
            run(wrapped, batch, max_new_tokens=2)
    assert [report.doses for report in one] == [report.doses for report in two]
    assert [report.readings[1:] for report in one] == [report.readings[1:] for report in two]
    assert len({report.doses for report in one}) > 1


@pytest.mark.parametrize("name", ["ablate", "clamp"])
def test_operators_at_the_first_input_work_in_two_passes(name):
    model, batch = shared_model(), prompts(8)
    plain = run(model, batch)
    items = [intervention(schedule(name), block=block, point="resid_pre") for block in (0, 3)]
    with operated(model, items, policy(splitting_threshold())) as wrapped, wrapped.guard.collect() as reports:
        steered = run(wrapped, batch)
    closed = [report.row for report in reports if not report.doses]
    assert 0 < len(closed) < 8
    assert same_rows(closed, plain, steered, batch["input_ids"].shape[1])
    assert {report.doses[0].open_blocks for report in reports if report.doses} == {(0, 3)}


def test_a_row_whose_prompt_is_longer_than_the_budget_is_refused_and_the_others_are_not():
    model, batch = shared_model(), prompts(4)
    lengths = batch["attention_mask"].sum(1).tolist()
    limit = sorted(lengths)[2]
    document = policy(-1e6, settings=EARLY, more=f"budget: {{max_extra_forward_tokens: {limit}}}")
    with guarded(model, document) as wrapped:
        with wrapped.guard.collect() as reports:
            run(wrapped, batch)
        checked = wrapped.guard.check([conversation(text) for text in CONTENTS[:4]])
    over = [length > limit for length in lengths]
    assert sum(over) == 1
    assert [report.cause == "budget" for report in reports] == over
    assert [report.applied == "refuse" for report in reports] == over
    assert [one.applied for one in checked] == [report.applied for report in reports]


def test_beams_of_one_prompt_share_its_budget():
    batch = prompts(4)
    longest = int(batch["attention_mask"].sum(1).max())
    document = policy(-1e6, settings=EARLY, more=f"budget: {{max_extra_forward_tokens: {2 * longest}}}")
    for beams, causes in ((2, {"rule"}), (3, {"rule", "budget"})):
        with guarded(shared_model(), document) as wrapped, wrapped.guard.collect() as reports:
            wrapped.generate(**batch, max_new_tokens=3, num_beams=beams)
        assert {report.cause for report in reports} == causes
        within = [report for report in reports if report.cause == "rule"]
        assert all(report.usage.extra_forward_tokens <= 2 * longest for report in within)


def test_when_every_row_is_over_the_budget_nothing_is_read_before_the_refusal():
    model, batch = shared_model(), prompts(3)
    document = policy(-1e6, settings=EARLY, more="budget: {max_extra_forward_tokens: 1}")
    with guarded(model, document) as wrapped, wrapped.guard.collect() as reports:
        counted = Counted(model, batch)
        run(wrapped, batch)
        counted.stop()
    assert counted.passes == 1
    assert {(report.applied, report.cause, report.usage.extra_forward_tokens) for report in reports} == {
        ("refuse", "budget", 0)
    }
    with (
        pytest.raises(BudgetInfeasibleError),
        guarded(model, policy(settings=EARLY, more="budget: {max_extra_forward_tokens: 0}")),
    ):
        pass


def test_an_exception_in_the_pass_before_leaves_no_trace():
    model, batch, passes = shared_model(), prompts(3), []

    def boom(*_):
        passes.append(1)
        if len(passes) == 1:
            raise RuntimeError("user code")

    with guarded(model, policy(-1e6, settings=EARLY)) as wrapped:
        handle = blocks_of(model)[3].register_forward_hook(boom)
        before = state_of(wrapped)
        with pytest.raises(RuntimeError, match="user code"):
            run(wrapped, batch)
        assert state_of(wrapped) == before
        assert wrapped.guard.hooked_blocks == ()
        run(wrapped, batch)
        handle.remove()


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}], ids=str)
def test_beams_and_several_answers_share_the_verdict_of_their_prompt(settings):
    batch, document = prompts(6), policy(splitting_threshold(), settings=EARLY)
    _, single = _generate(shared_model(), document, batch, max_new_tokens=4)
    with guarded(shared_model(), document) as wrapped, wrapped.guard.collect() as reports:
        wrapped.generate(**batch, max_new_tokens=4, **settings)
    answered = len(reports) // 6
    assert [report.intended for report in reports] == [one.intended for one in single for _ in range(answered)]


def test_the_same_seed_samples_the_same_answers_as_one_pass_where_gates_are_closed():
    batch = prompts(4)
    plain = run(shared_model(), batch, do_sample=True)
    found, _ = _generate(shared_model(), policy(1e6, settings=EARLY), batch, do_sample=True)
    assert answers(found[0], batch["input_ids"].shape[1]) == answers(plain[0], batch["input_ids"].shape[1])


@pytest.mark.parametrize("architecture", ["llava", "qwen2_5_vl"])
def test_rows_with_and_without_images_are_read_before_and_closed_ones_keep_every_bit(architecture):
    model, batch = shared_model(architecture), modality_prompts(architecture, 6)
    watching = guarded(model, policy(0.0, modalities=MODALITIES), mode="monitor")
    with watching as wrapped, wrapped.guard.collect() as reports:
        run(wrapped, batch, max_new_tokens=1)
    scores = sorted(report.readings[0].score for report in reports)
    plain = run(model, batch, max_new_tokens=4)
    document = policy((scores[2] + scores[3]) / 2, settings=EARLY, modalities=MODALITIES)
    steered, found = _generate(model, document, batch, max_new_tokens=4)
    assert [one.readings for one in found] == [
        one.readings for one in _generate(model, document, batch, max_new_tokens=1)[1]
    ]
    assert [one.readings[0].score for one in found] == pytest.approx(
        [report.readings[0].score for report in reports], abs=1e-5
    )
    closed = [report.row for report in found if not report.doses]
    assert 0 < len(closed) < 6
    assert same_rows(closed, plain, steered, batch["input_ids"].shape[1])
