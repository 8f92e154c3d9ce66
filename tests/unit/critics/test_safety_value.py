"""Binding a critic, and what it foresees."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from steerguard.artifacts.cost_params import COST_FEATURE, COST_FILE, response_state_params
from steerguard.artifacts.critic_params import CriticParams, critic_entry
from steerguard.critics.cost import CostInputs
from steerguard.critics.safety_value import CRITIC_FILE, bind_critic
from steerguard.errors import ArtifactFormatError

PARAMS = CriticParams(tokens=8, block_tokens=2, discount=1.0, hidden=2, lowest_z=-1.0, highest_z=2.0)
# Inputs: two parts of width 1 as means, the same as newest, share left, z, log of the tokens read.
TENSORS = {
    "hidden": torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0]]),
    "hidden_bias": torch.tensor([0.0, 0.5]),
    "heads": torch.tensor([[-2.0, 1.0], [3.0, 0.0]]),
    "heads_bias": torch.tensor([0.25, -0.5]),
    "linear": torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, 0.0, 4.0, 0.0, 1.0]]),
}


def artifact(tensors=None, params=PARAMS, method="safety_value", kind="critic"):
    manifest = SimpleNamespace(
        type=kind,
        method=method,
        params={**response_state_params((3, 5), threshold=0.75, layers=1), "critic": critic_entry(params)},
        reference="harm-critic/tiny@1.0.0",
        requires=SimpleNamespace(features=(COST_FEATURE, "critic.safety_value")),
        base=SimpleNamespace(num_blocks=8, hidden_size=1),
    )
    cost = {"weight": torch.tensor([[1.0], [2.0]]), "bias": torch.tensor([0.5])}
    return SimpleNamespace(
        manifest=manifest, tensors={COST_FILE: cost, CRITIC_FILE: TENSORS if tensors is None else tensors}
    )


def inputs(rows=1, read=4):
    return CostInputs(
        means=torch.tensor([[[2.0], [-1.0]]] * rows),
        newest=torch.tensor([[[3.0], [0.5]]] * rows),
        read=torch.full((rows,), read, dtype=torch.int64),
    )


def test_both_heads_by_hand():
    cost, critic = bind_critic(artifact())
    assert cost.blocks == (3, 5)
    assert cost.cost(inputs()).tolist() == [2.0 - 2.0 + 0.5]
    # After 4 of 8 tokens half of the answer is left, so states count half.
    first, second = max(0.0, 1.0), max(0.0, -0.25 + 1.5 + 0.5)
    safe = -2 * first + second + 1.5 + 2 * 1.5 + 0.25
    to_go = 3 * first - 0.5 + 4 * 0.5 + torch.tensor(4.0).log() - 0.5
    found = critic.values(inputs(), torch.tensor([1.5]))
    assert [value.dtype for value in found] == [torch.float32, torch.float32]
    assert torch.allclose(found[0], torch.sigmoid(torch.tensor([safe])), atol=1e-6)
    assert torch.allclose(found[1], to_go[None], atol=1e-6)


def test_a_safety_state_outside_the_training_counts_as_the_nearest_within():
    _, critic = bind_critic(artifact())
    chances, _ = critic.values(inputs(4), torch.tensor([-50.0, -1.0, 2.0, 1e6]))
    assert chances[0] == chances[1] < chances[2] == chances[3]


def test_behind_the_last_token_of_training_states_no_longer_count():
    _, critic = bind_critic(artifact())
    other = replace(inputs(read=9), means=torch.full((1, 2, 1), 100.0))
    assert critic.values(inputs(read=9), torch.ones(1)) == critic.values(other, torch.ones(1))
    assert critic.values(inputs(read=7), torch.ones(1)) != critic.values(
        replace(other, read=torch.tensor([7])), torch.ones(1)
    )


def test_a_row_without_a_token_has_no_value_and_the_others_keep_theirs():
    _, critic = bind_critic(artifact())
    some = replace(inputs(3), read=torch.tensor([4, 0, 4]))
    for values in critic.values(some, torch.ones(3)):
        assert values.isnan().tolist() == [False, True, False]
        assert values[0] == values[2]


def test_half_precision_states_are_read_in_float32():
    _, critic = bind_critic(artifact())
    half = replace(inputs(), means=inputs().means.bfloat16(), newest=inputs().newest.bfloat16())
    found = critic.values(half, torch.tensor([1.5]))
    assert torch.equal(torch.stack(found), torch.stack(critic.values(inputs(), torch.tensor([1.5]))))


@pytest.mark.parametrize("missing", ["means", "newest", "read"])
def test_without_states_there_is_no_value(missing):
    _, critic = bind_critic(artifact())
    with pytest.raises(ValueError, match="newest"):
        critic.values(replace(inputs(), **{missing: None}), torch.ones(1))


@pytest.mark.parametrize("name", list(TENSORS))
def test_a_missing_tensor_or_one_of_another_shape_is_refused(name):
    fewer = {other: tensor for other, tensor in TENSORS.items() if other != name}
    narrow = {**TENSORS, name: TENSORS[name][..., :1]}
    for tensors in (fewer, narrow, {**TENSORS, "extra": torch.ones(1)}):
        with pytest.raises(ArtifactFormatError) as caught:
            bind_critic(artifact(tensors))
        assert CRITIC_FILE in str(caught.value)


@pytest.mark.parametrize(("method", "kind"), [("response_states", "cost_model"), ("safety_value", "probe")])
def test_an_artifact_of_another_kind_is_refused(method, kind):
    with pytest.raises(ArtifactFormatError, match="holds no critic"):
        bind_critic(artifact(method=method, kind=kind))
