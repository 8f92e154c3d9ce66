"""`steerguard calibrate`: thresholds from one's own benign prompts. Loads torch only when it scores."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerguard.cli.artifact_sources import LockOption
from steerguard.cli.model_option import ModelOption
from steerguard.cli.registry_source import RegistryOption, TrustOption
from steerguard.errors import BuildError, SteerguardError

if TYPE_CHECKING:
    from steerguard.artifacts.attestation import Attestation
    from steerguard.artifacts.calibration import Calibration
    from steerguard.evaluate.prompt_files import PromptSet
    from steerguard.registry.local import LocalDirectory
    from steerguard.registry.sources import Sources

_SHOWN_RATES = ("0.01", "0.02", "0.05", "0.1")

_Artifact = Annotated[
    str, typer.Argument(metavar="ARTIFACT", help="Reference of a probe, for example harmful-intent@^1.")
]
_Benign = Annotated[
    list[str],
    typer.Option(
        "--benign",
        metavar="[NAME=]PATH[#COLUMN][[START:STOP]]",
        help="Benign prompts like those that the guard will see: .txt, .csv, .json or .jsonl; may be repeated.",
    ),
]
_Out = Annotated[
    Path, typer.Option("--out", help="File for the attestation, or with --as-version a folder; must not exist.")
]
_Version = Annotated[
    str | None, typer.Option("--as-version", metavar="X.Y.Z", help="Write a new version of the artifact instead.")
]
_Weights = Annotated[
    str, typer.Option("--weights", help="Type of weights that the model is served in: bfloat16, float16 or float32.")
]
_AddTo = Annotated[
    Path | None, typer.Option("--add-to", help="With --as-version: local registry to add the new version to.")
]
_Created = Annotated[
    str | None, typer.Option("--created", metavar="TIME", help="YYYY-MM-DDTHH:MM:SSZ; now by default.")
]
_BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Prompts per forward pass.")]


def calibrate(
    artifact: _Artifact,
    model: ModelOption,
    benign: _Benign,
    out: _Out,
    as_version: _Version = None,
    weights: _Weights = "bfloat16",
    registry: RegistryOption = None,
    trust: TrustOption = None,
    lock: LockOption = None,
    add_to: _AddTo = None,
    created: _Created = None,
    batch_size: _BatchSize = 8,
) -> None:
    """Score benign prompts with a probe, and write an attestation or a new version; the artifact never changes."""
    try:
        time = _time(created)
        _check_out(out)
        _check_version(as_version, add_to)
        sets = _prompt_sets(benign)
        sources = _sources(artifact, registry, trust, lock)
        _calibrate(artifact, model, sets, out, as_version, weights, sources, add_to, time, batch_size)
    except SteerguardError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(1) from error


def _sources(reference: str, registry: str | None, trust: Path | None, lock: Path | None) -> Sources:
    """Return where the artifact comes from, once something that the reference admits was found and admitted there."""
    from steerguard.artifacts.reference import parse_reference
    from steerguard.sourcing import open_sources

    # Nothing is guarded here, and what comes out names the artifact by digest: a lock file is not asked for.
    sources = open_sources(registry, trust=trust, lock=lock, enforce=False, references=[reference]).sources
    # A wrong name, or an artifact that nobody who is trusted vouches for, is said before a model is loaded.
    next(sources.candidates(parse_reference(reference)))
    return sources


def _calibrate(
    reference: str,
    model: str,
    sets: list[PromptSet],
    out: Path,
    version: str | None,
    weights: str,
    sources: Sources,
    add_to: Path | None,
    created: str,
    batch_size: int,
) -> None:
    from steerguard.registry.local import open_registry

    # A registry that cannot take a version is said before a model is loaded.
    target = None if add_to is None else open_registry(add_to)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from steerguard.artifacts.verify import verify_artifact
    from steerguard.build.own_calibration import attest, calibrate, new_version
    from steerguard.models.inspect import inspect_model
    from steerguard.models.loading import load_named_model
    from steerguard.plan.resolve import resolve_reference

    loaded, tokenizer = load_named_model(model, weights)
    found = resolve_reference(reference, ("probe",), inspect_model(loaded, tokenizer), sources)
    for warning in found.evidence.warnings:
        typer.echo(f"warning: {warning}", err=True)
    files = dict(found.store.read(found.pin))
    artifact = verify_artifact(files, found.pin.digest, where=found.pin.reference)
    conversations = [conversation for one in sets for conversation in one.conversations]
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bars:
        task = bars.add_task("prompts", total=len(conversations))
        own = calibrate(
            artifact,
            loaded,
            tokenizer,
            conversations,
            source=f"own prompts: {', '.join(f'{one.name} ({len(one)})' for one in sets)}; {weights} weights",
            batch_size=batch_size,
            progress=lambda done, _: bars.update(task, completed=done),
        )
    typer.echo(f"{found.pin.reference} ({found.pin.digest}), {weights} weights.")
    if own.prompts.distinct < own.prompts.n:
        typer.echo(f"{own.prompts.n - own.prompts.distinct} of {own.prompts.n} prompts repeat an earlier one.")
    _show_rates(own.calibration, artifact.calibration)
    if version is None:
        _write_attestation(attest(artifact, own, created=created), out, reference)
    else:
        _write_version(new_version(files, artifact, own, version=version, created=created), out, target)


def _show_rates(own: Calibration, artifacts: Calibration | None) -> None:
    typer.echo(f"{own.n} benign scores; the smallest rate that they bound is {own.smallest_fpr}.")
    for rate in _SHOWN_RATES:
        if float(own.smallest_fpr) > float(rate):
            typer.echo(f"fpr {rate:<5} needs more prompts")
            continue
        before = "none"
        if artifacts is not None and float(artifacts.smallest_fpr) <= float(rate):
            before = f"{artifacts.threshold(rate):.4f}"
        typer.echo(
            f"fpr {rate:<5} threshold {own.threshold(rate):9.4f} (the artifact's own: {before}); on average over "
            f"calibrations at most {rate} of such prompts reach it, with 95 % confidence at most "
            f"{own.likely_rate(rate):.4f}"
        )


def _write_attestation(attestation: Attestation, out: Path, reference: str) -> None:
    from steerguard.artifacts.attestation import attestation_bytes
    from steerguard.canonical import sha256_hex

    content = attestation_bytes(attestation)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("xb") as stream:
            stream.write(content)
    except OSError as error:
        raise BuildError("The attestation cannot be written.", where=out, found=error.strerror) from error
    typer.echo(f"\nWrote {out}. It is not signed: a policy pins it by digest. In a policy, beside `{reference}`:\n")
    typer.echo(f'    calibration:\n      file: {out.name}\n      sha256: "{sha256_hex(content)}"')


def _write_version(files: dict[str, bytes], out: Path, add_to: LocalDirectory | None) -> None:
    from steerguard.artifacts.codec import write_new_folder
    from steerguard.artifacts.manifest import manifest_digest
    from steerguard.artifacts.paths import MANIFEST

    write_new_folder(out, files)
    typer.echo(f"\nWrote {out}  {manifest_digest(files[MANIFEST])}")
    if add_to is not None:
        pin = add_to.add(out)
        typer.echo(f"Added to {add_to.root}: {pin.reference}")


def _prompt_sets(benign: list[str]) -> list[PromptSet]:
    from steerguard.evaluate.prompt_files import read_prompts
    from steerguard.evaluate.prompt_spec import parse_specs

    return [read_prompts(spec, "answer") for spec in parse_specs([], benign)[1]]


def _check_out(out: Path) -> None:
    from steerguard.artifacts.paths import MANIFEST

    if out.exists():
        raise BuildError("The output exists already.", where=out, next_step="Choose a name that is not taken.")
    inside = next((folder for folder in out.absolute().parents if (folder / MANIFEST).exists()), None)
    if inside is not None:
        raise BuildError(
            "The output lies inside an artifact, and artifacts never change.",
            where=out,
            found=inside,
            next_step="Write it beside the policy that uses it.",
        )


def _check_version(version: str | None, add_to: Path | None) -> None:
    if version is not None:
        from steerguard.artifacts.versions import parse_version

        parse_version(version)
    elif add_to is not None:
        raise BuildError("Only a new version can be added to a registry.", where="--add-to", expected="--as-version")


def _time(created: str | None) -> str:
    if created is None:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        return datetime.strptime(created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError as error:
        raise BuildError(
            "This is not a time.", where="--created", expected="UTC such as 2026-01-31T12:00:00Z", found=created[:40]
        ) from error
