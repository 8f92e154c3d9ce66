"""Every operator at every point: closed rows keep every bit, positions are those said, and every change is counted."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.guarded_models import (
    blocks_of,
    policy,
    prompts,
    run,
    same_rows,
    shared_model,
    splitting_threshold,
    state_of,
)
from tests.operated_models import OPERATORS, POINTS, intervention, operated, schedule, vector
from tests.unit.engine.test_request import NoWaiting

from steerguard.engine.active import ACTIVE
from steerguard.engine.hooks import BlockInput
from steerguard.engine.program import bind_program
from steerguard.engine.sampling import new_request
from steerguard.errors import ArtifactFormatError, GuidanceDidNotFireError, UnsupportedPlanError
from steerguard.guidance.intervention import Ablate, ByStep, LinearGate, Operated

PREFILLS = ("Sure, here is", None, "No", "x" * 40, None, "I", "Yes", None)
CASES = [(name, point) for name in OPERATORS for point in POINTS]
GATE = LinearGate(weight=vector(50), bias=0.0)


def _item(name, point, positions="all", gate=None, block=2):
    return intervention(schedule(name, positions), block=block, point=point, gate=gate)


def _split(architecture="llama", dtype=torch.float32):
    return policy(splitting_threshold(architecture, dtype))


@pytest.mark.parametrize(
    ("architecture", "side", "use_cache"),
    [
        ("llama", "left", True),
        ("llama", "right", False),
        ("gpt2", "left", True),
        ("mixtral", "right", True),
        ("llava", "left", False),
    ],
)
@pytest.mark.parametrize(("name", "point"), CASES)
def test_closed_rows_equal_the_unguided_run_bit_by_bit(architecture, name, point, side, use_cache):
    model, batch = shared_model(architecture), prompts(8, side, list(PREFILLS))
    plain = run(model, batch, use_cache=use_cache, max_new_tokens=6)
    with operated(model, [_item(name, point)], _split(architecture)) as wrapped, wrapped.guard.collect() as reports:
        before = state_of(wrapped)
        steered = run(wrapped, batch, use_cache=use_cache, max_new_tokens=6)
        assert state_of(wrapped) == before
    closed = [report.row for report in reports if report.intended == "allow"]
    assert 0 < len(closed) < 8
    assert same_rows(closed, plain, steered, batch["input_ids"].shape[1])
    assert all(not torch.equal(plain[1][0][row], steered[1][0][row]) for row in range(8) if row not in closed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "point"), CASES)
def test_closed_rows_keep_every_bit_in_half_precision(name, point, dtype):
    model, batch = shared_model("llama", dtype), prompts(8)
    plain = run(model, batch, max_new_tokens=4)
    document = policy(splitting_threshold("llama", dtype))
    with operated(model, [_item(name, point)], document) as wrapped, wrapped.guard.collect() as reports:
        steered = run(wrapped, batch, max_new_tokens=4)
    closed = [report.row for report in reports if report.intended == "allow"]
    assert 0 < len(closed) < 8
    assert same_rows(closed, plain, steered, batch["input_ids"].shape[1])


@pytest.mark.parametrize("name", OPERATORS)
def test_a_closed_row_of_a_decode_step_keeps_negative_zeros_infinities_and_nan(name):
    with operated(shared_model(), [_item(name, "resid_post")], policy(0.0)) as wrapped:
        request, hidden = _prefilled(wrapped)
        opened = request.open["steer"]
        assert opened.any()
        assert not opened.all()
        hook = request.decode_hooks()[2]
        step = torch.randn(8, 1, 32)
        special = [0.0, -0.0, 1e-30, float("inf"), -float("inf"), 6e4]
        step[:, :, : len(special)] = torch.tensor(special)
        changed = _called(request, hook, step)
    assert torch.equal(changed[~opened].view(torch.int32), step[~opened].view(torch.int32))
    assert not torch.equal(changed[opened], step[opened])
    assert hidden.shape[0] == 8


def _prefilled(wrapped):
    batch = prompts(8)
    request = new_request(wrapped.guard.engine, batch["input_ids"], batch["attention_mask"].bool(), cached=True)
    torch.manual_seed(0)
    hidden = torch.randn(*request.prompt_mask.shape, 32)
    for block, program in request.program.blocks.items():
        if program.before:
            request.before_block(block, hidden)
        request.at_block(block, hidden)
    request.freeze(list(request.gates))
    return request, hidden


def _called(request, hook, step):
    token = ACTIVE.set(request)
    try:
        return hook(None, (), step)
    finally:
        ACTIVE.reset(token)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_decode_step_never_waits_for_the_device(name, point):
    items = [_item(name, point), _item("add", point)]
    with operated(shared_model(), items, policy(0.0)) as wrapped:
        request, _ = _prefilled(wrapped)
        (place, hook), *others = request.decode_hooks().items()
        assert not others
        token = ACTIVE.set(request)
        try:
            with NoWaiting():
                for _ in range(3):
                    hidden = torch.ones(8, 1, 32)
                    found = hook(None, (hidden,), {}) if isinstance(place, BlockInput) else hook(None, (), hidden)
                    assert found is not None
        finally:
            ACTIVE.reset(token)


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("positions", ["all", "last_prompt_token_and_decode", "decode", "prefill"])
@pytest.mark.parametrize(("name", "point"), [("ablate", "resid_pre"), ("affine", "resid_post")])
def test_doses_count_every_position_of_every_rule(name, point, positions, use_cache):
    batch = prompts(4, "right", prefills=["Sure", None, None, "x" * 9])
    with operated(shared_model(), [_item(name, point, positions)]) as wrapped, wrapped.guard.collect() as reports:
        tokens, _ = run(wrapped, batch, use_cache=use_cache, min_new_tokens=5, max_new_tokens=5)
    fed_back = tokens.shape[1] - batch["input_ids"].shape[1] - 1
    lengths = batch["attention_mask"].sum(1).tolist()
    plain = prompts(4)["attention_mask"].sum(1).tolist()
    for length, without, report in zip(lengths, plain, reports, strict=True):
        wanted = {
            "all": length + fed_back,
            "prefill": length,
            "decode": fed_back,
            "last_prompt_token_and_decode": 1 + length - without + fed_back,
        }[positions]
        assert [dose.positions for dose in report.doses] == [wanted]
        assert [dose.expected_positions for dose in report.doses] == [wanted]


@pytest.mark.parametrize(("name", "point"), CASES)
def test_with_and_without_a_cache_and_alone_tokens_and_doses_agree(name, point):
    batch = prompts(6, prefills=list(PREFILLS[:6]))
    with operated(shared_model(), [_item(name, point, gate=GATE)], policy(-1e6)) as wrapped:
        with wrapped.guard.collect() as reports:
            found = [run(wrapped, batch, use_cache=use_cache, eos_token_id=None) for use_cache in (True, False)]
        keep = batch["attention_mask"][2].bool()
        alone = run(wrapped, {key: tensor[2:3, keep] for key, tensor in batch.items()}, eos_token_id=None)
    opened = [bool(report.doses) for report in reports[:6]]
    assert 0 < sum(opened) < 6
    assert [report.doses for report in reports[:6]] == [report.doses for report in reports[6:]]
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(alone[0][0, keep.sum() :], found[0][0][2, len(keep) :])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(one, other, atol=2e-3, rtol=1e-4)


def test_interventions_at_one_place_act_in_the_order_in_which_they_are_declared():
    direction = vector(4)
    ablating = intervention(Operated(operator=Ablate(direction=direction), positions="all"), block=2)
    adding = intervention(schedule("add", seed=4), block=2)
    found = {}
    for name, items in {"ablate last": [adding, ablating], "add last": [ablating, adding]}.items():
        seen = []
        with operated(shared_model(), items) as wrapped:
            handle = blocks_of(wrapped)[3].register_forward_pre_hook(
                lambda _module, args, kwargs, seen=seen: seen.append(args[0] if args else kwargs["hidden_states"]),
                with_kwargs=True,
            )
            run(wrapped, prompts(1), max_new_tokens=3)
            handle.remove()
        found[name] = [(states @ direction)[0, -1].item() for states in seen]
    # The vector added has length 3 along the direction.
    assert found["ablate last"] == pytest.approx([0.0] * len(found["ablate last"]), abs=1e-4)
    assert found["add last"] == pytest.approx([3.0] * len(found["add last"]), abs=1e-4)


def test_steps_and_operators_share_a_place():
    steps = ByStep(prompt=None, last=vector(1, 2.0), steps=(vector(2, 2.0), vector(3, 2.0)))
    items = [intervention(steps, block=2), _item("ablate", "resid_post"), _item("clamp", "resid_pre")]
    batch, seen = prompts(3), []
    with operated(shared_model(), items) as wrapped:
        for use_cache in (True, False):
            with wrapped.guard.collect() as reports:
                tokens, logits = run(wrapped, batch, use_cache=use_cache, eos_token_id=None, max_new_tokens=6)
            seen.append((tokens, logits, [report.doses for report in reports]))
    assert seen[0][2] == seen[1][2]
    assert torch.equal(seen[0][0], seen[1][0])
    lengths = batch["attention_mask"].sum(1).tolist()
    assert [doses[0].positions for doses in seen[0][2]] == [3 + 2 * (length + 5) for length in lengths]
    assert {doses[0].open_blocks for doses in seen[0][2]} == {(2,)}


@pytest.mark.parametrize("point", POINTS)
def test_hooks_are_there_only_while_they_are_needed(point):
    seen = []
    for positions, wanted in (("all", (2,)), ("prefill", ())):
        with operated(shared_model(), [_item("ablate", point, positions)]) as wrapped:
            seen.clear()
            run(wrapped, prompts(3), act=lambda _step, wrapped=wrapped: seen.append(wrapped.guard.hooked_blocks))
            assert wrapped.guard.hooked_blocks == ()
        assert set(seen) == {wanted}
    with operated(shared_model(), [_item("ablate", point)], policy(1e6)) as wrapped:
        seen.clear()
        run(wrapped, prompts(3), act=lambda _step: seen.append(wrapped.guard.hooked_blocks))
    assert set(seen) == {()}


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("point", POINTS)
def test_hooks_removed_behind_the_engine_raise(point, step, use_cache):
    with operated(shared_model(), [_item("ablate", point)]) as wrapped:

        def act(now):
            if now == step:
                for block in blocks_of(wrapped):
                    block._forward_hooks.clear()
                    block._forward_pre_hooks.clear()

        with wrapped.guard.collect() as reports, pytest.raises(GuidanceDidNotFireError, match="number of positions"):
            run(wrapped, prompts(3), act=act, use_cache=use_cache, min_new_tokens=6)
        assert reports == []


def test_an_input_hook_that_is_gone_before_the_prefill_reaches_it_raises():
    model = shared_model()
    with operated(model, [_item("ablate", "resid_pre")]) as wrapped:
        handle = model.get_input_embeddings().register_forward_hook(
            lambda *_: blocks_of(model)[2]._forward_pre_hooks.clear()
        )
        try:
            with pytest.raises(GuidanceDidNotFireError, match="prefill"):
                run(wrapped, prompts(3))
        finally:
            handle.remove()


def test_a_gate_that_is_not_finite_refuses_the_row():
    broken = LinearGate(weight=torch.full((32,), float("nan")), bias=0.0)
    item = _item("ablate", "resid_pre", gate=broken)
    with operated(shared_model(), [item]) as wrapped, wrapped.guard.collect() as reports:
        run(wrapped, prompts(2))
    assert {(report.applied, report.cause) for report in reports} == {("refuse", "non_finite")}
    assert reports[0].readings[-1].source == "steer/input/block 2"


def test_what_the_plan_does_not_say_and_an_operator_that_does_not_fit_are_refused():
    with operated(shared_model(), []) as wrapped:
        program = wrapped.guard.engine.program
        (step,) = program.plan.steps

        def bind(item, **declared):
            changed = dataclasses.replace(step, **{"operator": "ablate", "blocks": (item.block,), **declared})
            return bind_program(dataclasses.replace(program.plan, steps=(changed,)), program.probes, [item])

        at_input = _item("ablate", "resid_pre")
        with pytest.raises(UnsupportedPlanError, match="resid_pre"):
            bind(at_input, points=("resid_post",))
        short = Operated(operator=Ablate(direction=vector(width=8)), positions="all")
        with pytest.raises(ArtifactFormatError, match="shape"):
            bind(intervention(short, block=2), points=("resid_post",))
        with pytest.raises(UnsupportedPlanError, match="needs two"):
            bind(_item("ablate", "resid_pre", block=1), points=("resid_pre",))
        assert bind(at_input, points=("resid_pre",)).interventions == (at_input,)
