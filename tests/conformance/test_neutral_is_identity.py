"""Guarantee 1: a closed gate or a coefficient of zero gives exactly the unguided result of the same batch."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import (
    ALWAYS,
    ARCHITECTURES,
    answers,
    guarded,
    policy,
    prompts,
    registry_for,
    run,
    same_rows,
    shared_model,
    split_of,
    splitting_threshold,
    tokenizer,
)

from steerguard.errors import UnsupportedGenerationError
from steerguard.methods.catalog import METHODS
from steerguard.testing import tiny_model

SETTINGS = {
    "inferaligner": {
        "constant": (
            "coefficient: 4.0",
            "coefficient: 4.0, gate: per_block",
            "coefficient: 4.0, positions: last_prompt_token_and_decode",
            "coefficient: 4.0, positions: decode",
            "coefficient: 4.0, positions: prefill",
        ),
        "by_phase": ("coefficient: 4.0", "coefficient: 4.0, gate: per_block"),
        "by_step": ("coefficient: 4.0", "coefficient: 4.0, gate: per_block"),
    },
    "fitted_refusal": {
        "constant": ("coefficient: 4.0", "coefficient: 4.0, positions: decode"),
        "by_phase": ("coefficient: 4.0",),
        "by_step": ("coefficient: 4.0",),
    },
    "refusal_direction": {
        "constant": (
            "coefficient: 4.0",
            "coefficient: 4.0, positions: decode",
            "mode: ablate",
            "mode: ablate, blocks: [2]",
            "mode: ablate, coefficient: 0.5, positions: last_prompt_token_and_decode",
        ),
    },
    "rolling_guard": {
        "constant": (
            "threshold: {value: -1000000.0}, every: 2",
            "threshold: {fpr: 0.5}, every: 3, first: 2",
            "threshold: {value: 1000000.0}, every: 1",
        ),
    },
}
"""Settings under which every available method is run, by schedule of the artifact."""

CACHED_ONLY = ("rolling_guard",)
"""Methods that raise by name without a cache."""

EVERY_SETTING = [
    (method, schedule, text)
    for method, schedules in SETTINGS.items()
    for schedule, texts in schedules.items()
    for text in texts
]


def test_every_available_method_is_run():
    assert set(SETTINGS) == {method.name for method in METHODS if not method.searches}


def _closed_rows(reports):
    return [report.row for report in reports if report.intended == "allow"]


def _compare(model, document, batch, *, registry=None, **settings):
    plain = run(model, batch, **settings)
    with guarded(model, document, registry=registry) as wrapped, wrapped.guard.collect() as reports:
        steered = run(wrapped, batch, **settings)
    return plain, steered, reports


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_closed_rows_equal_the_unguided_run_bit_by_bit_beside_open_ones(architecture, dtype):
    model = shared_model(architecture, dtype)
    batch = prompts(8)
    document = policy(splitting_threshold(architecture, dtype))
    for settings in ({}, {"do_sample": True, "temperature": 1.3, "top_p": 0.9}):
        plain, steered, reports = _compare(model, document, batch, **settings)
        closed = _closed_rows(reports)
        assert 0 < len(closed) < 8
        assert same_rows(closed, plain, steered, batch["input_ids"].shape[1])
        opened = [row for row in range(8) if row not in closed]
        assert all(not torch.equal(plain[1][0][row], steered[1][0][row]) for row in opened)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("rows", [1, 2, 5, 17, 32])
def test_closed_rows_are_identical_at_every_batch_size_and_padding_side(rows, side):
    model = shared_model("llama")
    batch = prompts(rows, side)
    threshold = split_of(model, rows, side) if rows > 1 else 1e6
    plain, steered, reports = _compare(model, policy(threshold), batch)
    closed = _closed_rows(reports)
    assert closed
    assert rows == 1 or len(closed) < rows
    assert same_rows(closed, plain, steered, batch["input_ids"].shape[1])


@pytest.mark.parametrize(("method", "schedule", "settings"), EVERY_SETTING)
@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
def test_closed_rows_are_identical_whatever_the_settings_of_the_method(method, schedule, settings, use_cache):
    model = shared_model("qwen2")
    batch = prompts(8)
    document = policy(splitting_threshold("qwen2"), method=method, settings=settings)
    registry = registry_for(model, schedule=schedule)
    if method in CACHED_ONLY and not use_cache:
        with pytest.raises(UnsupportedGenerationError, match="use_cache"):
            _compare(model, document, batch, registry=registry, use_cache=use_cache)
        return
    plain, steered, reports = _compare(model, document, batch, registry=registry, use_cache=use_cache)
    closed = _closed_rows(reports)
    assert 0 < len(closed) < 8
    assert same_rows(closed, plain, steered, batch["input_ids"].shape[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi", "mixtral"])
def test_coefficient_zero_is_the_unguided_run_bit_by_bit(architecture, dtype):
    model = shared_model(architecture, dtype)
    batch = prompts(6)
    document = policy(rules=ALWAYS, detector=False, settings="coefficient: 0.0")
    for settings in ({}, {"do_sample": True}, {"use_cache": False}):
        plain, steered, reports = _compare(model, document, batch, **settings)
        assert torch.equal(plain[0], steered[0])
        assert len(plain[1]) == len(steered[1])
        assert same_rows(list(range(6)), plain, steered, batch["input_ids"].shape[1])
        assert [report.intended for report in reports] == ["guide"] * 6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_of_closed_rows_decodes_without_a_single_hook(architecture):
    model = shared_model(architecture)
    batch = prompts(4)
    plain = run(model, batch)
    with guarded(model, policy(1e6)) as wrapped:
        seen = []
        steered = run(wrapped, batch, act=lambda _step: seen.append(wrapped.guard.hooked_blocks))
        assert wrapped.guard.hooked_blocks == ()
    assert len(seen) > 1
    assert set(seen) == {()}
    assert torch.equal(plain[0], steered[0])
    assert all(torch.equal(one, other) for one, other in zip(plain[1], steered[1], strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {"stop_strings": ["mo", "assi"], "tokenizer": tokenizer()},
        {"prefix_allowed_tokens_fn": lambda _row, _ids: [5, 6, 7, 40, 50]},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"min_new_tokens": 12, "suppress_tokens": [60]},
        {"max_time": 60.0},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_closed_rows_are_identical_under_the_callers_own_processors_and_criteria(settings):
    batch = prompts(8)
    plain, steered, reports = _compare(shared_model(), policy(splitting_threshold()), batch, **settings)
    closed = _closed_rows(reports)
    assert 0 < len(closed) < 8
    assert same_rows(closed, plain, steered, batch["input_ids"].shape[1])


def test_closed_rows_are_identical_under_autocast():
    batch = prompts(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, steered, reports = _compare(shared_model(), policy(splitting_threshold()), batch)
    closed = _closed_rows(reports)
    assert 0 < len(closed) < 8
    assert same_rows(closed, plain, steered, batch["input_ids"].shape[1])


def test_with_an_expert_kernel_that_mixes_rows_closed_rows_agree_within_tolerance():
    model = tiny_model("mixtral")
    batch = prompts(8)
    plain, steered, reports = _compare(model, policy(split_of(model)), batch)
    closed = _closed_rows(reports)
    assert 0 < len(closed) < 8
    for one, other in zip(plain[1], steered[1], strict=False):
        assert (one[closed] - other[closed]).abs().max() < 1e-4


def test_open_rows_keep_hooks_on_the_steered_blocks_only():
    with guarded(shared_model(), policy(-1e6)) as wrapped:
        seen = []
        run(wrapped, prompts(4), act=lambda _step: seen.append(wrapped.guard.hooked_blocks))
        assert wrapped.guard.hooked_blocks == ()
    assert set(seen) == {(1, 2)}


def test_positions_prefill_leaves_no_hooks_for_decode():
    with guarded(shared_model(), policy(-1e6, settings="coefficient: 4.0, positions: prefill")) as wrapped:
        seen = []
        run(wrapped, prompts(4), act=lambda _step: seen.append(wrapped.guard.hooked_blocks))
    assert set(seen) == {()}


def test_the_same_seed_gives_the_same_guided_samples():
    batch = prompts(8)
    with guarded(shared_model(), policy(splitting_threshold())) as wrapped:
        first, again = (run(wrapped, batch, do_sample=True, seed=3) for _ in range(2))
        other = run(wrapped, batch, do_sample=True, seed=4)
    assert torch.equal(first[0], again[0])
    assert answers(first[0], batch["input_ids"].shape[1]) != answers(other[0], batch["input_ids"].shape[1])
