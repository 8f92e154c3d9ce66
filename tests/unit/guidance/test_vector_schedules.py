"""From an artifact's tensors to interventions: every schedule, every method, and what is refused by name."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from steerguard.errors import ArtifactFormatError
from steerguard.guidance.fitted_refusal.bind import bind as bind_fitted
from steerguard.guidance.inferaligner.bind import bind as bind_inferaligner
from steerguard.guidance.intervention import ByPhase, ByStep, Constant, VerdictGate
from steerguard.guidance.vector_schedules import VECTORS_FILE

BINDS = {"inferaligner": bind_inferaligner, "fitted_refusal": bind_fitted}
BLOCKS, WIDTH, STEPS = 4, 8, 3
GATES = {"srv": torch.ones(BLOCKS, WIDTH), "gate_bias": torch.zeros(BLOCKS)}


def _theta(value):
    return torch.full((BLOCKS, WIDTH), float(value))


def _tensors(schedule):
    if schedule == "constant":
        return {"theta": _theta(1)}
    parts = {"theta_prompt": _theta(1), "theta_last": _theta(2)}
    if schedule == "by_phase":
        return {**parts, "theta_decode": _theta(3)}
    return {**parts, "theta_steps": torch.stack([_theta(10 + step) for step in range(STEPS)])}


def _params(schedule):
    stated = {"blocks": [1, 2], "strength": "0.5"}
    if schedule == "constant":
        return stated
    return stated | {"schedule": schedule} | ({"steps": STEPS} if schedule == "by_step" else {})


def _artifact(schedule, tensors=None, *, params=None, features=None):
    manifest = SimpleNamespace(
        base=SimpleNamespace(num_blocks=BLOCKS, hidden_size=WIDTH),
        params=params or _params(schedule),
        requires=SimpleNamespace(features=features or (f"schedule.{schedule}", "operator.add")),
    )
    held = {**GATES, **(tensors or _tensors(schedule))}
    return {"vectors": SimpleNamespace(tensors={VECTORS_FILE: held}, manifest=manifest)}


def _step(**changes):
    fields = {
        "id": "steer",
        "blocks": (1, 2),
        "read_blocks": (),
        "strength": "0.5",
        "coefficient": "4.0",
        "positions": "decode",
        "first_steps": None,
        "modality_tokens": "include",
    }
    return SimpleNamespace(**(fields | changes))


def _values(vectors):
    return [None if vector is None else vector.unique().item() for vector in vectors]


@pytest.mark.parametrize("bind", BINDS.values(), ids=BINDS)
def test_a_constant_keeps_the_plans_positions_and_the_coefficient(bind):
    found = bind(_step(), _artifact("constant"))
    assert [item.block for item in found] == [1, 2]
    for item in found:
        assert isinstance(item.schedule, Constant)
        assert item.schedule.positions == "decode"
        assert torch.equal(item.schedule.vector, torch.full((WIDTH,), 2.0))
        assert isinstance(item.gate, VerdictGate)


@pytest.mark.parametrize("bind", BINDS.values(), ids=BINDS)
def test_the_coefficient_multiplies_every_part_of_a_schedule(bind):
    phase = bind(_step(positions=None), _artifact("by_phase"))[0].schedule
    assert isinstance(phase, ByPhase)
    assert _values([phase.prompt, phase.last, phase.decode]) == [2.0, 4.0, 6.0]
    steps = bind(_step(positions=None), _artifact("by_step"))[1].schedule
    assert isinstance(steps, ByStep)
    assert _values([steps.prompt, steps.last, *steps.steps]) == [2.0, 4.0, 20.0, 22.0, 24.0]


def test_vectors_of_zeros_add_nothing_and_trailing_steps_of_zeros_are_dropped():
    tensors = _tensors("by_step") | {"theta_prompt": _theta(0)}
    tensors["theta_steps"][0] = 0
    tensors["theta_steps"][2] = 0
    (schedule, _) = (item.schedule for item in bind_fitted(_step(), _artifact("by_step", tensors)))
    assert schedule.prompt is None
    assert _values(schedule.steps) == [None, 22.0]
    phase = _tensors("by_phase") | {"theta_decode": _theta(0)}
    assert bind_fitted(_step(), _artifact("by_phase", phase))[0].schedule.decode is None


@pytest.mark.parametrize("bind", BINDS.values(), ids=BINDS)
@pytest.mark.parametrize("schedule", ["constant", "by_phase", "by_step"])
def test_a_block_whose_vectors_are_all_zero_is_refused(bind, schedule):
    tensors = {name: tensor.clone() for name, tensor in _tensors(schedule).items()}
    for tensor in tensors.values():
        tensor[..., 2, :] = 0
    with pytest.raises(ArtifactFormatError, match=r"blocks \[2\]"):
        bind(_step(), _artifact(schedule, tensors))


@pytest.mark.parametrize("bind", BINDS.values(), ids=BINDS)
@pytest.mark.parametrize(
    ("schedule", "name"),
    [(schedule, name) for schedule in ("constant", "by_phase", "by_step") for name in _tensors(schedule)],
)
def test_a_tensor_that_is_missing_or_of_another_shape_is_refused_by_name(bind, schedule, name):
    tensors = _tensors(schedule)
    for wrong in (None, tensors[name][..., :1], tensors[name][1:], tensors[name][None]):
        changed = (
            {**tensors, name: wrong} if wrong is not None else {key: tensors[key] for key in tensors if key != name}
        )
        artifact = _artifact(schedule, changed or {"theta_other": _theta(1)})
        with pytest.raises(ArtifactFormatError, match=rf"\b{name}\b"):
            bind(_step(), artifact)


def test_only_inferaligner_needs_the_gates_of_blocks():
    artifact = _artifact("constant")
    del artifact["vectors"].tensors[VECTORS_FILE]["srv"]
    assert len(bind_fitted(_step(), artifact)) == 2
    with pytest.raises(ArtifactFormatError, match="missing srv"):
        bind_inferaligner(_step(), artifact)


def test_a_schedule_that_the_manifest_does_not_require_is_refused():
    with pytest.raises(ArtifactFormatError, match=r"schedule\.by_step"):
        bind_fitted(_step(), _artifact("by_step", features=("operator.add",)))


def test_an_unknown_schedule_is_refused_when_it_is_bound():
    with pytest.raises(ArtifactFormatError, match="by_mood"):
        bind_fitted(_step(), _artifact("constant", params={"schedule": "by_mood"}))


@pytest.mark.parametrize("bind", BINDS.values(), ids=BINDS)
def test_coefficient_zero_declares_nothing(bind):
    assert bind(_step(coefficient="0.0"), _artifact("by_step")) == ()
