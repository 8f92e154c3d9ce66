"""`steerguard plan`: what a policy does on a model, before anything is wrapped. Reads configuration, no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerguard.cli.artifact_sources import LockOption
from steerguard.cli.model_option import ModelOption
from steerguard.cli.registry_source import RegistryOption, TrustOption
from steerguard.errors import SteerguardError
from steerguard.models.names import PACKAGED

if TYPE_CHECKING:
    from steerguard.models.facts import ModelFacts


_Policy = Annotated[str, typer.Argument(metavar="POLICY", help="Name of a shipped policy, or a file.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")]


def plan(
    policy: _Policy,
    model: ModelOption,
    registry: RegistryOption = None,
    trust: TrustOption = None,
    lock: LockOption = None,
    *,
    as_json: _Json = False,
) -> None:
    """Compile a policy against a model and say in plain words what will happen; exit with 1 if they do not fit."""
    from steerguard.policy.load import load_policy

    try:
        document = load_policy(policy)
        from steerguard.plan.compile import compile_plan
        from steerguard.plan.describe import describe
        from steerguard.plan.resolve import artifact_needs, resolve_artifacts
        from steerguard.sourcing import open_sources

        sourcing = open_sources(
            registry,
            trust=trust,
            lock=lock,
            enforce=document.mode == "enforce",
            references=artifact_needs(document),
        )
        facts = facts_of(model)
        resolved = resolve_artifacts(document, facts, sourcing.sources)
        for warning in dict.fromkeys(text for one in resolved.values() for text in one.evidence.warnings):
            typer.echo(f"warning: {warning}", err=True)
        compiled = compile_plan(document, facts, resolved)
    except SteerguardError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps({"digest": compiled.digest, **compiled.document()}, indent=2))
        return
    for sentence in describe(compiled):
        typer.echo(f"- {sentence}")


def facts_of(model: str) -> ModelFacts:
    """Return the facts of a model folder, or of the packaged model, from its configuration and tokenizer."""
    from steerguard.models.configured import facts_of_folder
    from steerguard.models.packaged import converted_smollm2

    return facts_of_folder(converted_smollm2() if model == PACKAGED else Path(model))
