"""Where the decoder blocks of a Hugging Face model are.

The way is always the same: `model.get_decoder()` and then one attribute of the decoder that holds the list of blocks.
Module names are never guessed: another attribute than `layers` is used only for the decoder classes listed here, and
for classes that the user declared with `steerguard.declare_blocks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from steerguard.errors import UnsupportedArchitectureError
from steerguard.models.declarations import declared_path

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
            next_step="no declaration helps: prompt and answer pass different blocks, which no method here is made for",
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
    start, attribute, where = _place(model, decoder)
    blocks = _at(start, attribute)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        raise UnsupportedArchitectureError(
            "The decoder blocks of this model cannot be reached",
            expected="a torch.nn.ModuleList with at least one block",
            found=type(blocks).__name__ if not isinstance(blocks, nn.ModuleList) else "an empty ModuleList",
            where=where,
            next_step=declaration(decoder),
        )
    declared = getattr(getattr(decoder, "config", None), "num_hidden_layers", len(blocks))
    if declared != len(blocks):
        raise UnsupportedArchitectureError(
            "The model runs another number of decoder blocks than it holds",
            expected=f"{declared} (config.num_hidden_layers)",
            found=len(blocks),
            where=where,
            next_step=declaration(decoder),
        )
    if len({id(block) for block in blocks}) != len(blocks):
        raise passed_again(where, "a shared block")
    return tuple(blocks)


def declaration(decoder: nn.Module) -> str:
    """Return the lines that declare where a decoder keeps its blocks, with the likeliest path filled in."""
    wanted = getattr(getattr(decoder, "config", None), "num_hidden_layers", None)
    lists = {name: len(module) for name, module in decoder.named_modules() if isinstance(module, nn.ModuleList)}
    likely = [name for name, length in lists.items() if name and length == wanted]
    path = likely[0] if likely else "path.to.the.blocks"
    return (
        "say where its ModuleList of decoder blocks is, once and before wrap:\n"
        "    import steerguard\n"
        f'    steerguard.declare_blocks("{type(decoder).__name__}", "{path}")'
    )


def passed_again(where: str, found: str) -> UnsupportedArchitectureError:
    """Return the error for a model whose tokens do not pass every block exactly once, in order."""
    return UnsupportedArchitectureError(
        "The model passes the same decoder block more than once, leaves one out or takes them in another order",
        expected="every block once, in the order of the list",
        found=found,
        where=where,
        next_step="no declaration helps unless another list holds blocks that every token passes once",
    )


def _place(model: PreTrainedModel, decoder: nn.Module) -> tuple[nn.Module, str, str]:
    """Return the object to start from, the path from there to the blocks, and words for both."""
    architecture, name = type(model).__name__, type(decoder).__name__
    declared = declared_path(name)
    if declared is None and (of_model := declared_path(architecture)) is not None:
        return model, of_model, f"model.{of_model} of {architecture}, as declared"
    attribute = declared or _BLOCK_LISTS.get(name, _DEFAULT_BLOCK_LIST)
    told = ", as declared" if declared else ""
    return decoder, attribute, f"model.get_decoder().{attribute} of {architecture} (decoder {name}){told}"


def _at(start: nn.Module, path: str) -> object:
    found: object = start
    for name in path.split("."):
        found = getattr(found, name, None)
    return found
