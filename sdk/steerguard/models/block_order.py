"""Proof that a model's decoder blocks are what the engine takes them for: one token passes each once and in order."""

from __future__ import annotations

import inspect as signatures
from typing import TYPE_CHECKING, Any

import torch

from steerguard.errors import UnsupportedArchitectureError
from steerguard.models.blocks import declaration, decoder_blocks, passed_again, text_decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_block_order(model: PreTrainedModel) -> None:
    """Send one token through the text decoder and watch its blocks.

    The model is left as it was; it should be in eval mode.

    Raises:
        UnsupportedArchitectureError: a block ran never or twice, or in another order, or does not return the
            residual stream.
    """
    decoder, blocks = text_decoder(model), decoder_blocks(model)
    passed: list[int] = []
    shapes: set[tuple[int, ...]] = set()
    where = f"decoder {type(decoder).__name__}"

    def watch(number: int) -> Any:
        def note(_module: torch.nn.Module, _arguments: Any, output: Any) -> None:
            state = output[0] if isinstance(output, tuple) and output else output
            passed.append(number)
            shapes.add(tuple(state.shape) if isinstance(state, torch.Tensor) else ())

        return note

    handles = []
    try:
        handles += [block.register_forward_hook(watch(number)) for number, block in enumerate(blocks)]
        with torch.no_grad():
            decoder(**_one_token(decoder, model.device))
    finally:
        for handle in handles:
            handle.remove()
    if passed != list(range(len(blocks))):
        raise passed_again(where, f"{len(passed)} passes through {len(set(passed))} of {len(blocks)} blocks")
    width = int(model.config.get_text_config(decoder=True).hidden_size)
    if shapes != {(1, 1, width)}:
        raise UnsupportedArchitectureError(
            "A decoder block of this model does not return the residual stream",
            expected=f"outputs of shape {(1, 1, width)} for one token",
            found=", ".join(map(str, sorted(shapes))),
            where=where,
            next_step=declaration(decoder),
        )


def _one_token(decoder: torch.nn.Module, device: torch.device) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "input_ids": torch.zeros((1, 1), dtype=torch.int64, device=device),
        "attention_mask": torch.ones((1, 1), dtype=torch.int64, device=device),
        "use_cache": False,
    }
    if "position_ids" in signatures.signature(decoder.forward).parameters:
        arguments["position_ids"] = torch.zeros((1, 1), dtype=torch.int64, device=device)
    return arguments
