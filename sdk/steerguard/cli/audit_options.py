"""What the commands of `steerguard audit` take: the path of the logs, pinned keys and checkpoints, and the form of the output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from steerguard.audit.verify import Pins

OK: Final = 0
BROKEN: Final = 1
USAGE: Final = 2
"""Nothing to check, or it cannot be read."""
UNANCHORED: Final = 3
"""Only with `--anchored`: intact, but something rests on no pin."""

LogPath = Annotated[
    Path, typer.Argument(help="A directory of logs, or any file of one log: then only that log.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
PinnedKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        help="A checkpoint key that you trust, as `audit keygen` prints it, or the path of its .vkey file. May be repeated.",
        show_default=False,
    ),
]
PinnedCheckpoints = Annotated[
    list[Path] | None,
    typer.Option(
        "--checkpoint",
        help="Checkpoints that were kept elsewhere: a file, or a directory of *.checkpoints files. May be repeated.",
        show_default=False,
    ),
]


def pins_of(keys: Sequence[str] | None, checkpoints: Sequence[Path] | None) -> Pins:
    """Return what the options pin; call it within `reported` or `usage_errors`.

    Raises:
        AuditKeyError: a key is not a verifier key.
        AuditVerificationError: checkpoints cannot be read.
    """
    from steerguard.audit.verification.pins import heads_at, pinned_key
    from steerguard.audit.verify import Pins

    return Pins(
        keys=tuple(pinned_key(text) for text in keys or ()),
        heads=tuple(head for path in checkpoints or () for head in heads_at(path)),
    )


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is: no markup, no highlighting."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, soft_wrap=True)
