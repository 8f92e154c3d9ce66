"""The class of a wrapped model: the model's own class with every door to generation guarded.

It keeps name, qualified name and module of the original, so `isinstance`, `pipeline` and `save_pretrained` behave as
before. What goes around this class, by the original's methods or by parts of the model, ends at `steerguard.fence`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from steerguard.engine.active import ACTIVE, OUTSIDE, STARTED, pass_inside_a_pass
from steerguard.engine.arguments import unsupported
from steerguard.engine.beam_ends import ended_searches
from steerguard.engine.compiled_places import TRACED
from steerguard.engine.scoring import current_scoring
from steerguard.errors import GuardedModelCopyError, NotWrappedError, WrapError

if TYPE_CHECKING:
    from collections.abc import Callable

    from steerguard.guard import Guard

GUARD_ATTRIBUTE = "_steerguard_guard"
"""Instance attribute that holds the guard; set by `wrap`, removed by `unwrap`."""

OTHER_LOOPS = ("_assisted_decoding", "generate_batch", "init_continuous_batching")
"""Doors to generation that this version does not guide."""

BEAM_QUESTION = "_beam_search_has_unfinished_sequences"
"""What beam search asks after every step."""

WEIGHT_CHANGES = ("load_state_dict", "load_adapter", "set_adapter", "enable_adapters", "disable_adapters")
"""Methods after which the fingerprint is checked again."""


def bound_guard(model: Any) -> Guard:
    """Return the guard of a wrapped model.

    Raises:
        NotWrappedError: the object has the guarded class but no guard.
    """
    guard: Guard | None = model.__dict__.get(GUARD_ATTRIBUTE)
    if guard is None:
        raise NotWrappedError(
            "This object has the class of a wrapped model, but no guard is bound to it.",
            expected="a model returned by steerguard.wrap",
            found=type(model).__name__,
            next_step="Wrap the model with steerguard.wrap.",
        )
    return guard


def is_guarded_class(cls: type) -> bool:
    """Return whether a class was made by `guarded_class`."""
    return "_steerguard_original" in cls.__dict__


def guarded_base(cls: type) -> type | None:
    """Return the guarded class that a class is or is derived from, as by FSDP; None for the class of a plain model."""
    return next((base for base in cls.__mro__ if is_guarded_class(base)), None)


def require_removable(model: Any) -> None:
    """Refuse a model from which no guard can be taken off.

    Raises:
        NotWrappedError: the model is not wrapped.
        WrapError: its class was derived from the guarded one, and what derived it does not know the original.
    """
    base = guarded_base(type(model))
    if base is None:
        raise NotWrappedError(
            "The model is not wrapped.",
            expected="a model returned by steerguard.wrap",
            found=type(model).__name__,
            next_step="Nothing to do: this model runs without a guard.",
        )
    if base is not type(model):
        raise WrapError(
            "The model's class was derived from the guarded one, as FSDP does it, so the guard cannot be taken off.",
            expected="the class that steerguard.wrap gave the model",
            found=type(model).__name__,
            where="steerguard.unwrap",
            next_step="Undo what derived the class, or load the model again.",
        )


def original_class(cls: type) -> type:
    """Return the class that a guarded class was made from."""
    original: type = cls.__dict__["_steerguard_original"]
    return original


@functools.cache
def guarded_class(original: type) -> type:
    """Return the guarded subclass of a model class; one per class."""
    namespace: dict[str, Any] = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "_steerguard_original": original,
        "guard": property(bound_guard, doc="The guard of this model: plan, reports, checks."),
        "generate": _guarded_generate(original),
        "_sample": _guarded_loop(original, "_sample", beams=False),
        "_beam_search": _guarded_loop(original, "_beam_search", beams=True),
        BEAM_QUESTION: _overheard(original),
        "forward": _permitted(_plain(original, "forward"), within=STARTED),
        "get_compiled_call": _guarded_compiled_call(original),
        "__call__": _permitted(_alone(_plain(original, "__call__")), within=None),
        "__reduce_ex__": _no_copy,
        "__deepcopy__": _no_copy,
        "__copy__": _no_copy,
        "from_pretrained": classmethod(
            lambda _cls, *args, **named: _plain(original, "from_pretrained")(*args, **named)
        ),
        "_from_config": classmethod(lambda _cls, *args, **named: _plain(original, "_from_config")(*args, **named)),
    }
    namespace |= {name: _refused_loop(original, name) for name in OTHER_LOOPS if hasattr(original, name)}
    namespace |= {name: _rechecked(original, name) for name in WEIGHT_CHANGES if hasattr(original, name)}
    return type(original.__name__, (original,), namespace)


def _plain(original: type, name: str) -> Callable[..., Any]:
    method: Callable[..., Any] = getattr(original, name)
    return method


def _guarded_generate(original: Any) -> Callable[..., Any]:
    @functools.wraps(original.generate)
    def generate(self: Any, *arguments: Any, **named: Any) -> Any:
        plain = functools.partial(original.generate, self)
        return bound_guard(self).generate(self, plain, arguments, named)

    return generate


def _guarded_loop(original: Any, name: str, *, beams: bool) -> Callable[..., Any]:
    """Return the guarded form of a loop that `generate` picks by its name."""
    inner = getattr(original, name)

    @functools.wraps(inner)
    def loop(self: Any, input_ids: Any, **named: Any) -> Any:
        return bound_guard(self).decode(functools.partial(inner, self), input_ids, named, beams=beams)

    return loop


def _overheard(original: Any) -> Callable[..., Any]:
    """Return the question of beam search whether anything is unfinished; a request hears which prompts are."""
    inner = getattr(original, BEAM_QUESTION)

    @functools.wraps(inner)
    def unfinished(
        _self: Any,
        is_early_stop_heuristic_unsatisfied: Any,
        is_sent_finished: Any,
        next_token_hits_stopping_criteria: Any,
        early_stopping: Any,
    ) -> Any:
        # Named as in the library, which asks by position or by name.
        asked = (
            is_early_stop_heuristic_unsatisfied,
            is_sent_finished,
            next_token_hits_stopping_criteria,
            early_stopping,
        )
        told = getattr(ACTIVE.get(), "on_searched", None)
        if told is not None:
            told(ended_searches(inner, *asked))
        return inner(*asked)

    return unfinished


def _permitted(inner: Callable[..., Any], *, within: int | None) -> Callable[..., Any]:
    """Return the guarded form of one of the ways to start a pass.

    Args:
        inner: what starts it, called with the model first.
        within: where in a pass it may be called too, as `forward` is by a call of the model.
    """

    @functools.wraps(inner)
    def permitted(self: Any, *arguments: Any, **named: Any) -> Any:
        if torch.compiler.is_compiling():
            # Compiled code can ask only what it can compare before a pass, which the first block does. Without a guard
            # it was compiled while the model was wrapped.
            wrapped = getattr(type(self), "_steerguard_original", None) is not None
            if not wrapped or getattr(self, TRACED, None) is not None:
                return inner(self, *arguments, **named)
        # Asked twice at every token: in the usual case without a further call.
        guard, state = self.__dict__.get(GUARD_ATTRIBUTE), ACTIVE.get()
        if guard is None or state is None or state.owner is not guard.owner or not state.permits_forward:
            if guard is None and guarded_base(type(self)) is None:
                # Compiled or bound while the model was wrapped.
                return inner(self, *arguments, **named)
            scoring = current_scoring(bound_guard(self).owner)
            if scoring is not None:
                # It comes back here with a request of its own.
                with guard.uncompiled(self):
                    return scoring.run(self, functools.partial(permitted, self), arguments, named)
            return inner(self, *arguments, **named)
        passing = state.passing
        if passing is None or passing == within:
            return inner(self, *arguments, **named)
        if passing != OUTSIDE:
            raise pass_inside_a_pass()
        state.passing = STARTED
        try:
            return inner(self, *arguments, **named)
        finally:
            state.passing = OUTSIDE

    return permitted


def _alone(inner: Callable[..., Any]) -> Callable[..., Any]:
    """Return a way to start a pass that waits for other threads where the model may run compiled."""

    @functools.wraps(inner)
    def alone(self: Any, *arguments: Any, **named: Any) -> Any:
        if torch.compiler.is_compiling():
            return inner(self, *arguments, **named)
        guard = self.__dict__.get(GUARD_ATTRIBUTE)
        if guard is None or guard.compiled is None:
            return inner(self, *arguments, **named)
        return guard.compiled.run(inner, self, arguments, named)

    return alone


def _guarded_compiled_call(original: Any) -> Callable[..., Any]:
    """Return the guarded form of the door through which transformers compiles the model by itself."""

    @functools.wraps(original.get_compiled_call)
    def get_compiled_call(self: Any, *arguments: Any, **named: Any) -> Any:
        executor = bound_guard(self).compiled
        compiled = original.get_compiled_call(self, *arguments, **named)
        if executor is None:
            return compiled

        def call(model: Any, *inputs: Any, **named_inputs: Any) -> Any:
            # The chunks of a prefill come through this door too.
            return (compiled if executor.compiles else functools.partial(original.__call__, model))(
                *inputs, **named_inputs
            )

        return functools.partial(_permitted(_alone(call), within=None), self)

    return get_compiled_call


def _refused_loop(original: Any, name: str) -> Callable[..., Any]:
    inner = getattr(original, name)

    @functools.wraps(inner)
    def refuse(self: Any, *arguments: Any, **named: Any) -> Any:
        if bound_guard(self).allows_unguided():
            return inner(self, *arguments, **named)
        raise unsupported(f"`{name}`")

    return refuse


def _rechecked(original: Any, name: str) -> Callable[..., Any]:
    inner = getattr(original, name)

    @functools.wraps(inner)
    def change(self: Any, *arguments: Any, **named: Any) -> Any:
        guard = bound_guard(self)
        try:
            return inner(self, *arguments, **named)
        finally:
            # A call that failed half way has changed weights too.
            guard.weights_changed(self)

    return change


def _no_copy(self: Any, *_arguments: Any) -> NoReturn:
    raise GuardedModelCopyError(
        "A wrapped model cannot be pickled or copied: the copy would run without its guard.",
        found=type(self).__name__,
        next_step="Call steerguard.unwrap(model) first, copy, and wrap the copy.",
    )
