from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from steerguard.errors import UnsupportedArchitectureError
from steerguard.models.blocks import decoder_blocks, text_decoder
from steerguard.testing import Architecture, tiny_model

BLOCK_CLASSES = {
    "llama": "LlamaDecoderLayer",
    "qwen2": "Qwen2DecoderLayer",
    "gemma": "GemmaDecoderLayer",
    "gpt2": "GPT2Block",
    "mistral": "MistralDecoderLayer",
    "phi": "PhiDecoderLayer",
    "mixtral": "MixtralDecoderLayer",
    "qwen3": "Qwen3DecoderLayer",
    "gemma2": "Gemma2DecoderLayer",
    "gemma3": "Gemma3DecoderLayer",
    "gpt_neox": "GPTNeoXLayer",
    "olmoe": "OlmoeDecoderLayer",
    "qwen3_next": "Qwen3NextDecoderLayer",
    "lfm2": "Lfm2DecoderLayer",
    "falcon_mamba": "FalconMambaBlock",
    "llava": "LlamaDecoderLayer",
    "idefics3": "LlamaDecoderLayer",
    "smolvlm": "LlamaDecoderLayer",
    "qwen2_5_vl": "Qwen2_5_VLDecoderLayer",
    "gemma3_vision": "Gemma3DecoderLayer",
    "qwen2_audio": "Qwen2DecoderLayer",
}


def test_every_tiny_architecture_is_named_here():
    assert set(BLOCK_CLASSES) == set(get_args(Architecture))


@pytest.mark.parametrize("architecture", BLOCK_CLASSES)
def test_the_blocks_are_reached_in_every_supported_architecture(architecture):
    blocks = decoder_blocks(tiny_model(architecture, num_blocks=3))
    assert [type(block).__name__ for block in blocks] == [BLOCK_CLASSES[architecture]] * 3


@pytest.mark.parametrize("architecture", BLOCK_CLASSES)
def test_blocks_are_passed_in_order_and_return_the_residual_stream(architecture):
    model = tiny_model(architecture)
    seen = []
    for number, block in enumerate(decoder_blocks(model)):
        block.register_forward_hook(lambda _m, _a, output, number=number: seen.append((number, output)))
    ids = torch.tensor([[1, 20, 30, 40, 50]])
    with torch.no_grad():
        hidden = text_decoder(model)(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    assert [number for number, _ in seen] == [0, 1, 2, 3]
    # Most classes list the embedding first; this one begins with the first block.
    first = 0 if architecture == "falcon_mamba" else 1
    for number, output in seen[:-1]:
        assert torch.equal(output, hidden[number + first])


def test_the_decoder_of_a_bare_decoder_is_itself(tiny_llama):
    decoder = tiny_llama.get_decoder()
    assert text_decoder(decoder) is decoder
    assert decoder_blocks(decoder) == decoder_blocks(tiny_llama)


def test_an_encoder_decoder_is_refused():
    config = T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    with pytest.raises(UnsupportedArchitectureError, match="encoder-decoder"):
        decoder_blocks(T5ForConditionalGeneration(config))


def test_an_unknown_shape_is_refused_and_the_message_says_where_it_looked():
    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    with pytest.raises(UnsupportedArchitectureError) as caught:
        decoder_blocks(BertModel(config))
    assert "get_decoder().layers of BertModel (decoder BertModel)" in str(caught.value.where)


def test_a_plain_module_is_refused():
    with pytest.raises(UnsupportedArchitectureError, match="get_decoder"):
        decoder_blocks(nn.Linear(2, 2))


def test_an_empty_block_list_is_refused(tiny_llama):
    tiny_llama.model.layers = nn.ModuleList()
    with pytest.raises(UnsupportedArchitectureError) as caught:
        decoder_blocks(tiny_llama)
    assert caught.value.found == "an empty ModuleList"


def test_a_shared_block_is_refused(tiny_llama):
    tiny_llama.model.layers[2] = tiny_llama.model.layers[1]
    with pytest.raises(UnsupportedArchitectureError, match="more than once"):
        decoder_blocks(tiny_llama)


def test_blocks_that_the_forward_would_skip_are_refused(tiny_llama):
    tiny_llama.config.num_hidden_layers = 2
    with pytest.raises(UnsupportedArchitectureError, match="another number"):
        decoder_blocks(tiny_llama)
