"""Files in the checkout that are generated from the models: write them, or check that they are up to date."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def keep_in_step(render: Callable[[], str], arguments: Sequence[str] | None = None, *, command: str) -> None:
    """Run `--write FILE` or `--check FILE` for one generated file.

    Raises:
        SystemExit: with `--check`, the file differs from what the models say.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {command}")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--write", type=Path, metavar="FILE")
    choice.add_argument("--check", type=Path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    if chosen.write is not None:
        chosen.write.write_text(render(), encoding="utf-8")
    elif not chosen.check.is_file() or chosen.check.read_text(encoding="utf-8") != render():
        parser.exit(1, f"{chosen.check} is not up to date: python -m {command} --write {chosen.check}\n")
