"""Running `steerguard registry` in tests, and what it is run on: keys in files, trust policies, artifacts in folders."""

from __future__ import annotations

import os
from pathlib import Path

from tests.signed_artifacts import lab
from typer.testing import CliRunner

from steerguard.cli.registry import app
from steerguard.signing.keys import SigningKey


def run(*arguments, **environment):
    """Run one registry command; the answer has `exit_code`, `stdout` and `stderr`."""
    runner = CliRunner(env={"COLUMNS": "240", "STEERGUARD_SIGNING_KEY": None, **environment})
    return runner.invoke(app, [str(argument) for argument in arguments])


def key_file(folder: Path, name: str) -> tuple[Path, SigningKey]:
    """Make a new key in a file."""
    file = folder / f"{name}.pem"
    return file, SigningKey.create(file)


def trust_file(folder: Path, publisher: SigningKey, *registries: str, require: str = "{signatures: 1}") -> Path:
    """Write a trust policy: this key publishes in these registries and signs their index and revocations."""
    quoted = ", ".join(f'"{name}"' for name in registries)
    lines = [
        "apiVersion: steerguard/v1alpha1",
        "kind: TrustPolicy",
        "publishers:",
        f'  - {{id: acme, registries: [{quoted}], keys: [{{key: "{publisher.public.text}"}}], require: {require}}}',
        "vetters:",
        f"  - {lab()}",
    ]
    signed = [name for name in registries if "*" not in name]
    if signed:
        lines.append("registries:")
        lines += [f'  - {{registry: "{name}", keys: [{{key: "{publisher.public.text}"}}]}}' for name in signed]
    file = folder / "trust.yaml"
    file.write_text("\n".join(lines) + "\n")
    return file


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder by path."""
    return {
        os.path.relpath(Path(root) / name, folder): (Path(root) / name).read_bytes()
        for root, _, names in os.walk(folder)
        for name in names
    }
