"""Load the model that a command names: a folder, or the packaged demo model, in a given type of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from steerguard.errors import UnsupportedArchitectureError
from steerguard.models.names import PACKAGED

WEIGHT_TYPES: dict[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
"""Types of weights by their name in manifests and facts."""


def load_named_model(source: str, weights: str) -> tuple[Any, Any]:
    """Return the model, in eval mode on the CPU, and its tokenizer; nothing is downloaded and no remote code runs.

    Args:
        source: folder of a Hugging Face model, or `packaged:smollm2`.
        weights: a name of `WEIGHT_TYPES`.

    Raises:
        ContentError: the packaged model is not installed.
        UnsupportedArchitectureError: there is no such folder or type, or transformers cannot load it.
    """
    dtype = WEIGHT_TYPES.get(weights)
    if dtype is None:
        raise UnsupportedArchitectureError(
            "There is no such type of weights.", expected=", ".join(WEIGHT_TYPES), found=weights
        )
    if source == PACKAGED:
        from steerguard.models.packaged import load_packaged_smollm2  # noqa: PLC0415  needs the demo extra

        return load_packaged_smollm2(dtype)
    folder = Path(source)
    if not folder.is_dir():
        raise UnsupportedArchitectureError(
            "The model folder does not exist.", expected=f"a folder with config.json, or {PACKAGED}", found=source
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415  a second that a wrong path need not pay

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise UnsupportedArchitectureError(
            "The model cannot be loaded.",
            where=folder,
            expected="a saved causal language model with its tokenizer",
            found=type(error).__name__,
        ) from error
    return model.eval(), tokenizer
