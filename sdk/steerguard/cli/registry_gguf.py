"""`steerguard registry import-gguf` and `export-gguf`: control vectors of repeng and llama.cpp."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from steerguard.artifacts.reference import parse_reference
from steerguard.artifacts.times import time_text
from steerguard.cli.model_option import ModelOption
from steerguard.cli.registry_diff import artifact_at
from steerguard.cli.registry_source import EndpointOption, RegistryAccess, RegistryOption, TrustOption
from steerguard.cli.reporting import reported
from steerguard.errors import ArtifactError

_Weights = Annotated[
    list[str], typer.Option("--weights", help="Type of weights to record the fingerprint for; repeatable.")
]


def import_gguf(
    file: Annotated[Path, typer.Argument(help="Control vector in GGUF.")],
    *,
    model: ModelOption,
    artifact: Annotated[
        str, typer.Option("--artifact", metavar="FAMILY/VARIANT@X.Y.Z", help="What the new artifact is called.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the artifact; must not exist.")],
    license_: Annotated[str, typer.Option("--license", help="SPDX expression of the control vector.")],
    base_repo: Annotated[
        str | None, typer.Option("--base-repo", help="Name of the model for people; by default the model's own.")
    ] = None,
    weights: _Weights = ["bfloat16", "float32"],  # noqa: B006  typer copies it
    strength: Annotated[
        str, typer.Option("--strength", help="What coefficient 1.0 multiplies the vectors by.")
    ] = "1.0",
) -> None:
    """Make an unvetted artifact from a control vector, bound to the named model.

    It cannot be published before its side effects are measured.
    """
    with reported():
        if out.exists():
            raise ArtifactError("The output folder exists already.", where=out, next_step="Choose a new folder.")
        reference = parse_reference(artifact)
        if reference.backend != "default" or reference.variant is None:
            raise ArtifactError(
                "The artifact needs a full name.", where="--artifact", expected="FAMILY/VARIANT@X.Y.Z", found=artifact
            )
        from steerguard.integrations.gguf_vectors import read_control_vector

        vector = read_control_vector(file)
        from steerguard.artifacts.codec import write_new_folder
        from steerguard.artifacts.manifest import manifest_digest
        from steerguard.integrations.control_vectors import ImportedName, import_control_vector
        from steerguard.models.loading import load_named_model

        loaded, tokenizer = load_named_model(model, "float32")
        name = ImportedName(
            family=reference.family,
            variant=reference.variant,
            version=reference.range,
            license=license_,
            base_repo=base_repo or model.rstrip("/").rpartition("/")[2],
            source=file.name,
            created=time_text(datetime.now(UTC)),
        )
        files = import_control_vector(vector, loaded, tokenizer, name, weights=tuple(weights), strength=strength)
        write_new_folder(out, files)
        typer.echo(
            f"imported {artifact} {manifest_digest(files['manifest.json'])}\nwritten  {out}\nunvetted: nobody has measured what it does"
        )


def export_gguf(
    artifact: Annotated[str, typer.Argument(help="Reference or folder of an artifact of steering vectors.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The new GGUF file; must not exist.")],
    registry: RegistryOption = None,
    trust: TrustOption = None,
    endpoint: EndpointOption = None,
) -> None:
    """Write an artifact's vectors as a control vector; scale 1.0 is the artifact's calibrated strength."""
    with reported():
        name, digest, files = artifact_at(artifact, RegistryAccess.of(trust, endpoint), registry)
        from steerguard.artifacts.verify import verify_artifact
        from steerguard.integrations.control_vectors import export_control_vector

        notes = export_control_vector(verify_artifact(files, digest, where=name), out)
        typer.echo(f"written  {out}")
        for note in notes:
            typer.echo(f"note: {note}")
