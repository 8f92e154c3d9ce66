"""Whether a loaded text model can do what its description says: inference mode, kind, and how much it can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from steerguard.errors import ArtifactFormatError

if TYPE_CHECKING:
    from steerguard.critics.text_models import TextSettings


def check_limits(model: Any, tokenizer: Any, settings: TextSettings, *, name: str) -> None:
    """Refuse a model that trains, that is an encoder-decoder, or that cannot read as much as the settings say.

    Raises:
        ArtifactFormatError: one of these, or windows are wanted and the tokenizer cannot say where its tokens lie.
    """
    if model.training:
        raise does_not_fit(name, "a model in eval mode", "one in training mode", "model")
    if getattr(model.config, "is_encoder_decoder", False):
        raise does_not_fit(name, "an encoder or a decoder", "an encoder-decoder", "model")
    longest = _positions(model)
    if longest is not None and settings.max_tokens > longest:
        raise does_not_fit(
            name, f"at most {longest}, the positions that the model has", settings.max_tokens, "max_tokens"
        )
    if settings.too_long == "windows" and not getattr(tokenizer, "is_fast", False):
        raise does_not_fit(name, "a fast tokenizer for windows", type(tokenizer).__name__, "too_long")


def _positions(model: Any) -> int | None:
    """Return how many tokens the model has positions for; None where its configuration does not say."""
    stated = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # RoBERTa and its relatives count positions from behind the padding index, so some of the table is never used.
    shifted = [
        module.num_embeddings - module.padding_idx - 1
        for path, module in model.named_modules()
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None
    ]
    known = [count for count in (stated, *shifted) if isinstance(count, int) and count > 0]
    return min(known, default=None)


def does_not_fit(name: str, expected: object, found: object, setting: str) -> ArtifactFormatError:
    """Return the error for a description that its model contradicts.

    Args:
        name: of the cost model.
        expected: what would have fitted.
        found: what is there.
        setting: the field of the description.
    """
    return ArtifactFormatError(
        "The description of a cost model does not fit its model.",
        expected=expected,
        found=found,
        where=f"cost model `{name}`: {setting}",
        next_step="Correct the description, or name another model.",
    )
