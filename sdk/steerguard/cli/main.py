"""The `steerguard` command. A command group is imported when it is used, so `policy validate` stays quick."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

import typer

GROUPS = {
    "policy": "Validate and show policy documents.",
    "plan": "Say in plain words what a policy does on a model.",
    "lock": "Pin the artifacts that policies stand for.",
    "sync": "Bring what a lock file pins to this machine.",
    "registry": "Find, check, sign, publish and revoke artifacts.",
    "keys": "Make signing keys and show their public keys.",
    "audit": "Check audit logs and show what was decided.",
    "build": "Build an artifact from a recipe.",
    "calibrate": "Make thresholds for a probe from your own benign prompts.",
    "evaluate": "Measure policies on prompt files, against the model without guidance.",
    "vet": "Check and measure an artifact with a suite, and sign what was found.",
    "certify": "Bound how often a judge calls answers under a policy harmful.",
    "demo": "Compare guided and unguided answers of a small real model.",
    "demo-registry": "Sign, vet, publish, lock, pull and revoke an artifact on a Hub on the loopback address.",
}
"""Command, and what it does; module `steerguard.cli.<command>` has it as `app`, or as a function of that name, `-` as `_`."""

PIPE_CLOSED: Final = 141
"""Exit status when whoever read the output went away, `| head` for one; what shells report for it."""


def application(commands: Sequence[str]) -> typer.Typer:
    """Return the command line with the given commands loaded."""
    app = typer.Typer(
        name="steerguard",
        help="Safety middleware for open-weight language models.",
        no_args_is_help=True,
        # Local variables hold prompts and keys.
        pretty_exceptions_show_locals=False,
    )
    app.callback()(_version_option)
    for command in commands:
        name = command.replace("-", "_")
        module = importlib.import_module(f"steerguard.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=command, help=GROUPS[command])
        else:
            app.command(command, help=GROUPS[command])(getattr(module, name))
    return app


def main() -> None:
    """Run the command line; only the named command's module is loaded."""
    named = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    try:
        application([named] if named in GROUPS else list(GROUPS))()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):
            # Typer's own exit code for it, 1, says of an audit log that it is broken.
            raise SystemExit(PIPE_CLOSED) from None
        raise


def _show_version(*, show: bool) -> None:
    if show:
        from steerguard.version import __version__

        typer.echo(f"steerguard {__version__}")
        raise typer.Exit


def _version_option(
    *,
    version: bool = typer.Option(False, "--version", callback=lambda show: _show_version(show=show), is_eager=True),
) -> None:
    """Safety middleware for open-weight language models."""


if __name__ == "__main__":
    main()
