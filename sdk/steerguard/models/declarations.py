"""Where model classes that the engine does not know keep their decoder blocks, as their users declare it."""

from __future__ import annotations

import re
import threading

from steerguard.errors import UnsupportedArchitectureError

_NAME = re.compile(r"[^\W\d]\w*")
_PATH = re.compile(r"[^\W\d]\w*(\.\w+)*")

_lock = threading.Lock()
_declared: dict[str, str] = {}


def declare_blocks(name: str, path: str) -> None:
    """Say where a class of models keeps its decoder blocks, so that its models can be wrapped.

    The declaration holds in this process, for every model of that class, from the next `wrap` on.
    A wrong one is found out: before a model is wrapped, one token must pass every listed block once and in order.

    Args:
        name: class name of the text decoder, which is what `model.get_decoder()` returns; or of the whole model.
        path: attributes, joined by dots, from an object of that class to its `torch.nn.ModuleList` of blocks, which
            lists them in the order in which a token passes them.

    Raises:
        UnsupportedArchitectureError: the path is malformed, or the class was declared otherwise before.
    """
    if not _NAME.fullmatch(name):
        raise _refused("The name of a model class is not an identifier", "a class name such as MyDecoder", repr(name))
    if not _PATH.fullmatch(path):
        raise _refused(
            "The path to decoder blocks is malformed", "names joined by dots, such as trunk.blocks", repr(path)
        )
    with _lock:
        known = _declared.setdefault(name, path)
    if known != path:
        raise _refused(f"The blocks of {name} were declared otherwise before", known, path)


def declared_path(name: str) -> str | None:
    """Return the declared path of a class, or None."""
    return _declared.get(name)


def _refused(summary: str, expected: str, found: str) -> UnsupportedArchitectureError:
    return UnsupportedArchitectureError(summary, expected=expected, found=found, where="steerguard.declare_blocks")
