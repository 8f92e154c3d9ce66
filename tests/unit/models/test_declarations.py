"""Model classes that the engine does not know: refused with the lines that declare them, run once declared."""

from __future__ import annotations

import threading

import pytest
import torch
from tests.custom_models import homemade_model
from tests.guarded_models import guarded, policy, prompts, run, same_rows, split_of, tokenizer
from transformers import T5Config, T5ForConditionalGeneration

import steerguard
from steerguard.errors import UnsupportedArchitectureError
from steerguard.models.block_order import check_block_order
from steerguard.models.blocks import decoder_blocks
from steerguard.models.capture import measure_fingerprint
from steerguard.testing import tiny_model


def test_an_unknown_class_is_refused_with_the_lines_that_declare_it():
    model = homemade_model("UnknownDecoder")
    with pytest.raises(UnsupportedArchitectureError) as caught:
        steerguard.wrap(model, policy(), tokenizer=tokenizer())
    assert caught.value.next_step.splitlines()[1:] == [
        "    import steerguard",
        '    steerguard.declare_blocks("UnknownDecoder", "trunk.stages")',
    ]


def test_the_printed_lines_make_the_model_run_with_bit_identical_closed_rows():
    model = homemade_model("PrintedDecoder")
    with pytest.raises(UnsupportedArchitectureError) as caught:
        decoder_blocks(model)
    lines = [line.strip() for line in caught.value.next_step.splitlines()[1:]]
    exec("\n".join(lines), {})  # noqa: S102 - what the message tells a reader to run
    assert decoder_blocks(model) == tuple(model.decoder.trunk["stages"])
    batch = prompts(8)
    plain = run(model, batch)
    with guarded(model, policy(split_of(model))) as wrapped, wrapped.guard.collect() as reports:
        guided = run(wrapped, batch)
    closed = [report.row for report in reports if report.intended == "allow"]
    assert len(closed) == 4
    assert same_rows(closed, plain, guided, batch["input_ids"].shape[1])
    assert all(bool(report.doses) == (report.row not in closed) for report in reports)


def test_a_declaration_may_name_the_whole_model():
    model = homemade_model("WholeDecoder")
    steerguard.declare_blocks("WholeDecoderForCausalLM", "decoder.trunk.stages")
    assert len(decoder_blocks(model)) == 4
    check_block_order(model)


def test_a_second_equal_declaration_does_nothing_and_another_one_raises():
    steerguard.declare_blocks("TwiceDeclared", "a.b")
    steerguard.declare_blocks("TwiceDeclared", "a.b")
    with pytest.raises(UnsupportedArchitectureError, match="declared otherwise"):
        steerguard.declare_blocks("TwiceDeclared", "a.c")


@pytest.mark.parametrize("path", ["", "a..b", ".a", "a b", "a.", "a()"])
def test_a_malformed_path_is_refused(path):
    with pytest.raises(UnsupportedArchitectureError, match="malformed"):
        steerguard.declare_blocks("MalformedPath", path)


@pytest.mark.parametrize("name", ["", "a.B", "3D", "Two words"])
def test_a_malformed_name_is_refused(name):
    with pytest.raises(UnsupportedArchitectureError, match="identifier"):
        steerguard.declare_blocks(name, "layers")


def test_of_many_threads_that_declare_one_class_differently_exactly_one_wins():
    start, outcomes = threading.Barrier(8), []

    def declare(number):
        start.wait(timeout=10)
        try:
            steerguard.declare_blocks("ContestedDecoder", f"path{number}")
        except UnsupportedArchitectureError:
            outcomes.append("refused")
        else:
            outcomes.append("declared")

    threads = [threading.Thread(target=declare, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert sorted(outcomes) == ["declared"] + ["refused"] * 7


def test_a_declared_path_that_leads_nowhere_is_refused_with_its_place():
    model = homemade_model("NowhereDecoder")
    steerguard.declare_blocks("NowhereDecoder", "trunk.steps")
    with pytest.raises(UnsupportedArchitectureError) as caught:
        decoder_blocks(model)
    assert "trunk.steps" in caught.value.where
    assert "as declared" in caught.value.where


def test_a_declared_list_of_parts_of_blocks_is_found_out():
    model = homemade_model("PartsDecoder")
    model.decoder.parts = torch.nn.ModuleList(torch.nn.Identity() for _ in range(4))
    steerguard.declare_blocks("PartsDecoder", "parts")
    with pytest.raises(UnsupportedArchitectureError, match="more than once, leaves one out"):
        check_block_order(model)
    model.decoder.parts = torch.nn.ModuleList(stage.mix for stage in reversed(model.decoder.trunk["stages"]))
    with pytest.raises(UnsupportedArchitectureError, match="another order"):
        check_block_order(model)


def test_a_declared_list_whose_outputs_are_no_residual_stream_is_found_out():
    model = tiny_model("qwen2")
    parts = [layer.mlp.gate_proj for layer in model.model.layers]
    model.model.narrow = torch.nn.ModuleList(parts)
    model.model.__class__ = type("NarrowDecoder", (type(model.model),), {})
    steerguard.declare_blocks("NarrowDecoder", "narrow")
    with pytest.raises(UnsupportedArchitectureError, match="does not return the residual stream"):
        check_block_order(model)


def test_a_decoder_that_passes_its_blocks_twice_is_refused_by_wrap():
    name = "LoopedDecoder"
    steerguard.declare_blocks(name, "trunk.stages")
    straight, looped = homemade_model(name), homemade_model(name, passes=2)
    check_block_order(straight)
    with pytest.raises(UnsupportedArchitectureError, match="more than once") as caught:
        measure_fingerprint(looped, tokenizer(), [3], [[{"role": "user", "content": "hello"}]])
    assert caught.value.found == "8 passes through 4 of 4 blocks"
    with pytest.raises(UnsupportedArchitectureError, match="more than once"), guarded(looped, policy()):
        pass


def test_the_check_of_the_order_leaves_no_hook():
    model = tiny_model("llama")
    model.model.layers[2].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("in a block")))
    with pytest.raises(RuntimeError, match="in a block"):
        check_block_order(model)
    assert not any(layer._forward_hooks for layer in model.model.layers)


def test_an_encoder_decoder_is_refused_and_told_that_no_declaration_helps():
    config = T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    with pytest.raises(UnsupportedArchitectureError) as caught:
        decoder_blocks(T5ForConditionalGeneration(config))
    assert caught.value.next_step.startswith("no declaration helps")
