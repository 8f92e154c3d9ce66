"""Safety middleware for open-weight language models.

    import steerguard
    model = steerguard.wrap(model, "harmlessness", tokenizer=tokenizer)
    out = model.generate(**inputs, max_new_tokens=128)

Names that need torch are loaded when they are first used, so reading a policy stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from steerguard.version import __version__

if TYPE_CHECKING:
    from steerguard.audit.log import AuditLog
    from steerguard.decision import Decision
    from steerguard.errors import SteerguardError
    from steerguard.guard import Guard
    from steerguard.models.declarations import declare_blocks
    from steerguard.policy.document import Policy
    from steerguard.policy.load import load_policy
    from steerguard.wrapping import from_pretrained, unwrap, wrap

__all__ = [
    "AuditLog",
    "Decision",
    "Guard",
    "Policy",
    "SteerguardError",
    "__version__",
    "declare_blocks",
    "from_pretrained",
    "load_policy",
    "unwrap",
    "wrap",
]

_HOMES = {
    "AuditLog": "steerguard.audit.log",
    "Decision": "steerguard.decision",
    "Guard": "steerguard.guard",
    "Policy": "steerguard.policy.document",
    "SteerguardError": "steerguard.errors",
    "declare_blocks": "steerguard.models.declarations",
    "from_pretrained": "steerguard.wrapping",
    "load_policy": "steerguard.policy.load",
    "unwrap": "steerguard.wrapping",
    "wrap": "steerguard.wrapping",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
