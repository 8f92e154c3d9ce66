"""Tables for people, in which a long name goes on in the next line: an identifier that was cut is of no use."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from steerguard.cli.visible import visible_lines

_UNFOLDED: Final = 100_000
"""Columns of a table that does not go to a terminal; it is only as wide as its content."""


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> None:
    """Print a table; cells may have several lines.

    Args:
        headings: of the columns.
        rows: their cells, which are escaped.
        numbers: whether all columns but the first are set right.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for place, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if numbers and place else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible_lines(cell)) for cell in row))
    if sys.stdout.isatty():
        console = Console(markup=False, highlight=False)
    else:
        # Nothing is folded or coloured for a pipe or a file, whatever the environment says of terminals: whoever searches
        # there for an id must find it.
        console = Console(markup=False, highlight=False, width=_UNFOLDED, force_terminal=False)
    console.print(table)
