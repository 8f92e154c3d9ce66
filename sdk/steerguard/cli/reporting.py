"""How commands report errors of this package: code and message on standard error, exit code 1, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from steerguard.errors import SteerguardError


@contextmanager
def reported() -> Iterator[None]:
    """Print an error of this package and leave with exit code 1, without a traceback."""
    try:
        yield
    except SteerguardError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(1) from error
