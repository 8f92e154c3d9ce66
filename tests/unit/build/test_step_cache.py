"""Cached steps: whole or absent, and never taken for another."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from steerguard.build import step_cache
from steerguard.build.step_cache import StepCache, made_with
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


@pytest.mark.parametrize("library", ["torch", "transformers", "numpy", "scikit-learn"])
def test_another_version_of_a_library_is_another_step(tmp_path, monkeypatch, library):
    StepCache(tmp_path).run("step", {}, lambda: {"x": torch.ones(2)})
    monkeypatch.setattr(step_cache, "version", lambda name: "0.0" if name == library else version(name))
    assert not StepCache(tmp_path).run("step", {}, lambda: {"x": torch.zeros(2)})["x"].any()


def test_another_version_of_this_package_is_another_step(tmp_path, monkeypatch):
    StepCache(tmp_path).run("step", {}, lambda: {"x": torch.ones(2)})
    monkeypatch.setattr(step_cache, "__version__", "9.9.9")
    assert not StepCache(tmp_path).run("step", {}, lambda: {"x": torch.zeros(2)})["x"].any()


def test_another_thread_count_is_another_step(tmp_path):
    StepCache(tmp_path).run("step", {}, lambda: {"x": torch.ones(2)})
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        result = StepCache(tmp_path).run("step", {}, lambda: {"x": torch.zeros(2)})
    finally:
        torch.set_num_threads(threads)
    assert not result["x"].any()


def test_a_library_that_is_not_installed_has_no_version(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    assert made_with()["libraries"]["torch"] == version("torch")
    monkeypatch.setattr(step_cache, "version", missing)
    assert set(made_with()["libraries"].values()) == {None}


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


def test_of_two_builds_side_by_side_one_computes_and_the_other_reads(tmp_path):
    began, computed = threading.Event(), []

    def slow():
        began.set()
        computed.append(1)
        # The other build comes while this one computes.
        threading.Event().wait(0.3)
        return {"x": torch.ones(2)}

    first, second = StepCache(tmp_path), StepCache(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first.run, "step", {}, slow)
        assert began.wait(5)
        other = pool.submit(second.run, "step", {}, slow)
        assert torch.equal(one.result()["x"], other.result()["x"])
    assert len(computed) == 1
    assert (first.reused, second.reused) == ([], ["step"])


def test_a_step_that_failed_leaves_the_next_build_free(tmp_path):
    with pytest.raises(ZeroDivisionError):
        StepCache(tmp_path).run("step", {}, lambda: {"x": torch.ones(1) / (1 // 0)})
    assert StepCache(tmp_path).run("step", {}, lambda: {"x": torch.ones(2)})["x"].all()
