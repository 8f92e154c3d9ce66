"""Parts of a model that go through `torch.compile`: which they are, and how to run them without it for a while."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

ORIGINAL = "_torchdynamo_orig_callable"
"""Attribute under which a compiled function keeps what it was made from."""


@dataclass(frozen=True, slots=True, eq=False)
class CompiledForm:
    """One compiled forward pass that stands in an attribute of one module."""

    module: nn.Module
    attribute: str
    """`forward` for `module.forward = torch.compile(...)`, `_compiled_call_impl` for `module.compile()`."""
    compiled: Any
    plain: Any
    """What stands there while the module runs without `torch.compile`."""


def compiled_part(model: nn.Module) -> str | None:
    """Return the name of the first module with a compiled forward pass, the class of the model for itself, or None.

    It finds `module.compile()`, a module inside `torch.compile(module)` and `module.forward = torch.compile(...)`.
    """
    for name, module in model.named_modules():
        state = vars(module)
        compiled = state.get("_compiled_call_impl") or getattr(state.get("forward"), ORIGINAL, None)
        if compiled is not None or _is_container(module):
            return name or type(model).__name__
    return None


def compiled_container(model: nn.Module) -> str | None:
    """Return the name of the first part that stands inside `torch.compile(part)`, or None."""
    return next((name for name, module in model.named_modules() if _is_container(module)), None)


def compiled_forms(model: nn.Module) -> tuple[CompiledForm, ...]:
    """Return every compiled forward pass of a model and its parts."""
    found: list[CompiledForm] = []
    for module in model.modules():
        state = vars(module)
        call, forward = state.get("_compiled_call_impl"), state.get("forward")
        if call is not None:
            found.append(CompiledForm(module, "_compiled_call_impl", call, None))
        if getattr(forward, ORIGINAL, None) is not None:
            found.append(CompiledForm(module, "forward", forward, _original(forward)))
    return tuple(found)


class SetAside:
    """The compiled forward passes of one model, out of the way until they are put back.

    Args:
        model: the model; nothing else may change these attributes meanwhile.
    """

    def __init__(self, model: nn.Module) -> None:
        self._forms = compiled_forms(model)
        for form in self._forms:
            vars(form.module)[form.attribute] = form.plain

    def put_back(self) -> None:
        """Let the model run compiled again; a second call does nothing, nor does one after the app put others there."""
        for form in self._forms:
            if vars(form.module).get(form.attribute) is form.plain:
                vars(form.module)[form.attribute] = form.compiled
        self._forms = ()


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[SetAside]:
    """Run a model without `torch.compile` inside the block, or until its forms are put back."""
    aside = SetAside(model)
    try:
        yield aside
    finally:
        aside.put_back()


def _is_container(module: nn.Module) -> bool:
    # `torch.compile(module)` is a container that calls what it holds `_orig_mod`.
    return "_orig_mod" in vars(module)["_modules"]


def _original(compiled: Any) -> Any:
    """Return what a compiled function was made from, bound as it is; also where it was compiled twice."""
    plain = compiled
    while getattr(plain, ORIGINAL, None) is not None:
        plain = getattr(plain, ORIGINAL)
    # A compiled method may know only its function.
    if isinstance(compiled, MethodType) and not isinstance(plain, MethodType):
        return MethodType(plain, compiled.__self__)
    return plain
