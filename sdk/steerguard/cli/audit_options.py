"""What the commands of `steerguard audit` take: the path of the logs, pinned keys and checkpoints, and the form of the output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from steerguard.audit.verification.pins import Pins

LogPath = Annotated[
    Path, typer.Argument(help="A directory of logs, or any file of one log: then only that log.", show_default=False)
]
LogDirectory = Annotated[Path, typer.Argument(help="The directory of the logs.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
AsLines = Annotated[bool, typer.Option("--jsonl", help="Print one line of JSON per record.")]
RequestId = Annotated[
    str, typer.Option("--request", help="Id of the request: `req` of its records.", show_default=False)
]
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
SigningKeyFile = Annotated[
    Path | None,
    typer.Option(
        "--signing-key",
        metavar="FILE",
        help="The key (PKCS #8 in PEM) that signs the log of this command. By default STEERGUARD_CHECKPOINT_KEY, else "
        "checkpoint.key of the directory. Give the key of the service that writes the logs.",
        show_default=False,
    ),
]
SigningKeyName = Annotated[
    str | None,
    typer.Option(
        "--key-name",
        metavar="NAME",
        help="The name that the key signs under: that of the service. By default steerguard-audit.",
        show_default=False,
    ),
]
CheckpointCopies = Annotated[
    list[Path] | None,
    typer.Option(
        "--copy",
        metavar="DIR",
        help="A second place for the checkpoints of this command's log. May be repeated.",
        show_default=False,
    ),
]


def pins_of(keys: Sequence[str] | None, checkpoints: Sequence[Path] | None) -> Pins:
    """Return what the options pin; call it within `reported`.

    Raises:
        AuditKeyError: a key is not a verifier key.
        AuditVerificationError: checkpoints cannot be read.
    """
    from steerguard.audit.verification.pins import Pins, heads_at, pinned_key

    return Pins(
        keys=tuple(pinned_key(text) for text in keys or ()),
        heads=tuple(head for path in checkpoints or () for head in heads_at(path)),
    )
