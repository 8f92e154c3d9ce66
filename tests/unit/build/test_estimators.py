"""Every estimator equals its formula written in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerguard.build import estimators
from steerguard.build.estimators import AnswerResiduals, Residuals
from steerguard.models.answer_means import AnswerMeans

BLOCKS, WIDTH, STEPS = 3, 5, 4


def random(*shape, seed):
    # An outlier dimension, as residual streams have.
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    values[..., 2] += 3000
    return values


def residuals():
    return Residuals(
        target_harmful=random(7, BLOCKS, WIDTH, seed=1),
        target_benign=random(9, BLOCKS, WIDTH, seed=2),
        donor_harmful=random(7, BLOCKS, WIDTH, seed=3),
        donor_benign=random(9, BLOCKS, WIDTH, seed=4),
    )


def means(seed, steps=STEPS):
    return AnswerMeans(
        prompt=random(BLOCKS, WIDTH, seed=seed),
        last=random(BLOCKS, WIDTH, seed=seed + 1),
        steps=random(steps, BLOCKS, WIDTH, seed=seed + 2),
    )


def answers():
    return AnswerResiduals(
        target_harmful=means(10), donor_harmful=means(20), target_benign=means(30, 6), donor_benign=means(40, 6)
    )


def f64(tensor):
    return tensor.numpy().astype(np.float64)


def mean(tensor):
    return f64(tensor).mean(axis=0)


def numpy_ssv(r):
    return mean(r.donor_harmful) - mean(r.donor_benign)


def numpy_ssv_minus_srv(r):
    return numpy_ssv(r) - (mean(r.target_harmful) - mean(r.target_benign))


def numpy_cross(r):
    return mean(r.donor_harmful) - mean(r.target_harmful)


def numpy_cross_centred(r):
    shared = mean(r.donor_benign) - mean(r.target_benign)
    theta = numpy_cross(r)
    for block in range(BLOCKS):
        unit = shared[block] / np.linalg.norm(shared[block])
        theta[block] -= (theta[block] @ unit) * unit
    return theta


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (estimators.ssv, numpy_ssv),
        (estimators.ssv_minus_srv, numpy_ssv_minus_srv),
        (estimators.cross, numpy_cross),
        (estimators.cross_centred, numpy_cross_centred),
    ],
)
def test_a_constant_estimator_equals_numpy(estimate, expected):
    theta = estimate(residuals())
    assert (theta.dtype, theta.shape) == (torch.float32, (BLOCKS, WIDTH))
    np.testing.assert_allclose(theta.numpy(), expected(residuals()), rtol=1e-4, atol=1e-3)


def test_cross_minus_its_benign_counterpart_is_ssv_minus_srv():
    r = residuals()
    benign = mean(r.donor_benign) - mean(r.target_benign)
    np.testing.assert_allclose(numpy_cross(r) - benign, estimators.ssv_minus_srv(r).numpy(), rtol=1e-4, atol=1e-3)


def test_nothing_is_projected_out_where_the_benign_means_agree():
    r = residuals()
    same = Residuals(
        target_harmful=r.target_harmful,
        target_benign=r.target_benign,
        donor_harmful=r.donor_harmful,
        donor_benign=r.target_benign,
    )
    assert torch.equal(estimators.cross_centred(same), estimators.cross(same))


@pytest.mark.parametrize(("positions", "count"), [(None, STEPS), (2, 2)])
def test_response_mean_equals_numpy(positions, count):
    a = answers()

    def answering(m):
        return np.concatenate([f64(m.last)[None], f64(m.steps)[:count]]).mean(axis=0)

    expected = (answering(a.donor_harmful) - answering(a.target_harmful)) - (
        answering(a.donor_benign) - answering(a.target_benign)
    )
    np.testing.assert_allclose(estimators.response_mean(a, positions).numpy(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("positions", "refusing_count", "complying_count"), [(None, STEPS, STEPS + 2), (2, 2, 2)])
def test_answer_contrast_equals_numpy(positions, refusing_count, complying_count):
    refusing, complying = means(7), means(8, STEPS + 2)
    expected = f64(refusing.steps)[:refusing_count].mean(0) - f64(complying.steps)[:complying_count].mean(0)
    found = estimators.answer_contrast(refusing, complying, positions)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("positions", [None, 3])
def test_schedules_equal_numpy(positions):
    a = answers()
    steps = (f64(a.donor_harmful.steps) - f64(a.target_harmful.steps))[:positions]
    expected = {
        "theta_prompt": f64(a.donor_harmful.prompt) - f64(a.target_harmful.prompt),
        "theta_last": f64(a.donor_harmful.last) - f64(a.target_harmful.last),
    }
    for schedule, last in (
        (estimators.by_phase(a, positions), {"theta_decode": steps.mean(axis=0)}),
        (estimators.by_step(a, positions), {"theta_steps": steps}),
    ):
        assert set(schedule) == set(expected | last)
        for name, values in (expected | last).items():
            np.testing.assert_allclose(schedule[name].numpy(), values, rtol=1e-4, atol=1e-3)


def test_other_blocks_are_zero_in_vectors_and_schedules():
    for shape in ((BLOCKS, WIDTH), (STEPS, BLOCKS, WIDTH)):
        theta = torch.ones(shape)
        kept = estimators.on_blocks(theta, (1,))
        assert kept[..., 1, :].all()
        assert not kept[..., [0, 2], :].any()
        assert theta.all()
