"""The sound encoder of Whisper is read from the binary format that the package of its weights uses."""

from __future__ import annotations

import struct

import pytest
import torch
from benchmarks.whisper_encoder import weights_file, whisper_encoder
from transformers import Qwen2AudioEncoder, Qwen2AudioEncoderConfig

WIDTH, HEADS, LAYERS = 8, 2, 2
HALF, INT16 = 4, 2


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    config = Qwen2AudioEncoderConfig(
        num_mel_bins=4,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        encoder_ffn_dim=2 * WIDTH,
        max_source_positions=6,
    )
    model = Qwen2AudioEncoder(config).half().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def _file(path, model, *, version=6, left_out=()):
    """Write a model as CTranslate2 does: queries, keys and values joined, and names of its own."""
    state = model.state_dict()
    tensors = {
        "decoder/embeddings/weight": torch.zeros(3, WIDTH).half(),
        "encoder/num_heads": torch.tensor(HEADS, dtype=torch.int16),
        "encoder/position_encodings/encodings": state["embed_positions.weight"],
        **{f"encoder/conv{i}/{end}": state[f"conv{i}.{end}"] for i in (1, 2) for end in ("weight", "bias")},
        **_norm("encoder/layer_norm", state, "layer_norm"),
    }
    for layer in range(LAYERS):
        ours, theirs = f"layers.{layer}", f"encoder/layer_{layer}"
        tensors |= _norm(f"{theirs}/self_attention/layer_norm", state, f"{ours}.self_attn_layer_norm")
        tensors |= _norm(f"{theirs}/ffn/layer_norm", state, f"{ours}.final_layer_norm")
        for end in ("weight", "bias"):
            parts = [state.get(f"{ours}.self_attn.{part}_proj.{end}", torch.zeros(WIDTH).half()) for part in "qkv"]
            tensors[f"{theirs}/self_attention/linear_0/{end}"] = torch.cat(parts)
            tensors[f"{theirs}/self_attention/linear_1/{end}"] = state[f"{ours}.self_attn.out_proj.{end}"]
            tensors[f"{theirs}/ffn/linear_0/{end}"] = state[f"{ours}.fc1.{end}"]
            tensors[f"{theirs}/ffn/linear_1/{end}"] = state[f"{ours}.fc2.{end}"]
    kept = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    with path.open("wb") as file:
        file.write(struct.pack("<I", version) + _name("WhisperSpec") + struct.pack("<II", 3, len(kept)))
        for name, tensor in kept.items():
            content = tensor.contiguous().numpy().tobytes()
            kind = INT16 if tensor.dtype == torch.int16 else HALF
            file.write(_name(name) + struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape))
            file.write(struct.pack("<BI", kind, len(content)) + content)
    return path


def _norm(theirs, state, ours):
    return {f"{theirs}/gamma": state[f"{ours}.weight"], f"{theirs}/beta": state[f"{ours}.bias"]}


def _name(text):
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def test_the_encoder_that_was_written_is_read_again(encoder, tmp_path):
    found = whisper_encoder(_file(tmp_path / "model.bin", encoder))
    assert (found.dtype, found.training) == (torch.float32, False)
    assert found.config.encoder_attention_heads == HEADS
    expected = encoder.float().state_dict()
    assert set(found.state_dict()) == set(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())


@pytest.mark.parametrize("name", ["encoder/conv2/bias", "encoder/layer_1/ffn/linear_1/weight"])
def test_a_file_without_a_tensor_of_the_encoder_is_refused(encoder, tmp_path, name):
    with pytest.raises(ValueError, match="does not fit the encoder: missing"):
        whisper_encoder(_file(tmp_path / "model.bin", encoder, left_out=[name]))


def test_another_format_is_refused(encoder, tmp_path):
    with pytest.raises(ValueError, match="format 5 instead of 6"):
        whisper_encoder(_file(tmp_path / "model.bin", encoder, version=5))


def test_without_the_package_there_is_no_file(monkeypatch):
    monkeypatch.setattr("benchmarks.whisper_encoder.DISTRIBUTION", "no-such-distribution-of-weights")
    assert weights_file() is None
