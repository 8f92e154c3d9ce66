"""The option `--model`, the same in every command that takes a model."""

from __future__ import annotations

from typing import Annotated

import typer

from steerguard.models.names import PACKAGED

ModelOption = Annotated[str, typer.Option("--model", help=f"Folder of a Hugging Face model, or {PACKAGED}.")]
