"""Facts of a model folder from its configuration and tokenizer: the weights are not read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import transformers

from steerguard.errors import UnsupportedArchitectureError
from steerguard.models.inspect import inspect_model

if TYPE_CHECKING:
    from pathlib import Path

    from steerguard.models.facts import ModelFacts


def facts_of_folder(folder: Path) -> ModelFacts:
    """Return what `inspect_model` would say of the model in a folder once it is loaded in its stored type.

    Args:
        folder: a folder with `config.json` and a tokenizer, as `save_pretrained` writes them.

    Raises:
        UnsupportedArchitectureError: the folder holds no readable configuration or tokenizer, or a class that
            transformers does not have.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UnsupportedArchitectureError(
            "The folder holds no readable model configuration and tokenizer.",
            expected="config.json and tokenizer files as save_pretrained writes them",
            found=type(error).__name__,
            where=folder,
            next_step="Pass the folder of a saved Hugging Face model.",
        ) from error
    name = (config.architectures or [""])[0]
    architecture = getattr(transformers, name, None) if name else None
    if architecture is None:
        raise UnsupportedArchitectureError(
            "transformers has no class of that name.",
            expected="a class of transformers in `architectures`",
            found=name or "none",
            where=folder / "config.json",
        )
    # On the meta device a model has its modules and no memory.
    with torch.device("meta"):
        model = architecture._from_config(config, dtype=config.dtype or torch.float32)  # noqa: SLF001 - as Auto classes do
    return inspect_model(model, tokenizer)
