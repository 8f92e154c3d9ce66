from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from steerguard.errors import UnsupportedArchitectureError
from steerguard.models.digests import chat_template_sha256, tokenizer_sha256
from steerguard.models.inspect import inspect_model, text_tokenizer
from steerguard.testing import VOCAB_SIZE, tiny_model, tiny_tokenizer


def test_the_facts_of_a_text_model(chatml_tokenizer):
    facts = inspect_model(tiny_model("qwen2", num_blocks=3, dtype=torch.bfloat16), chatml_tokenizer)
    assert (facts.architecture, facts.decoder) == ("Qwen2ForCausalLM", "Qwen2Model")
    assert (facts.num_blocks, facts.hidden_size, facts.vocab_size) == (3, 32, VOCAB_SIZE)
    assert facts.modalities == ("text",)
    assert facts.dtype == "bfloat16"
    assert facts.tokenizer_sha256 == tokenizer_sha256(chatml_tokenizer)
    assert facts.chat_template_sha256 == chat_template_sha256(chatml_tokenizer)


def test_gpt2_states_its_width_under_another_name():
    assert inspect_model(tiny_model("gpt2", hidden_size=48), None).hidden_size == 48


def test_the_facts_of_a_multimodal_model_are_those_of_its_text_decoder(chatml_tokenizer):
    facts = inspect_model(tiny_model("llava", hidden_size=48), chatml_tokenizer)
    assert (facts.architecture, facts.decoder) == ("LlavaForConditionalGeneration", "LlamaModel")
    assert (facts.hidden_size, facts.num_blocks) == (48, 4)
    assert facts.modalities == ("image", "text")


@pytest.mark.parametrize(
    ("architecture", "modalities"),
    [
        # Its class inherits from the family that takes images.
        ("gemma3", ("text",)),
        ("gemma3_vision", ("image", "text")),
        ("idefics3", ("image", "text")),
        ("smolvlm", ("image", "text")),
        ("qwen2_5_vl", ("image", "text", "video")),
        ("qwen2_audio", ("audio", "text")),
    ],
)
def test_the_modalities_are_those_that_the_class_takes(architecture, modalities):
    assert inspect_model(tiny_model(architecture)).modalities == modalities


def test_audio_is_found_through_the_configuration(tiny_llama):
    tiny_llama.config.audio_config = {"hidden_size": 8}
    assert inspect_model(tiny_llama, None).modalities == ("audio", "text")


def test_without_a_tokenizer_there_are_no_digests(tiny_llama):
    facts = inspect_model(tiny_llama, None)
    assert facts.tokenizer_sha256 is None
    assert facts.chat_template_sha256 is None


def test_a_processor_stands_for_its_tokenizer(tiny_llama, chatml_tokenizer):
    processor = SimpleNamespace(tokenizer=chatml_tokenizer, chat_template=None)
    assert text_tokenizer(processor) is chatml_tokenizer
    assert inspect_model(tiny_llama, processor) == inspect_model(tiny_llama, chatml_tokenizer)


def test_the_template_of_the_processor_comes_before_that_of_its_tokenizer(tiny_llama, chatml_tokenizer):
    processor = SimpleNamespace(tokenizer=chatml_tokenizer, chat_template=tiny_tokenizer("llama3").chat_template)
    assert inspect_model(tiny_llama, processor).chat_template_sha256 == chat_template_sha256(processor)


def test_a_configuration_without_a_width_is_refused(tiny_llama):
    vars(tiny_llama.config)["hidden_size"] = None
    with pytest.raises(UnsupportedArchitectureError, match="width"):
        inspect_model(tiny_llama, None)


def test_the_facts_of_the_packaged_model(smollm2):
    facts = inspect_model(*smollm2)
    assert (facts.architecture, facts.decoder) == ("LlamaForCausalLM", "LlamaModel")
    assert (facts.num_blocks, facts.hidden_size, facts.vocab_size) == (30, 576, 49152)
    assert (facts.dtype, facts.modalities) == ("bfloat16", ("text",))
    assert facts.name == "SmolLM2-135M-Instruct"
