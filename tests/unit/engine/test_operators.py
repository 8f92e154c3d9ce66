"""Operators are the formulas that they say, in float32, at any floating point type; malformed ones are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.operated_models import OPERATORS, WIDTH, by_hand, matrix, schedule, vector

from steerguard.engine.operators import ablate, apply_operator, check_operator, clamp, on_device
from steerguard.errors import ArtifactFormatError
from steerguard.guidance.intervention import Ablate, Affine, Clamp

NAMES = [name for name in OPERATORS if name != "add"]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def _states(dtype=torch.float32, scale=4.0):
    return (torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(9)) * scale).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_an_operator_is_its_formula_and_keeps_the_type(name, dtype):
    operated, states = schedule(name), _states(dtype)
    found = apply_operator(operated.operator, states)
    wanted = by_hand(operated, states.float().numpy())
    assert found.dtype == dtype
    assert np.abs(found.float().numpy() - wanted).max() <= TOLERANCE[dtype] * np.abs(wanted).max()
    assert not torch.equal(found, states)


@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision_around_an_operator_does_not_change_a_bit(name):
    operated, states = schedule(name), _states()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = apply_operator(operated.operator, states)
    assert torch.equal(mixed, apply_operator(operated.operator, states))


def test_ablation_leaves_nothing_along_the_direction_and_everything_across_it():
    direction, states = vector(3), _states()
    left = ablate(states, direction, 1.0)
    assert (left @ direction).abs().max() < 1e-5
    across = states - (states @ direction)[..., None] * direction
    assert torch.allclose(left, across, atol=1e-5)


def test_a_clamp_sets_what_lies_outside_and_keeps_every_bit_of_what_lies_inside():
    direction = vector(3)
    states = _states(scale=1.0)
    states[0, 0, :4] = -0.0
    inside = (states @ direction).abs() <= 0.5
    assert inside.any()
    assert not inside.all()
    found = clamp(states, direction, -0.5, 0.5)
    assert torch.equal(found[inside].view(torch.int32), states[inside].view(torch.int32))
    assert torch.allclose((found @ direction)[~inside].abs(), torch.tensor(0.5), atol=1e-5)
    assert torch.allclose(clamp(states, direction, 2.0, 2.0) @ direction, torch.tensor(2.0), atol=1e-5)
    assert ((clamp(states, direction, None, 0.0) @ direction) < 1e-5).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_is_not_finite_stays_so(name):
    states = _states()
    states[1, 2, 3] = math.nan
    found = apply_operator(schedule(name).operator, states)
    assert torch.isnan(found[1, 2]).any()
    assert torch.isfinite(found[0]).all()


def test_an_operator_on_a_device_holds_float32():
    half = Ablate(direction=vector().half())
    assert on_device(half, torch.device("cpu")).direction.dtype == torch.float32


@pytest.mark.parametrize(
    ("operator", "named"),
    [
        (Ablate(direction=vector(0, 1.01)), "unit length"),
        (Ablate(direction=vector()[:1]), "another shape"),
        (Ablate(direction=torch.full((WIDTH,), math.nan)), "not finite"),
        (Ablate(direction=vector(), coefficient=math.inf), "not finite"),
        (Clamp(direction=vector(), at_least=None, at_most=None), "bounds"),
        (Clamp(direction=vector(), at_least=1.0, at_most=0.5), "bounds"),
        (Clamp(direction=vector(), at_least=math.nan, at_most=None), "not finite"),
        (Affine(outputs=matrix(), inputs=matrix(rank=2), bias=vector()), "another shape"),
        (Affine(outputs=matrix(), inputs=matrix(), bias=torch.ones(1)), "another shape"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_operator_that_would_broadcast_or_mean_nothing_is_refused(operator, named):
    with pytest.raises(ArtifactFormatError, match=named):
        check_operator(operator, width=WIDTH, where="here")


@pytest.mark.parametrize("name", NAMES)
def test_a_sound_operator_is_accepted(name):
    check_operator(schedule(name).operator, width=WIDTH, where="here")
