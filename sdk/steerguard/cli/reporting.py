"""How commands report errors of this package: code and message on standard error, an exit code, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from steerguard.cli.visible import visible_lines
from steerguard.errors import SteerguardError


@contextmanager
def reported(code: int = 1) -> Iterator[None]:
    """Print an error of this package and leave with the exit code, without a traceback."""
    try:
        yield
    except SteerguardError as error:
        typer.echo(visible_lines(f"{error.code}: {error}"), err=True)
        raise typer.Exit(code) from error
