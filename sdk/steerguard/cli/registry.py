"""`steerguard registry`: everything about artifacts in registries, on this machine and on the Hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import typer

from steerguard.cli.registry_diff import diff
from steerguard.cli.registry_gguf import export_gguf, import_gguf
from steerguard.cli.registry_list import list_artifacts, search
from steerguard.cli.registry_publish import publish
from steerguard.cli.registry_pull import pull
from steerguard.cli.registry_revoke import revoke
from steerguard.cli.registry_show import show
from steerguard.cli.registry_sign import sign
from steerguard.cli.registry_verify import verify
from steerguard.cli.vet import vet

app = typer.Typer(name="registry", help="Find, check, sign, publish and revoke artifacts.", no_args_is_help=True)

COMMANDS: Mapping[str, Callable[..., None]] = {
    "list": list_artifacts,
    "search": search,
    "show": show,
    "pull": pull,
    "publish": publish,
    "verify": verify,
    "vet": vet,
    "sign": sign,
    "revoke": revoke,
    "diff": diff,
    "import-gguf": import_gguf,
    "export-gguf": export_gguf,
}
"""Command and what carries it out; its help is the function's own."""

for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
