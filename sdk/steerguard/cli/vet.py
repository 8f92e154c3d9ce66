"""`steerguard vet`: check and measure an artifact, and sign what was found. Loads torch only when it runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerguard.cli.model_option import ModelOption
from steerguard.cli.reporting import reported
from steerguard.errors import EvaluationError
from steerguard.models.names import PACKAGED

if TYPE_CHECKING:
    from steerguard.signing.keys import SigningKey
    from steerguard.vetting.find_artifact import FoundArtifact
    from steerguard.vetting.load_suite import LoadedSuite
    from steerguard.vetting.run import Vetted, VettingJob

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells expect it."""

_Artifact = Annotated[str, typer.Argument(help="Folder of an artifact, or a reference such as harmful-intent@^2.")]
_Suite = Annotated[str, typer.Option("--suite", help="Shipped suite (quick, standard) or file.")]
_Key = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="The vetter's key; STEERGUARD_SIGNING_KEY without it.")
]
_Vetter = Annotated[str | None, typer.Option("--vetter", help="Who vets, for people; the key is what counts.")]
_Days = Annotated[int, typer.Option("--valid-days", min=1, max=3650, help="Days after which the record expires.")]
_Level = Annotated[int, typer.Option("--level", min=1, max=2, help="1: static checks only; 2: the suite as well.")]
_Independent = Annotated[
    bool, typer.Option("--independent", help="Level 3: level 2 by another key than those that released the artifact.")
]
_Registry = Annotated[
    Path | None,
    typer.Option("--registry", help="Local registry for references and for other artifacts of the suite."),
]
_Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="File for the statement; attestations/ of the artifact else."),
]
_Type = Annotated[str, typer.Option("--dtype", help="Type of the weights: bfloat16, float16 or float32.")]
_Measure = Annotated[
    bool,
    typer.Option("--measure-side-effects", help="Write a new version that states its side effects; sign nothing."),
]
_Version = Annotated[str | None, typer.Option("--new-version", metavar="X.Y.Z", help="The next PATCH version.")]
_To = Annotated[Path | None, typer.Option("--to", metavar="FOLDER", help="New folder for that version.")]


