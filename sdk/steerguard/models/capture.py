"""Read residual states off a model, for building artifacts and fingerprints.

A state is the one at the end of the generation prompt, or the mean over the prompt; one pass reads both.
"""

from __future__ import annotations

import inspect as signatures
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn

from steerguard.artifacts.probe_params import Over
from steerguard.errors import NonFiniteHiddenStateError, UnsupportedArchitectureError
from steerguard.models.block_order import check_block_order
from steerguard.models.blocks import decoder_blocks, text_decoder
from steerguard.models.chat import Conversation, EncodedPrompt, encode_prompts, pad_batch
from steerguard.models.prompt_mean import SKIPPED_TOKENS, prompt_mean, prompt_mean_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Position = Literal["generation_prompt_end"]
"""Which token's state is read: the last one of the generation prompt."""


class _DeepestBlockReachedError(Exception):
    """Ends a forward at the deepest block that is read; never leaves this module."""


def capture_residuals(
    model: PreTrainedModel,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    blocks: Sequence[int],
    *,
    batch_size: int = 8,
    over: Sequence[Over] | None = None,
    position: Position = "generation_prompt_end",
    prefills: Sequence[str | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Return the residual stream after the given blocks, one state per conversation and entry of `blocks`.

    Only the text decoder runs, without cache and no further than the deepest block that is read.
    The model is left as it was: its mode (train or eval) and its hooks.

    Args:
        model: a decoder-only model, or a multimodal model around one.
        tokenizer: its tokenizer or processor, with a chat template.
        conversations: what to render; each gets the template's generation prompt.
        blocks: 0-based block numbers, in the order in which they are wanted; one may stand twice.
        batch_size: conversations per forward, at least 1.
        over: per entry of `blocks`, `end` (the state at `position`) or `prompt_mean`; None is `end` everywhere.
        position: the token whose state is read, and where means end; the last token of the generation prompt.
        prefills: per conversation the beginning of the answer or None; it follows the position and is never read.
        progress: called with (conversations done, conversations in all) after each forward.

    Returns:
        Float32 states on the CPU, `[conversations, len(blocks), width]`; the last block is without the final norm.

    Raises:
        UnsupportedArchitectureError: the blocks cannot be reached, or a block number is out of range.
        IncompatibleModelError: the chat template does not render a conversation.
        NonFiniteHiddenStateError: a state holds NaN or an infinity, or a prompt is too short for a mean.
        ValueError: `batch_size`, `over` or `position` is not allowed.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if position not in get_args(Position):
        raise ValueError(f"position must be one of {get_args(Position)}, not {position!r}")
    wanted: list[Over] = ["end" for _ in blocks] if over is None else list(over)
    if len(wanted) != len(blocks) or not set(wanted) <= set(get_args(Over)):
        raise ValueError(f"over must name one of {get_args(Over)} for each of {len(blocks)} blocks, not {wanted}")
    modules = selected_blocks(model, blocks)
    prompts = encode_prompts(tokenizer, conversations, prefills)
    if "prompt_mean" in wanted:
        _check_long_enough(prompts)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids))
    width = int(model.config.get_text_config(decoder=True).hidden_size)
    states = torch.empty((len(prompts), len(blocks), width), dtype=torch.float32, device="cpu")
    if not modules:
        return states
    with evaluating(model), torch.no_grad():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            read = _read_batch(
                model, tokenizer, [prompts[index] for index in chosen], tuple(zip(modules, wanted, strict=True))
            )
            for row, number in torch.nonzero(~torch.isfinite(read).all(dim=-1)).tolist()[:1]:
                raise NonFiniteHiddenStateError(
                    "A hidden state is not finite",
                    expected="finite values",
                    found="NaN or infinity",
                    where=f"block {blocks[number]}, conversation {chosen[row]}",
                    next_step="load the model in bfloat16 or float32",
                )
            states[chosen] = read
            if progress is not None:
                progress(start + len(chosen), len(order))
    return states


def _check_long_enough(prompts: Sequence[EncodedPrompt]) -> None:
    """Refuse prompts without a prompt mean before anything runs: its state would be NaN although no weight is wrong."""
    for number, prompt in enumerate(prompts):
        if prompt.header_end < SKIPPED_TOKENS:
            raise NonFiniteHiddenStateError(
                "A prompt is too short for a prompt mean",
                expected=f"at least {SKIPPED_TOKENS + 1} tokens through the end of the generation prompt",
                found=f"{prompt.header_end + 1} tokens",
                where=f"conversation {number}",
                next_step=f"leave the prompt out, or read the end of the generation prompt only: the mean skips the first {SKIPPED_TOKENS} tokens",
            )


