"""Everything that a call of `generate` is asked before it runs, in one place."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig

from steerguard.engine.arguments import (
    CACHE,
    KNOWN_SETTINGS,
    check_arguments,
    check_cache,
    check_passed_cache,
    check_settings,
    check_shapes,
    compiles_itself,
    unsupported,
)
from steerguard.errors import UnsupportedGenerationError
from steerguard.models.compiled import compiled_container, compiled_part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SETTING_DEFAULTS = GenerationConfig._get_default_generation_params()  # noqa: SLF001 - the library's only list of them


def check_call(
    model: Any,
    original: Callable[..., Any],
    arguments: tuple[Any, ...],
    named: Mapping[str, Any],
    *,
    compiles: bool,
) -> int | None:
    """Refuse by name what the guard cannot follow, before anything runs.

    Args:
        model: the wrapped model.
        original: its own `generate`, bound.
        arguments: positional arguments of the call.
        named: named arguments of the call.
        compiles: whether the guard follows compiled decode steps.

    Returns:
        Columns of the prompt; None where the call brings no tokens.

    Raises:
        UnsupportedGenerationError: names what cannot be followed.
    """
    if "prepare_inputs_for_generation" in vars(model):
        raise unsupported("a `prepare_inputs_for_generation` of the app (prompt tuning, prefix tuning)")
    bound = inspect.signature(original).bind_partial(*arguments, **named).arguments
    rest = {**bound.pop("kwargs", {})}
    inputs, config = bound.pop("inputs", None), bound.pop("generation_config", None)
    if inputs is not None and model.main_input_name != "input_ids":
        raise unsupported(f"`inputs` that are `{model.main_input_name}`")
    effective, model_inputs = model._prepare_generation_config(config, **rest)  # noqa: SLF001 - merges as generate does
    check_arguments({**bound, **model_inputs})
    input_ids = model_inputs.get("input_ids", inputs)
    check_shapes(input_ids, model_inputs.get("attention_mask"))
    settings = effective.to_dict()
    if type(effective) is GenerationConfig:
        # A derived class may read what it adds.
        settings = {name: value for name, value in settings.items() if name in KNOWN_SETTINGS}
    if compiles:
        settings.pop("compile_config", None)
    check_settings(settings, SETTING_DEFAULTS)
    unasked = not compiles and compiles_itself(model, effective)
    check_cache(effective.cache_implementation, compiles=unasked)
    check_passed_cache(model_inputs.get(CACHE), model, used=bool(effective.use_cache), compiles=unasked)
    return None if input_ids is None else int(input_ids.shape[1])


def check_compiled(model: Any, *, compiles: bool) -> None:
    """Refuse compiled forward passes that the guard's executor does not run.

    Args:
        model: the wrapped model.
        compiles: whether the guard follows compiled decode steps.

    Raises:
        UnsupportedGenerationError: names the compiled part.
    """
    if compiles:
        part = compiled_container(model)
        if part is not None:
            raise unsupported(f"`{part}` inside a container of `torch.compile`")
        return
    part = compiled_part(model)
    if part is not None:
        raise UnsupportedGenerationError(
            "This version does not generate with a compiled forward pass (`torch.compile`) under the eager executor.",
            expected='a model that is not compiled, or one wrapped with `executor="compiled"`',
            found=f"compiled {part}",
            where="generate",
            next_step='Call steerguard.unwrap, and steerguard.wrap(..., executor="compiled") before compiling.',
        )
