"""`steerguard plan`: what a policy does on a model, before anything is wrapped. Reads configuration, no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerguard.cli.model_option import ModelOption
from steerguard.errors import SteerguardError
from steerguard.models.names import PACKAGED

if TYPE_CHECKING:
    from steerguard.models.facts import ModelFacts


_Policy = Annotated[str, typer.Argument(metavar="POLICY", help="Name of a shipped policy, or a file.")]
_Registry = Annotated[Path | None, typer.Option("--registry", help="Local registry; the embedded one by default.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")]


def plan(policy: _Policy, model: ModelOption, registry: _Registry = None, *, as_json: _Json = False) -> None:
    """Compile a policy against a model and say in plain words what will happen; exit with 1 if they do not fit."""
    from steerguard.policy.load import load_policy

    try:
        document = load_policy(policy)
        from steerguard.plan.compile import compile_plan
        from steerguard.plan.describe import describe
        from steerguard.plan.resolve import resolve_artifacts
        from steerguard.registry.local import LocalDirectory, embedded_registry

        store = embedded_registry() if registry is None else LocalDirectory(registry)
        facts = _facts(model)
        compiled = compile_plan(document, facts, resolve_artifacts(document, facts, store))
    except SteerguardError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps({"digest": compiled.digest, **compiled.document()}, indent=2))
        return
    for sentence in describe(compiled):
        typer.echo(f"- {sentence}")


def _facts(model: str) -> ModelFacts:
    """Return the facts of a model folder from its configuration and tokenizer."""
    from steerguard.models.configured import facts_of_folder
    from steerguard.models.packaged import converted_smollm2

    return facts_of_folder(converted_smollm2() if model == PACKAGED else Path(model))
