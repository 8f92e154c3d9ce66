"""Binding a cost model of states, and its costs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from steerguard.artifacts.cost_params import COST_FEATURE, COST_FILE, response_state_params
from steerguard.critics.cost import CostInputs
from steerguard.critics.response_states import apply_head, bind_cost
from steerguard.errors import ArtifactFormatError

LINEAR = {"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "bias": torch.tensor([0.5])}
DEEP = {
    "weight_0": torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]]),
    "bias_0": torch.tensor([0.0, 1.0, -1.0]),
    "weight_1": torch.tensor([[1.0, -2.0, 3.0]]),
    "bias_1": torch.tensor([0.25]),
}


def bind(tensors, layers, method="response_states", kind="cost_model"):
    manifest = SimpleNamespace(
        type=kind,
        method=method,
        params=response_state_params((3, 5), threshold=0.75, layers=layers),
        reference="harm-cost/tiny@1.0.0",
        requires=SimpleNamespace(features=(COST_FEATURE,)),
        base=SimpleNamespace(num_blocks=8, hidden_size=2),
    )
    return bind_cost(SimpleNamespace(manifest=manifest, tensors={COST_FILE: tensors}))


def inputs(means, read=None):
    counts = torch.ones(len(means), dtype=torch.int64) if read is None else torch.tensor(read)
    return CostInputs(means=torch.tensor(means), read=counts)


def test_a_linear_cost_is_the_sum_over_parts():
    cost = bind(LINEAR, 1)
    assert cost.blocks == (3, 5)
    assert cost.threshold == 0.75
    means = [[[1.0, 1.0], [1.0, -1.0]], [[0.0, 0.0], [0.0, 0.0]]]
    assert cost.cost(inputs(means)).tolist() == [1 + 2 + 3 - 4 + 0.5, 0.5]


def test_a_two_layer_cost_has_a_relu_between():
    found = bind(DEEP, 2).cost(inputs([[[1.0, 3.0], [2.0, 9.0]], [[-1.0, -1.0], [0.0, 0.0]]]))
    assert found.tolist() == [1.0 + 3 * 3.0 + 0.25, -2 * 2.0 + 0.25]


def test_a_row_without_a_token_has_no_cost_and_the_others_keep_theirs():
    cost = bind(LINEAR, 1).cost(inputs([[[1.0, 1.0], [1.0, -1.0]]] * 3, [2, 0, 1]))
    assert cost.dtype == torch.float32
    assert cost.isnan().tolist() == [False, True, False]
    assert cost[0] == cost[2] == 2.5


def test_half_precision_means_are_read_in_float32():
    means = torch.randn(4, 2, 2).bfloat16()
    cost = bind(LINEAR, 1).cost(CostInputs(means=means, read=torch.ones(4, dtype=torch.int64)))
    expected = (means.double().flatten(1) @ LINEAR["weight"].double().flatten()) + 0.5
    assert cost.dtype == torch.float32
    assert torch.allclose(cost.double(), expected, atol=1e-5)


def test_a_linear_cost_does_not_depend_on_the_other_rows_bit_by_bit():
    generator = torch.Generator().manual_seed(0)
    layers = [(torch.randn(1, 1728, generator=generator), torch.randn(1, generator=generator))]
    states = torch.randn(16, 1728, generator=generator)
    alone = torch.cat([apply_head(layers, states[row : row + 1]) for row in range(16)])
    assert torch.equal(apply_head(layers, states), alone)


def test_a_critic_binds_its_cost_model():
    assert bind(LINEAR, 1, method="safety_value", kind="critic").blocks == (3, 5)


@pytest.mark.parametrize(
    ("tensors", "layers"),
    [
        ({}, 1),
        ({"weight": LINEAR["weight"]}, 1),
        ({**LINEAR, "weight": torch.ones(2, 1)}, 1),
        ({**LINEAR, "weight": torch.ones(1, 4)}, 1),
        ({**LINEAR, "bias": torch.ones(2)}, 1),
        ({**LINEAR, "more": torch.ones(1)}, 1),
        (LINEAR, 2),
        (DEEP, 1),
        ({**DEEP, "bias_0": torch.ones(2)}, 2),
        ({**DEEP, "bias_0": torch.tensor(1.0)}, 2),
        ({**DEEP, "weight_0": torch.ones(3, 2)}, 2),
        ({**DEEP, "weight_1": torch.ones(2, 3)}, 2),
        ({**DEEP, "bias_1": torch.ones(1, 1)}, 2),
    ],
)
def test_tensors_of_another_shape_are_refused(tensors, layers):
    with pytest.raises(ArtifactFormatError, match="do not fit"):
        bind(tensors, layers)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_that_are_not_finite_are_refused(value):
    with pytest.raises(ArtifactFormatError, match="not finite"):
        bind({**LINEAR, "bias": torch.tensor([value])}, 1)


def test_another_method_is_refused():
    with pytest.raises(ArtifactFormatError, match="another method"):
        bind(LINEAR, 1, method="linear_probe")


@pytest.mark.parametrize("shape", [(4, 2, 3), (4, 1, 2), (4, 2, 1), (4, 4)])
def test_means_of_another_shape_are_an_error_and_never_broadcast(shape):
    given = CostInputs(means=torch.ones(shape), read=torch.ones(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="means must be"):
        bind(LINEAR, 1).cost(given)


def test_texts_alone_are_an_error():
    with pytest.raises(ValueError, match="needs means"):
        bind(LINEAR, 1).cost(CostInputs(prompts=["a"], answers=["b"]))
