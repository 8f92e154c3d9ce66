"""What `wrap` refuses before it looks at anything else: models that cannot be guarded, and arguments of the wrong kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, get_args

from transformers import GenerationMixin, PreTrainedModel

from steerguard.audit.log import AuditLog
from steerguard.errors import AlreadyWrappedError, UnsupportedArchitectureError, WrapError
from steerguard.guarded_class import bound_guard, guarded_base
from steerguard.models.compiled import compiled_part
from steerguard.plan.plan import Mode
from steerguard.policy.document import Policy
from steerguard.registry.lockfile import Lockfile
from steerguard.trust.document import TrustPolicy

Executor = Literal["eager", "compiled"]
"""How guidance gets into decode steps: by hooks that come and go, or by hooks that stay and that an app may compile."""

_KINDS: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "policy": ((str, Path, Policy), "a name, a path or a Policy"),
    "audit": ((type(None), str, Path, AuditLog), "a folder or an AuditLog; for a sink: AuditLog.open(sink=...)"),
    "trust": ((type(None), str, Path, TrustPolicy), "a path or a TrustPolicy"),
    "lock": ((type(None), str, Path, Lockfile), "a path or a Lockfile"),
}


def require_wrappable(model: Any) -> None:
    """Refuse what cannot be guarded, before anything is read.

    Raises:
        AlreadyWrappedError: the model is wrapped.
        UnsupportedArchitectureError: it is no transformers model that generates, is compiled already, has a part that
            generates by itself, or is on a device that is not supported.
    """
    if guarded_base(type(model)) is not None:
        plan = bound_guard(model).plan
        raise AlreadyWrappedError(
            "The model is wrapped already.",
            expected="a model without a guard",
            found=f"policy `{plan.policy_name}` {plan.policy_version} in force",
            next_step="Call steerguard.unwrap(model) first.",
        )
    if not isinstance(model, PreTrainedModel) or not callable(getattr(model, "_sample", None)):
        raise UnsupportedArchitectureError(
            "Only transformers models that can generate can be wrapped.",
            expected="a transformers PreTrainedModel with generate",
            found=type(model).__name__,
            next_step="Pass the model itself, not a pipeline or a container around it.",
        )
    compiled = compiled_part(model)
    if compiled is not None:
        raise UnsupportedArchitectureError(
            "The model's forward pass is already compiled, so hooks on its blocks would not run.",
            expected="a model that is not compiled",
            found=f"compiled {compiled}",
            next_step='Wrap the model with `executor="compiled"` before it is passed through torch.compile.',
        )
    inner = [name for name, module in model.named_modules() if name and isinstance(module, GenerationMixin)]
    if inner:
        raise UnsupportedArchitectureError(
            "A part of the model generates by itself, and would do so without guidance.",
            expected="one module with generate",
            found=f"{type(model).__name__}.{inner[0]}",
            next_step=f"Wrap that part, model.{inner[0]}, and generate with it.",
        )
    if model.device.type == "meta":
        raise UnsupportedArchitectureError(
            "The model's weights are not loaded, so its fingerprint cannot be checked.",
            expected="weights on a device",
            found="meta",
            next_step="Load the weights before wrapping the model; of an offloaded one keep the embedding on a device.",
        )
    if model.device.type == "mps":
        raise UnsupportedArchitectureError(
            "On this device transformers ends a generation one step late, which the fired proof does not follow yet.",
            expected="cpu or cuda",
            found="mps",
            next_step="Move the model to the CPU before wrapping it.",
        )


def require_arguments(**given: Any) -> None:
    """Refuse arguments of `wrap` of the wrong type, or without such a value.

    Args:
        given: `policy`, `audit`, `trust`, `lock`, `mode` and `executor`.

    Raises:
        WrapError: names the argument, and what it may be.
    """
    for name, (kinds, expected) in _KINDS.items():
        if not isinstance(given[name], kinds):
            raise WrapError(
                f"`{name}` has the wrong type.",
                expected=expected,
                found=type(given[name]).__name__,
                where="steerguard.wrap",
            )
    for name, legal in (("mode", (None, *get_args(Mode))), ("executor", get_args(Executor))):
        if given[name] not in legal:
            expected = ", ".join(one for one in legal if one is not None)
            raise WrapError(
                f"There is no such {name}.", expected=expected, found=repr(given[name]), where="steerguard.wrap"
            )
