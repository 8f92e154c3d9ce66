"""Parity with plain numpy in float64."""

from __future__ import annotations

import numpy as np
import torch

from steerguard.build.probes import fit_probe
from steerguard.guidance.inferaligner.formula import alignment_difference, mean_difference, midpoint_bias, unit_rows


def samples(seed, count, blocks=3, width=16):
    return torch.randn(count, blocks, width, generator=torch.Generator().manual_seed(seed)) * 30 + 5


def test_mean_difference_equals_numpy():
    harmful, benign = samples(1, 7), samples(2, 11)
    expected = harmful.double().numpy().mean(0) - benign.double().numpy().mean(0)
    np.testing.assert_allclose(mean_difference(harmful, benign).numpy(), expected, rtol=1e-6, atol=1e-6)


def test_theta_is_the_donors_difference_minus_the_targets_on_steered_blocks_only():
    target, donor = (samples(1, 7), samples(2, 11)), (samples(3, 7), samples(4, 11))
    theta = alignment_difference(mean_difference(*donor), mean_difference(*target), (1,)).numpy()
    plain = [tensor.double().numpy().mean(0) for tensor in (*donor, *target)]
    np.testing.assert_allclose(theta[1], (plain[0] - plain[1] - (plain[2] - plain[3]))[1], rtol=1e-5, atol=1e-5)
    assert not theta[[0, 2]].any()


def test_gate_bias_is_minus_the_mean_projection_of_balanced_classes():
    harmful, benign = samples(1, 9), samples(2, 9)
    directions = unit_rows(mean_difference(harmful, benign))
    both = np.concatenate([harmful.double().numpy(), benign.double().numpy()])
    expected = -np.einsum("nbw,bw->nb", both, directions.double().numpy()).mean(0)
    np.testing.assert_allclose(midpoint_bias(directions, harmful, benign).numpy(), expected, rtol=1e-5)


def test_mean_difference_probe_is_the_gate_of_the_paper():
    harmful, benign = samples(1, 9) + 2, samples(2, 9)
    probe = fit_probe(harmful, benign, [(4, "end"), (5, "end"), (6, "end")], "mean_difference")
    directions = unit_rows(mean_difference(harmful, benign))
    assert torch.equal(probe.weight, directions)
    assert torch.equal(probe.bias, midpoint_bias(directions, harmful, benign))
    assert probe.blocks == (4, 5, 6)


def test_a_row_of_zeros_has_no_direction():
    assert not unit_rows(torch.zeros(2, 4)).any()
