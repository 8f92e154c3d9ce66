"""The condition of CAST, against the paper's formula with its matrix, in numpy and float64."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerguard.detect.bind import bind_probe
from steerguard.detect.cosine import CosineProbe, bind_cosine, compared_with, cosine
from steerguard.detect.probe import PROBE_FILE
from steerguard.errors import ArtifactFormatError

WIDTH = 12


def reference(state, direction):
    """`cos(h, tanh(P_c h))` with the matrix `P_c = c c^T / (c . c)`."""
    h, c = (np.asarray(vector.tolist(), dtype=np.float64) for vector in (state, direction))
    projected = np.tanh(np.outer(c, c) / (c @ c) @ h)
    return h @ projected / (np.linalg.norm(h) * np.linalg.norm(projected))


def drawn(seed, rows=3, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, WIDTH, generator=generator) * scale
    return states, torch.randn(WIDTH, generator=generator)


@given(st.integers(0, 10_000), st.sampled_from([1e-3, 0.1, 1.0, 30.0, 1e4]))
def test_the_score_is_the_papers_formula(seed, scale):
    states, direction = drawn(seed, scale=scale)
    found = cosine(states, compared_with(states, direction, "tanh_projection"))
    expected = [reference(state, direction) for state in states]
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_length_and_sign_of_the_direction_do_not_matter_and_the_score_is_never_negative(seed, factor):
    states, direction = drawn(seed)
    plain, scaled = (
        cosine(states, compared_with(states, turned, "tanh_projection")) for turned in (direction, -factor * direction)
    )
    assert torch.allclose(plain, scaled, atol=1e-5)
    assert (plain >= 0).all()


def test_with_the_tanh_the_length_of_the_state_matters_and_without_it_does_not():
    states, direction = drawn(1)
    for similarity, same in (("tanh_projection", False), ("direction", True)):
        one, other = (cosine(h, compared_with(h, direction, similarity)) for h in (states, 50 * states))
        assert torch.allclose(one, other, atol=1e-4) is same


def test_a_zero_row_scores_zero_and_a_row_that_is_not_finite_scores_not_finite():
    direction = torch.tensor([1.0, 0.0])
    states = torch.tensor([[0.0, 3.0], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0], [2.0, 0.0]])
    for similarity in ("tanh_projection", "direction"):
        scores = cosine(states, compared_with(states, direction, similarity))
        assert scores[:2].tolist() == [0.0, 0.0]
        assert not torch.isfinite(scores[2:4]).any()
        assert scores[4] == pytest.approx(1.0)


def test_parts_add_up_to_the_score_and_a_row_does_not_depend_on_its_neighbours():
    generator = torch.Generator().manual_seed(0)
    probe = CosineProbe(
        id="d",
        blocks=(3, 1),
        over=("end", "prompt_mean"),
        direction=torch.randn(2, WIDTH, generator=generator),
        similarity="tanh_projection",
    )
    states = torch.randn(5, 2, WIDTH, generator=generator)
    total = probe.partial(1, states[:, 1]) + probe.partial(0, states[:, 0])
    assert torch.equal(probe.score(states), total)
    assert all(torch.equal(probe.score(states[row : row + 1])[0], total[row]) for row in range(5))


def _bind(direction, *, method="cosine", type="cosine", similarity="direction", binder=bind_cosine):  # noqa: A002
    manifest = SimpleNamespace(
        base=SimpleNamespace(hidden_size=2), params={"similarity": similarity}, method=method, reference="c/v@1.0.0"
    )
    tensors = {} if direction is None else {"direction": torch.tensor(direction)}
    detector = SimpleNamespace(id="d", type=type, blocks=(3, 5), over=("end", "end"))
    return binder(detector, SimpleNamespace(tensors={PROBE_FILE: tensors}, manifest=manifest))


@pytest.mark.parametrize(
    "direction",
    [
        None,
        [[1.0, 0.0]],
        [[1.0], [1.0]],
        [[1.0, 0.0], [0.0, 0.0]],
        [[1.0, 0.0], [float("nan"), 0.0]],
        [[1.0, 0.0], [1e-30, 0.0]],
    ],
)
def test_directions_that_cannot_be_compared_with_are_refused(direction):
    assert _bind([[1.0, 0.0], [0.0, 2.0]]).direction.shape == (2, 2)
    with pytest.raises(ArtifactFormatError):
        _bind(direction)


@pytest.mark.parametrize(("method", "type"), [("linear_probe", "cosine"), ("cosine", "linear_probe"), ("x", "x")])
def test_a_detector_reads_artifacts_of_its_own_type_only(method, type):  # noqa: A002
    assert isinstance(_bind([[1.0, 0.0], [0.0, 2.0]], binder=bind_probe), CosineProbe)
    with pytest.raises(ArtifactFormatError, match="another type"):
        _bind([[1.0, 0.0], [0.0, 2.0]], method=method, type=type, binder=bind_probe)
