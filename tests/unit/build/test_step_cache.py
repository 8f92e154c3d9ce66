"""Cached steps: whole or absent, and never taken for another."""

from __future__ import annotations

import pytest
import torch

from steerguard.build.step_cache import StepCache
from steerguard.errors import BuildError


def test_a_stored_step_is_not_computed_again(tmp_path):
    StepCache(tmp_path).run("step", {"seed": 1}, lambda: {"x": torch.ones(2)})
    again = StepCache(tmp_path)
    result = again.run("step", {"seed": 1}, _fails)
    assert torch.equal(result["x"], torch.ones(2))
    assert again.reused == ["step"]


@pytest.mark.parametrize(("name", "seed"), [("step", 2), ("other", 1)])
def test_other_inputs_or_names_are_other_steps(tmp_path, name, seed):
    StepCache(tmp_path).run("step", {"seed": 1}, lambda: {"x": torch.ones(2)})
    result = StepCache(tmp_path).run(name, {"seed": seed}, lambda: {"x": torch.zeros(2)})
    assert not result["x"].any()


def test_a_step_that_fails_stores_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        StepCache(tmp_path).run("step", {}, _fails)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_an_error_that_names_it(tmp_path):
    StepCache(tmp_path).run("step", {}, lambda: {"x": torch.ones(2)})
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"short")
    with pytest.raises(BuildError) as caught:
        StepCache(tmp_path).run("step", {}, _fails)
    assert caught.value.where == file


def _fails():
    raise RuntimeError