def vet(
    artifact: _Artifact,
    model: ModelOption,
    suite: _Suite = "quick",
    key: _Key = None,
    vetter: _Vetter = None,
    valid_days: _Days = 180,
    level: _Level = 2,
    registry: _Registry = None,
    out: _Out = None,
    dtype: _Type = "bfloat16",
    new_version: _Version = None,
    to: _To = None,
    *,
    independent: _Independent = False,
    measure_side_effects: _Measure = False,
) -> None:
    """Check an artifact, measure it with a suite, and write the signed record; exit code 1 when the verdict is fail.

    A record with the verdict fail is written as well: nothing is hidden.
    """
    try:
        with reported():
            if measure_side_effects:
                target = _new_version(new_version, to)
                _measure(artifact, model, suite, registry, dtype, *target)
                return
            if new_version is not None or to is not None:
                raise EvaluationError(
                    "A new version is written only when side effects are measured.",
                    expected="--measure-side-effects beside --new-version and --to",
                    found="not given",
                )
            passed = _vet(
                artifact, model, suite, registry, dtype, key, vetter, valid_days, 3 if independent else level, out
            )
    except KeyboardInterrupt:
        typer.echo("Stopped, nothing was written.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if not passed:
        raise typer.Exit(1)


def _vet(
    artifact: str,
    model: str,
    suite: str,
    registry: Path | None,
    dtype: str,
    key: Path | None,
    vetter: str | None,
    valid_days: int,
    level: int,
    out: Path | None,
) -> bool:
    from steerguard.cli.registry_source import signing_key

    # What is wrong with a key, a name or a place is said before a model is loaded.
    signer = signing_key(key)
    found = _found(artifact, registry)
    reference = found.artifact.manifest.reference
    if vetter is None:
        raise EvaluationError("A record says who vetted.", where="--vetter", expected="a name", found="none")
    if out is None and found.folder is None:
        raise EvaluationError(
            "Nothing is written into the embedded registry.",
            where=reference,
            expected="--out FILE",
            found="none",
        )
    if level == 3:
        from steerguard.vetting.statement import require_independent

        require_independent(found.artifact.files, signer.public, where=reference)
    job, vetted = _carried_out(found, model, suite, registry, dtype, level)
    return _signed(found, job, vetted, signer, vetter, valid_days, out)


def _signed(
    found: FoundArtifact,
    job: VettingJob,
    vetted: Vetted,
    signer: SigningKey,
    vetter: str,
    valid_days: int,
    out: Path | None,
) -> bool:
    from rich.console import Console

    from steerguard.artifacts.vetting import vetting_path
    from steerguard.cli.vet_table import show
    from steerguard.vetting.record import VettingTerms, conditions_of, record_of
    from steerguard.vetting.statement import signed_statement, write_statement

    terms = VettingTerms(
        vetted_by=signer.public.text,
        conditions=(f"Vetted by {vetter}.", *conditions_of(job, vetted)),
        now=datetime.now(UTC),
        valid_for=timedelta(days=valid_days),
    )
    record = record_of(vetted, job.suite, terms)
    content = signed_statement(found.artifact, record, signer)
    place = out or (found.folder or Path()) / vetting_path(signer.public.id, record.vetted_at)
    write_statement(place, content)
    show(Console(highlight=False), found.artifact.manifest.reference, record, place, signer.public.id)
    return record.verdict == "pass"


def _measure(artifact: str, model: str, suite: str, registry: Path | None, dtype: str, version: str, to: Path) -> None:
    from steerguard.artifacts.times import time_text
    from steerguard.vetting.side_effects import check_patch_version

    found = _found(artifact, registry)
    check_patch_version(version, found.artifact.manifest.version)
    job, vetted = _carried_out(found, model, suite, registry, dtype, 2, benign_only=True)
    from steerguard.artifacts.codec import write_new_folder
    from steerguard.artifacts.manifest import manifest_digest
    from steerguard.artifacts.paths import MANIFEST
    from steerguard.vetting.side_effects import side_effects_found, with_side_effects

    effects = side_effects_found(vetted, found.artifact, job.suite)
    files = with_side_effects(found.artifact, effects, version=version, created=time_text(datetime.now(UTC)))
    write_new_folder(to, files)
    for figure in effects.figures:
        typer.echo(f"{figure.title}: {figure.value} ({figure.low} to {figure.high}, n {figure.n})")
    typer.echo(f"Wrote {to}  {manifest_digest(files[MANIFEST])}")


def _found(artifact: str, registry: Path | None) -> FoundArtifact:
    from steerguard.registry.local import LocalDirectory
    from steerguard.vetting.find_artifact import find_artifact

    return find_artifact(artifact, None if registry is None else LocalDirectory(registry))


def _carried_out(
    found: FoundArtifact,
    model: str,
    suite: str,
    registry: Path | None,
    dtype: str,
    level: int,
    *,
    benign_only: bool = False,
) -> tuple[VettingJob, Vetted]:
    from steerguard.cli.evaluate import progress_bar
    from steerguard.registry.local import LocalDirectory, embedded_registry
    from steerguard.vetting.load_suite import load_suite

    loaded: LoadedSuite = load_suite(suite)
    loaded.suite.case_for(found.artifact.manifest) if level >= 2 else None
    with progress_bar() as told:
        told.note("loading the model")
        from steerguard.models.loading import load_named_model
        from steerguard.vetting.run import VettingJob
        from steerguard.vetting.run import vet as run_vetting

        job = VettingJob(
            artifact=found.artifact,
            suite=loaded,
            base=embedded_registry() if registry is None else LocalDirectory(registry),
            model_name=model if model == PACKAGED else Path(model).resolve().name,
            level=level,
            sets=(loaded.suite.overhead.set,) if benign_only else None,
        )
        return job, run_vetting(job, *load_named_model(model, dtype), progress=told)


def _new_version(version: str | None, to: Path | None) -> tuple[str, Path]:
    if version is None or to is None:
        raise EvaluationError(
            "Measured side effects make a new version of the artifact.",
            expected="--new-version X.Y.Z and --to FOLDER",
            found="not both",
        )
    if to.exists():
        raise EvaluationError("The folder exists already.", where=to, next_step="Choose a name that is not taken.")
    return version, to
