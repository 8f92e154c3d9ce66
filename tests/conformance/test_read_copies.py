"""Reading and opening while an answer is written copies nothing: what a decode step needs lies ready from the prompt on."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import prompts, shared_model
from tests.rolling_guards import opening, split, watched
from torch.utils._python_dispatch import TorchDispatchMode

from steerguard.detect.cosine import CosineProbe
from steerguard.detect.linear_probe import LinearProbe

WIDTH = 32
META = torch.device("meta")
WEIGHTS = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))
PARTS = {"id": "d", "blocks": (0, 1), "over": ("end", "end")}
PROBES = {
    "linear": lambda: LinearProbe(**PARTS, weight=WEIGHTS, bias=torch.zeros(2)),
    "cosine": lambda: CosineProbe(**PARTS, direction=WEIGHTS, similarity="direction"),
}


class _Copies(TorchDispatchMode):
    """Counts vectors of the model's width that are moved or cast."""

    def __init__(self):
        super().__init__()
        self.counts = False
        self.found = 0

    def __torch_dispatch__(self, operation, _types, arguments=(), named=None):
        moved = operation is torch.ops.aten._to_copy.default
        self.found += self.counts and moved and tuple(arguments[0].shape) in {(WIDTH,), ()}
        return operation(*arguments, **(named or {}))


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_copies_its_weights_to_a_device_once(name):
    probe = PROBES[name]()
    probe.place(META)
    states = torch.zeros(3, WIDTH, device=META)
    with _Copies() as copies:
        copies.counts = True
        for index in (0, 1):
            assert probe.partial(index, states).device == META
    assert copies.found == 0


@pytest.mark.parametrize("name", PROBES)
def test_a_placed_probe_reads_what_an_unplaced_one_reads(name):
    placed, probe = PROBES[name](), PROBES[name]()
    placed.place(torch.device("cpu"))
    states = torch.randn(3, 2, WIDTH)
    assert torch.equal(placed.score(states), probe.score(states))


def test_vectors_that_may_open_late_are_not_converted_in_decode_steps():
    model, batch = shared_model(dtype=torch.bfloat16), prompts(4)
    threshold = split(model, batch)
    copies = _Copies()

    def begin(_step):
        copies.counts = True

    with copies:
        _, reports = watched(model, opening(threshold, every=1), batch, act=begin)
    assert any(report.doses for report in reports)
    assert copies.counts
    assert copies.found == 0
