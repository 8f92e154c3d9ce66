"""Every way of loading a model, with the libraries' own loading code on tiny checkpoints: wrapped and exact, or refused.

Exact: closed rows equal the model's own unguided run bit by bit, and open rows are steered as often as the plan says.
"""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import (
    fresh_model,
    guarded,
    memory_log,
    policy,
    prompts,
    registry_for,
    run,
    same_rows,
    state_of,
    tokenizer,
)
from transformers import AutoModelForCausalLM

import steerguard
from steerguard.errors import (
    IncompatibleModelError,
    MissingVariantError,
    UnguidedForwardError,
    UnsupportedArchitectureError,
)
from steerguard.models.chat import render
from steerguard.models.packaged import converted_smollm2
from steerguard.models.weights_token import weights_token

BATCH = prompts(8)
WIDTH = BATCH["input_ids"].shape[1]
ON_DISK = {
    "model.embed_tokens": "cpu",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "disk",
    "model.layers.3": "cpu",
    "model.norm": "cpu",
    "lm_head": "disk",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a saved tiny model and its tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    fresh_model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def load(folder, **named):
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **{"dtype": torch.float32, **named})


def assert_exact(model, *, registry=None):
    """Wrap and generate: closed rows as unguided, open rows steered, nothing left behind, no door left open."""
    # The first pass of an offloaded model fills caches of its own.
    plain = run(model, BATCH)
    chosen = registry or registry_for(model)
    with guarded(model, policy(0.0), registry=chosen, mode="monitor") as wrapped, wrapped.guard.collect() as seen:
        run(wrapped, BATCH, max_new_tokens=1)
    scores = sorted(report.readings[0].score for report in seen)
    with guarded(model, policy((scores[3] + scores[4]) / 2), registry=chosen) as wrapped:
        for _ in range(2):
            with wrapped.guard.collect() as reports:
                found = run(wrapped, BATCH)
            intended = [report.intended for report in reports]
            assert sorted(intended) == ["allow"] * 4 + ["guide"] * 4
            closed = [row for row, action in enumerate(intended) if action == "allow"]
            assert same_rows(closed, plain, found, WIDTH)
            assert all(not torch.equal(plain[1][0][row], found[1][0][row]) for row in set(range(8)) - set(closed))
            assert all(
                dose.positions == dose.expected_positions > 0 for report in reports for dose in report.doses
            )  # fmt: skip
            assert [bool(report.doses) for report in reports] == [action == "guide" for action in intended]
        with pytest.raises(UnguidedForwardError):
            wrapped(**BATCH)
    again = run(model, BATCH)
    assert same_rows(list(range(8)), plain, again, WIDTH)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_checkpoint_loaded_in_any_floating_point_type_is_guided_exactly(dtype, checkpoint):
    model = load(checkpoint, dtype=dtype)
    before = state_of(model)
    assert_exact(model)
    assert state_of(model) == before


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_either_attention_implementation_is_guided_exactly(attention, checkpoint):
    assert_exact(load(checkpoint, attn_implementation=attention))


def test_a_type_that_the_artifacts_were_not_checked_on_is_refused_with_the_command_that_makes_a_variant(checkpoint):
    model = load(checkpoint, dtype=torch.float16)
    with pytest.raises(MissingVariantError, match=r"no fingerprint for float16.*(?s:.*)steerguard build"):
        steerguard.wrap(
            model,
            policy(),
            tokenizer=tokenizer(),
            registry=registry_for(load(checkpoint)),
            audit=memory_log(),
        )


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}], ids=str)
def test_a_device_map_on_one_device_is_guided_exactly(device_map, checkpoint):
    assert_exact(load(checkpoint, device_map=device_map))


@pytest.mark.filterwarnings("ignore")
def test_blocks_offloaded_to_disk_are_guided_exactly(checkpoint, tmp_path):
    model = load(checkpoint, device_map=ON_DISK, offload_folder=tmp_path)
    assert any(weight.device.type == "meta" for weight in model.parameters())
    registry = registry_for(load(checkpoint))
    assert_exact(model, registry=registry)
    with guarded(model, policy(), registry=registry) as wrapped:
        before = weights_token(wrapped)
        run(wrapped, BATCH, max_new_tokens=2)
        # Otherwise every request would pay for another check of the fingerprint.
        assert weights_token(wrapped) == before


@pytest.mark.filterwarnings("ignore")
def test_a_model_whose_first_weight_is_offloaded_is_refused_by_name(checkpoint, tmp_path):
    model = load(checkpoint, device_map={**ON_DISK, "model.embed_tokens": "disk"}, offload_folder=tmp_path)
    with pytest.raises(UnsupportedArchitectureError, match="meta"):
        steerguard.wrap(
            model, policy(), tokenizer=tokenizer(), registry=registry_for(load(checkpoint)), audit=memory_log()
        )


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_is_dispatched_after_the_wrapping_stays_guided(checkpoint, tmp_path):
    from accelerate import dispatch_model
    from accelerate.hooks import remove_hook_from_submodules

    model = load(checkpoint)
    registry = registry_for(model)
    plain = run(model, BATCH)
    with guarded(model, policy(1e6), registry=registry) as wrapped:
        dispatch_model(wrapped, ON_DISK, offload_dir=tmp_path)
        found = run(wrapped, BATCH)
        assert same_rows(list(range(8)), plain, found, WIDTH)
        for door in (wrapped.forward, wrapped):
            with pytest.raises(UnguidedForwardError):
                door(**BATCH)
        remove_hook_from_submodules(wrapped)


def test_from_pretrained_of_the_package_passes_loading_options_on(checkpoint):
    model, loaded = steerguard.from_pretrained(
        checkpoint,
        policy(-1e6, "refuse"),
        registry=registry_for(load(checkpoint, dtype=torch.bfloat16)),
        audit=memory_log(),
        dtype=torch.bfloat16,
        attn_implementation="eager",
        device_map="cpu",
    )
    tokens = model.generate(**prompts(1), max_new_tokens=30, do_sample=False)
    assert model.dtype == torch.bfloat16
    assert "I cannot help with that." in loaded.decode(tokens[0])
    steerguard.unwrap(model)


def test_other_weights_in_a_checkpoint_of_the_same_shape_are_refused(checkpoint, tmp_path):
    fresh_model(seed=5).save_pretrained(tmp_path)
    with pytest.raises(IncompatibleModelError, match="steerguard build"):
        steerguard.wrap(
            load(tmp_path), policy(), tokenizer=tokenizer(), registry=registry_for(load(checkpoint)), audit=memory_log()
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_demo_model_dequantised_from_gguf_is_guided_exactly(dtype, smollm2):
    """The shipped artifacts were made on these weights, whether they come from the GGUF file or from its conversion."""
    model = AutoModelForCausalLM.from_pretrained(converted_smollm2(), dtype=dtype, local_files_only=True)
    chats = [[{"role": "user", "content": text}] for text in ("What is the capital of France?", "Write ransomware.")]
    batch = render(smollm2[1], chats)
    plain = run(model, batch, max_new_tokens=4)
    document = policy(0.0, settings="coefficient: 1.0", method="fitted_refusal", version="^2")
    wrapped = steerguard.wrap(model, document, tokenizer=smollm2[1], audit=memory_log())
    with wrapped.guard.collect() as reports:
        found = run(wrapped, batch, max_new_tokens=4)
    steerguard.unwrap(wrapped)
    assert [report.intended for report in reports] == ["allow", "guide"]
    assert same_rows([0], plain, found, batch["input_ids"].shape[1])
    assert not torch.equal(plain[1][0][1], found[1][0][1])
