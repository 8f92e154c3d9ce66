"""Where the decoder blocks of a Hugging Face model are.

The way is always the same: `model.get_decoder()` and then one attribute of the decoder that holds the list of blocks.
Module names are never guessed: an attribute other than `layers` is used only for the decoder classes declared here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from steerguard.errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DEFAULT_BLOCK_LIST = "layers"

_BLOCK_LISTS = {
    "BloomModel": "h",
    "CodeGenModel": "h",
    "FalconModel": "h",
    "GPT2Model": "h",
    "GPTBigCodeModel": "h",
    "GPTJModel": "h",
    "GPTNeoModel": "h",
    "MptModel": "blocks",
}
"""Decoder classes whose list of blocks is not called `layers`."""


def text_decoder(model: PreTrainedModel) -> nn.Module:
    """Return the module that maps text token ids to the residual stream, through `get_decoder()`.

    Args:
        model: a decoder-only model, or a multimodal model around one.

    Returns:
        The text decoder, for example the `LlamaModel` inside a `LlavaForConditionalGeneration`.

    Raises:
        UnsupportedArchitectureError: the model is an encoder-decoder or has no `get_decoder`.
    """
    architecture = type(model).__name__
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedArchitectureError(
            f"{architecture} is an encoder-decoder model",
            expected="a decoder-only language model, or a multimodal model around one",
            found="config.is_encoder_decoder is true",
            where="model",
        )
    get_decoder = getattr(model, "get_decoder", None)
    if not callable(get_decoder):
        raise UnsupportedArchitectureError(
            f"{architecture} has no get_decoder method",
            expected="a transformers model",
            found=architecture,
            where="model",
            next_step="pass the object that AutoModelForCausalLM.from_pretrained returned",
        )
    decoder = get_decoder()
    if not isinstance(decoder, nn.Module):
        raise UnsupportedArchitectureError(
            f"get_decoder of {architecture} does not return a module",
            expected="torch.nn.Module",
            found=type(decoder).__name__,
            where="model.get_decoder()",
        )
    return decoder


def decoder_blocks(model: PreTrainedModel) -> tuple[nn.Module, ...]:
    """Return the decoder blocks in the order in which a token passes them.

    `resid_post` of block `i` is the output of entry `i` (0-based).

    Args:
        model: a decoder-only model, or a multimodal model around one.

    Returns:
        One module per block, at least one, all different objects.

    Raises:
        UnsupportedArchitectureError: the blocks cannot be reached in a declared way.
    """
    decoder = text_decoder(model)
    name = type(decoder).__name__
    attribute = _BLOCK_LISTS.get(name, _DEFAULT_BLOCK_LIST)
    where = f"model.get_decoder().{attribute} of {type(model).__name__} (decoder {name})"
    blocks = getattr(decoder, attribute, None)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        raise UnsupportedArchitectureError(
            "The decoder blocks of this model cannot be reached",
            expected="a torch.nn.ModuleList with at least one block",
            found=type(blocks).__name__ if not isinstance(blocks, nn.ModuleList) else "an empty ModuleList",
            where=where,
            next_step="use a model class that docs/architecture.md lists under `Which models`",
        )
    declared = getattr(getattr(decoder, "config", None), "num_hidden_layers", len(blocks))
    if declared != len(blocks):
        raise UnsupportedArchitectureError(
            "The model runs another number of decoder blocks than it holds",
            expected=f"{declared} (config.num_hidden_layers)",
            found=len(blocks),
            where=where,
        )
    if len({id(block) for block in blocks}) != len(blocks):
        raise UnsupportedArchitectureError(
            "The model passes the same decoder block more than once",
            expected="one module object per block",
            found="a shared block",
            where=where,
        )
    return tuple(blocks)
