"""Samples of unfinished answers, and fitting a critic to them."""

from __future__ import annotations

import pytest
import torch

from steerguard.artifacts.critic_params import CriticParams
from steerguard.build.critic_fit import fit_critic, rolled_states, samples_of
from steerguard.build.critic_network import CriticNetwork, Scaling
from steerguard.build.recipe_critic import CriticFit
from steerguard.build.rollout_states import RolloutStates, reads_at
from steerguard.critics.cost import CostInputs
from steerguard.critics.safety_value import critic_inputs
from steerguard.errors import BuildError
from steerguard.guidance.search.safety_state import state_after

BLOCK, BLOCKS, WIDTH = 4, 4, 3
FIT = CriticFit(penalty=1.0, hidden=4, epochs=2, learning_rate=1e-3, weight_decay=0.1, batch_size=32)


def drawn(answers=400, seed=0, discount=1.0, generated=None, hot=None):
    """Answers whose cost-to-go follows the newest state, with some noise; costs are made from it."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(answers, BLOCKS, 1, WIDTH, generator=generator) + 5.0
    newest = torch.randn(answers, BLOCKS, 1, WIDTH, generator=generator)
    costs = torch.zeros(answers, BLOCKS)
    costs[:, -1] = torch.randn(answers, generator=generator)
    left = 1 - (BLOCK * torch.arange(1, BLOCKS + 1) - 1) / (BLOCK * BLOCKS)
    for block in range(BLOCKS - 1):
        to_go = 2 * left[block] * newest[:, block, 0, 0] + 0.1 * torch.randn(answers, generator=generator)
        costs[:, block] = costs[:, -1] - to_go
    generated = torch.full((answers,), BLOCK * BLOCKS) if generated is None else generated
    states = RolloutStates(means=means, newest=newest, read=reads_at(generated, BLOCK, BLOCKS))
    return samples_of(
        states,
        costs,
        generated=generated,
        hot=torch.zeros(answers, dtype=torch.int64) if hot is None else hot,
        prompt_of=torch.arange(answers) // 4,
        budgets=torch.tensor([-0.5, 0.0, 0.5]),
        block_tokens=BLOCK,
        discount=discount,
    )


def params_of(samples, hidden=4):
    return CriticParams(
        tokens=BLOCK * BLOCKS,
        block_tokens=BLOCK,
        discount=1.0,
        hidden=hidden,
        lowest_z=float(samples.z.min()),
        highest_z=float(samples.z.max()),
    )


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_the_safety_state_is_rolled_as_the_search_rolls_it(discount):
    costs, budgets = torch.tensor([[0.5, -1.0, 2.0]]), torch.tensor([1.0, 3.0])
    found = rolled_states(costs, budgets, discount)
    for place, budget in enumerate(budgets.tolist()):
        for block in range(3):
            steps = [0.5, -1.5, 3.0][: block + 1]
            assert found[0, block, place].item() == pytest.approx(
                state_after(budget, steps, discount=discount), abs=1e-5
            )


def test_samples_are_unfinished_answers_behind_their_hot_beginning():
    generated = torch.tensor([16, 8, 9, 1])
    samples = drawn(4, generated=generated, hot=torch.tensor([8, 0, 0, 0]))
    # The first answer counts from the end of its hot block on, the second ends exactly with a block.
    assert samples.block.tolist() == [1, 2, 0, 0, 1]
    assert samples.read.tolist() == [7, 11, 3, 3, 7]


def test_an_answer_that_ended_early_is_labelled_where_its_clock_stopped():
    samples = drawn(40, generated=torch.full((40,), 9), discount=0.5)
    states = drawn(40, discount=0.5)
    # Three blocks were begun, so three steps of the clock, although states are kept for four.
    last = states.z[states.block == 2]
    assert torch.equal(samples.ends_safe[samples.block == 0], last > 0)


def test_a_critic_foresees_a_planted_cost_to_go_on_answers_that_it_never_saw():
    seen, others = drawn(), drawn(seed=1)
    critic = fit_critic(seen, params_of(seen), FIT, seed=0)
    inputs = CostInputs(means=others.means, newest=others.newest, read=others.read)
    left_over = []
    for place in range(3):
        chances, to_go = critic.values(inputs, others.z[:, place])
        assert ((chances > 0.5) == others.ends_safe[:, place]).float().mean() > 0.93
        left_over.append((to_go - others.to_go).square().mean() / others.to_go.var())
    assert max(left_over) < 0.05


def test_a_fit_is_the_same_again_and_leaves_the_generator_alone():
    samples = drawn(60)
    torch.manual_seed(5)
    first = fit_critic(samples, params_of(samples), FIT, seed=0)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    again = fit_critic(samples, params_of(samples), FIT, seed=0)
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in first.tensors().items())
    other = fit_critic(samples, params_of(samples), FIT, seed=1)
    assert not torch.equal(first.hidden, other.hidden)


def test_folding_the_scaling_into_the_weights_changes_nothing():
    samples = drawn(50)
    params = params_of(samples)
    plain = critic_inputs(samples.means, samples.newest, samples.z[:, 1], samples.read, params)
    scaling = Scaling.of(plain, samples.z, samples.to_go)
    network = CriticNetwork(plain.shape[1], 4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(2))
        safe, to_go = network(scaling.inputs(plain)).T
    critic = network.folded(params, scaling)
    found = critic.values(CostInputs(means=samples.means, newest=samples.newest, read=samples.read), samples.z[:, 1])
    assert torch.allclose(found[0], torch.sigmoid(safe), atol=1e-4)
    assert torch.allclose(found[1], to_go * scaling.to_go[1] + scaling.to_go[0], atol=1e-3)


def test_answers_that_all_end_alike_teach_nothing():
    samples = drawn(20)
    alike = samples.chosen(samples.ends_safe.all(dim=1))
    with pytest.raises(BuildError, match="all answers end alike"):
        fit_critic(alike, params_of(samples), FIT, seed=0)
