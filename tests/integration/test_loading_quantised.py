"""8- and 4-bit weights of bitsandbytes on the CPU: guided by a variant of their own, refused by another's."""

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
    tokenizer,
)
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import steerguard
from steerguard.errors import IncompatibleModelError
from steerguard.testing import tiny_registry

pytestmark = pytest.mark.filterwarnings("ignore")
BATCH = prompts(8)
WIDTH = BATCH["input_ids"].shape[1]
KINDS = {
    "int8 by row": lambda: BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0),
    "fp4": lambda: BitsAndBytesConfig(load_in_4bit=True),
    "nf4": lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a saved model with float32 weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    fresh_model(hidden_size=64).save_pretrained(folder)
    return folder


def load(folder, quantised=None, dtype=torch.float32):
    named = {} if quantised is None else {"quantization_config": quantised, "device_map": "cpu"}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, **named)


def half_open(model, registry):
    with guarded(model, policy(0.0), registry=registry, mode="monitor") as wrapped, wrapped.guard.collect() as seen:
        run(wrapped, BATCH, max_new_tokens=1)
    scores = sorted(report.readings[0].score for report in seen)
    with guarded(model, policy((scores[3] + scores[4]) / 2), registry=registry) as wrapped:
        with wrapped.guard.collect() as reports:
            found = run(wrapped, BATCH)
        with pytest.raises(steerguard.SteerguardError, match="called directly"):
            wrapped(**BATCH)
    closed = [row for row, report in enumerate(reports) if report.intended == "allow"]
    assert len(closed) == 4
    assert [bool(report.doses) for report in reports] == [row not in closed for row in range(8)]
    assert all(dose.positions == dose.expected_positions > 0 for report in reports for dose in report.doses)
    return found, closed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_quantised_weights_are_guided_exactly_by_a_variant_of_their_own(kind, dtype, checkpoint, tmp_path):
    model = load(checkpoint, KINDS[kind](), dtype)
    assert type(model.get_decoder().layers[0].mlp.up_proj.weight) is not torch.nn.Parameter
    registry = tiny_registry(tmp_path / "registry", model, tokenizer())
    plain = run(model, BATCH)
    found, closed = half_open(model, registry)
    assert same_rows(closed, plain, found, WIDTH)
    assert all(not torch.equal(plain[1][0][row], found[1][0][row]) for row in set(range(8)) - set(closed))


def test_where_the_kernel_mixes_the_rows_of_a_batch_closed_rows_agree_within_tolerance(checkpoint, tmp_path):
    """bitsandbytes finds the outlier columns of its int8 product over all rows at once, so a neighbour moves a row."""
    model = load(checkpoint, BitsAndBytesConfig(load_in_8bit=True))
    registry = tiny_registry(tmp_path / "registry", model, tokenizer())
    plain = run(model, BATCH, max_new_tokens=1)
    found, closed = half_open(model, registry)
    gap = (plain[1][0][closed] - found[1][0][closed]).abs().max()
    assert gap < 0.1 * plain[1][0].abs().max()


@pytest.mark.parametrize("kind", ["fp4", "nf4"])
def test_artifacts_of_the_original_weights_are_refused_with_the_command_that_makes_a_variant(kind, checkpoint):
    model = load(checkpoint, KINDS[kind]())
    with pytest.raises(IncompatibleModelError, match="steerguard build"):
        steerguard.wrap(
            model, policy(), tokenizer=tokenizer(), registry=registry_for(load(checkpoint)), audit=memory_log()
        )
