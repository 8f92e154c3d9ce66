from __future__ import annotations

from typing import get_args

import pytest
import torch

from steerguard.errors import NonFiniteHiddenStateError, UnsupportedArchitectureError
from steerguard.models.blocks import decoder_blocks
from steerguard.models.capture import capture_residuals, measure_fingerprint
from steerguard.models.chat import render
from steerguard.testing import Architecture, tiny_model

CHATS = [
    [{"role": "user", "content": text}]
    for text in ("Name a river", "Hi", "Why is the sky blue, and since when?", "Count to three", "Sing")
]
BLOCKS = (2, 0, 3)


def hooks_of(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def one_by_one(model, tokenizer):
    """The same states from plain forwards of one row, without padding, read by hooks of the test."""
    states = torch.empty(len(CHATS), len(BLOCKS), model.config.get_text_config().hidden_size)
    for row, chat in enumerate(CHATS):
        outputs = {}
        handles = [
            block.register_forward_hook(
                lambda _m, _a, output, number=number, outputs=outputs: outputs.update({number: output})
            )
            for number, block in enumerate(decoder_blocks(model))
        ]
        with torch.no_grad():
            model(**render(tokenizer, [chat]))
        for handle in handles:
            handle.remove()
        states[row] = torch.stack([outputs[number][0, -1] for number in BLOCKS])
    return states


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_batches_give_the_states_of_single_rows_in_the_order_given(architecture, batch_size, chatml_tokenizer):
    model = tiny_model(architecture)
    states = capture_residuals(model, chatml_tokenizer, CHATS, BLOCKS, batch_size=batch_size)
    assert states.dtype == torch.float32
    torch.testing.assert_close(states, one_by_one(model, chatml_tokenizer), rtol=2e-4, atol=2e-4)


def test_a_prefilled_answer_does_not_change_the_state_that_is_read(tiny_llama, chatml_tokenizer):
    prefills = ["Sure, here is", None, "Yes", None, "La la la la la la la la"]
    plain = capture_residuals(tiny_llama, chatml_tokenizer, CHATS, BLOCKS)
    with_prefills = capture_residuals(tiny_llama, chatml_tokenizer, CHATS, BLOCKS, prefills=prefills)
    torch.testing.assert_close(with_prefills, plain, rtol=1e-4, atol=1e-4)


def test_states_of_a_bfloat16_model_are_float32(chatml_tokenizer):
    model = tiny_model("llama", dtype=torch.bfloat16)
    assert capture_residuals(model, chatml_tokenizer, CHATS, BLOCKS).dtype == torch.float32


def test_a_block_may_be_asked_for_twice(tiny_llama, chatml_tokenizer):
    states = capture_residuals(tiny_llama, chatml_tokenizer, CHATS, (1, 1, 0))
    assert torch.equal(states[:, 0], states[:, 1])
    assert not torch.equal(states[:, 0], states[:, 2])


def test_blocks_behind_the_deepest_one_do_not_run(tiny_llama, chatml_tokenizer):
    ran = []
    tiny_llama.model.layers[2].register_forward_pre_hook(lambda *_: ran.append(2))
    capture_residuals(tiny_llama, chatml_tokenizer, CHATS, (0, 1))
    assert ran == []


def test_the_model_keeps_the_mode_of_every_module_and_no_hook_or_gradient(tiny_llama, chatml_tokenizer):
    tiny_llama.train()
    tiny_llama.model.layers[1].eval()
    modes = [module.training for module in tiny_llama.modules()]
    states = capture_residuals(tiny_llama, chatml_tokenizer, CHATS, BLOCKS)
    assert [module.training for module in tiny_llama.modules()] == modes
    assert hooks_of(tiny_llama) == 0
    assert not states.requires_grad
    assert all(parameter.grad is None for parameter in tiny_llama.parameters())


def test_nothing_stays_behind_when_a_forward_fails(tiny_llama, chatml_tokenizer):
    tiny_llama.train()

    def fail(*_):
        raise RuntimeError("broken block")

    handle = tiny_llama.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken block"):
        capture_residuals(tiny_llama, chatml_tokenizer, CHATS, BLOCKS)
    handle.remove()
    assert hooks_of(tiny_llama) == 0
    assert tiny_llama.training


def test_a_state_that_is_not_finite_is_an_error_that_names_block_and_conversation(tiny_llama, chatml_tokenizer):
    with torch.no_grad():
        tiny_llama.model.layers[2].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(NonFiniteHiddenStateError) as caught:
        capture_residuals(tiny_llama, chatml_tokenizer, CHATS[:1], (1, 2, 3))
    assert caught.value.where == "block 2, conversation 0"


@pytest.mark.parametrize("number", [-1, 4])
def test_a_block_that_does_not_exist_is_an_error(tiny_llama, chatml_tokenizer, number):
    with pytest.raises(UnsupportedArchitectureError, match="no such decoder block"):
        capture_residuals(tiny_llama, chatml_tokenizer, CHATS, (0, number))


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"position": "somewhere"}])
def test_options_out_of_range_are_errors(tiny_llama, chatml_tokenizer, options):
    with pytest.raises(ValueError, match="must be"):
        capture_residuals(tiny_llama, chatml_tokenizer, CHATS, BLOCKS, **options)


def test_no_conversations_give_an_empty_tensor(tiny_llama, chatml_tokenizer):
    assert capture_residuals(tiny_llama, chatml_tokenizer, [], BLOCKS).shape == (0, 3, 32)


def test_no_blocks_give_an_empty_tensor(tiny_llama, chatml_tokenizer):
    assert capture_residuals(tiny_llama, chatml_tokenizer, CHATS, ()).shape == (5, 0, 32)


def test_progress_is_reported_after_each_batch(tiny_llama, chatml_tokenizer):
    seen = []
    capture_residuals(
        tiny_llama,
        chatml_tokenizer,
        CHATS,
        BLOCKS,
        batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_a_fingerprint_has_unit_directions_that_separate_models(tiny_llama, chatml_tokenizer):
    one = measure_fingerprint(tiny_llama, chatml_tokenizer, (1, 2, 3), CHATS)
    other = measure_fingerprint(tiny_model("llama", seed=1), chatml_tokenizer, (1, 2, 3), CHATS)
    torch.testing.assert_close(one.norm(dim=-1), torch.ones(5, 3))
    assert float((1 - (one * other).sum(-1)).min()) > 0.1


def test_a_zero_state_has_no_fingerprint(tiny_llama, chatml_tokenizer):
    with torch.no_grad():
        for parameter in tiny_llama.parameters():
            parameter.zero_()
    with pytest.raises(NonFiniteHiddenStateError, match="no direction"):
        measure_fingerprint(tiny_llama, chatml_tokenizer, (1,), CHATS)


def test_the_fingerprint_of_the_packaged_model_holds_across_batch_shapes(smollm2):
    model, tokenizer = smollm2
    together = measure_fingerprint(model, tokenizer, (12, 18, 24), CHATS[:4])
    alone = torch.cat([measure_fingerprint(model, tokenizer, (12, 18, 24), [chat]) for chat in CHATS[:4]])
    assert float((1 - (together * alone).sum(-1)).max()) < 5e-4