def measure_fingerprint(
    model: PreTrainedModel, tokenizer: Any, blocks: Sequence[int], prompts: Sequence[Conversation]
) -> torch.Tensor:
    """Return the functional fingerprint: residual directions at the end of each prompt's generation prompt.

    Args:
        model: a decoder-only model, or a multimodal model around one.
        tokenizer: its tokenizer or processor, with a chat template.
        blocks: 0-based block numbers, ascending.
        prompts: the fixed conversations; all run in one batch.

    Returns:
        Unit float32 vectors on the CPU, `[prompts, blocks, width]`.

    Raises:
        UnsupportedArchitectureError: the blocks cannot be reached or are not passed once each, or there is no such block.
        IncompatibleModelError: the chat template does not render a prompt.
        NonFiniteHiddenStateError: a state is not finite or zero.
    """
    with evaluating(model):
        check_block_order(model)
    states = capture_residuals(model, tokenizer, prompts, blocks, batch_size=max(1, len(prompts)))
    norms: torch.Tensor = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    if bool((norms == 0).any()):
        raise NonFiniteHiddenStateError(
            "A hidden state has no direction",
            expected="a vector with a positive norm",
            found="a zero vector",
            where="fingerprint",
            next_step="load the model's weights before wrapping it",
        )
    return states / norms


def selected_blocks(model: PreTrainedModel, blocks: Sequence[int]) -> list[nn.Module]:
    """Return the modules of decoder blocks by number.

    Raises:
        UnsupportedArchitectureError: the blocks cannot be reached, or a block number is out of range.
    """
    modules = decoder_blocks(model)
    for number in blocks:
        if not 0 <= number < len(modules):
            raise UnsupportedArchitectureError(
                "The model has no such decoder block",
                expected=f"0 to {len(modules) - 1}",
                found=number,
                where="blocks",
            )
    return [modules[number] for number in blocks]


def _read_batch(
    model: PreTrainedModel, tokenizer: Any, prompts: Sequence[EncodedPrompt], parts: Sequence[tuple[nn.Module, Over]]
) -> torch.Tensor:
    batch = pad_batch([prompt.ids for prompt in prompts], tokenizer, padding_side="left", device=model.device)
    width = batch["input_ids"].shape[1]
    columns = torch.tensor([width - len(prompt.ids) + prompt.header_end for prompt in prompts], device=model.device)
    in_mean = prompt_mean_mask(batch["attention_mask"].bool(), columns)
    wanted = set(parts)
    read: dict[tuple[nn.Module, Over], torch.Tensor] = {}

    def keep(module: nn.Module, hidden: torch.Tensor) -> None:
        if (module, "end") in wanted:
            rows = torch.arange(len(columns), device=hidden.device)
            read[module, "end"] = hidden[rows, columns.to(hidden.device)].to("cpu", torch.float32)
        if (module, "prompt_mean") in wanted:
            read[module, "prompt_mean"] = prompt_mean(hidden, in_mean.to(hidden.device)).to("cpu")

    pass_blocks(model, batch, [module for module, _ in parts], keep)
    return torch.stack([read[part] for part in parts], dim=1)


def pass_blocks(
    model: PreTrainedModel,
    batch: dict[str, torch.Tensor],
    modules: Sequence[nn.Module],
    keep: Callable[[nn.Module, torch.Tensor], None],
) -> None:
    """Run the text decoder, without cache and no further than the deepest of some blocks, and show their outputs.

    Args:
        model: a decoder-only model, or a multimodal model around one.
        batch: `input_ids` and `attention_mask` on the model's device.
        modules: decoder blocks of this model, at least one.
        keep: called once per block with its output `[rows, columns, width]`.

    Raises:
        UnsupportedArchitectureError: the forward did not pass every block.
    """
    decoder = text_decoder(model)
    arguments: dict[str, Any] = {**batch, "use_cache": False}
    if "position_ids" in signatures.signature(decoder.forward).parameters:
        # Decoders count positions from the first column otherwise, padding included.
        arguments["position_ids"] = (batch["attention_mask"].cumsum(dim=-1) - 1).clamp(min=0)
    passed: set[nn.Module] = set()
    wanted = set(modules)

    def show(module: nn.Module, _arguments: Any, output: Any) -> None:
        keep(module, output if isinstance(output, torch.Tensor) else output[0])
        passed.add(module)
        if passed == wanted:
            raise _DeepestBlockReachedError

    handles = []
    try:
        handles += [module.register_forward_hook(show) for module in wanted]
        decoder(**arguments)
    except _DeepestBlockReachedError:
        return
    finally:
        for handle in handles:
            handle.remove()
    raise UnsupportedArchitectureError(
        "A forward of the decoder did not pass every block that was to be read",
        expected=f"{len(wanted)} blocks",
        found=f"{len(passed)} blocks",
        where=type(decoder).__name__,
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, and give every module its own mode back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
