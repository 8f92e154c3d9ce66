"""Binding a probe, and its score."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from steerguard.detect.linear_probe import LinearProbe, bind_linear_probe
from steerguard.detect.probe import PROBE_FILE
from steerguard.errors import ArtifactFormatError


def _bind(**tensors):
    given = {"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "bias": torch.tensor([0.5, -0.5]), **tensors}
    given = {name: tensor for name, tensor in given.items() if tensor is not None}
    manifest = SimpleNamespace(base=SimpleNamespace(hidden_size=2))
    return bind_linear_probe(
        SimpleNamespace(id="d", blocks=(3, 5), over=("end", "end")),
        SimpleNamespace(tensors={PROBE_FILE: given}, manifest=manifest),
    )


def test_the_score_is_the_mean_over_blocks_of_a_linear_reading():
    probe = _bind()
    states = torch.tensor([[[1.0, 1.0], [1.0, -1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert probe.score(states).tolist() == [(3.0 + 0.5 - 1.0 - 0.5) / 2, 0.0]
    assert probe.blocks == (3, 5)


def test_the_parts_of_the_blocks_add_up_to_the_score():
    probe = _bind()
    states = torch.randn(4, 2, 2)
    assert torch.equal(probe.partial(0, states[:, 0]) + probe.partial(1, states[:, 1]), probe.score(states))


def test_a_score_adds_the_parts_in_the_order_of_a_forward_pass_bit_by_bit():
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(4, 24, generator=generator), torch.randn(4, generator=generator)
    over = ("end", "prompt_mean", "end", "prompt_mean")
    probe = LinearProbe(id="d", blocks=(3, 3, 1, 2), over=over, weight=weight, bias=bias)
    states = torch.randn(5, 4, 24, generator=generator)
    first, *later = (probe.partial(index, states[:, index]) for index in (2, 3, 0, 1))
    for part in later:
        first = first + part
    assert torch.equal(probe.score(states), first)
    assert probe.parts == ((3, "end"), (3, "prompt_mean"), (1, "end"), (2, "prompt_mean"))


def test_half_precision_weights_are_read_in_float32():
    probe = _bind(weight=torch.ones(2, 2, dtype=torch.bfloat16))
    assert probe.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": None},
        {"bias": None},
        {"weight": torch.ones(1, 2)},
        {"weight": torch.ones(2, 1)},
        {"weight": torch.ones(2, 3)},
        {"weight": torch.ones(2)},
        {"bias": torch.ones(3)},
        {"bias": torch.ones(2, 1)},
    ],
    ids=["no weight", "no bias", "one block", "width 1", "width 3", "flat", "three biases", "column of biases"],
)
def test_tensors_of_another_shape_are_refused(tensors):
    with pytest.raises(ArtifactFormatError, match="one weight row and one bias per part"):
        _bind(**tensors)
