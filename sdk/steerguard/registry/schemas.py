"""The JSON Schemas of the registry's documents, generated from the models.

`python -m steerguard.registry.schemas --write registry/schemas` (or `--check`).
A schema describes each field by itself; canonical form and what must hold between fields are checked by the parsers only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from steerguard.artifacts.release import ReleaseStatement
from steerguard.artifacts.vetting import VettingStatement
from steerguard.registry.index import RegistryIndex
from steerguard.registry.lockfile import Lockfile
from steerguard.registry.revocations import RevocationList
from steerguard.registry.signed_index import SignedIndex

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

DOCUMENTS: Final[Mapping[str, type[BaseModel]]] = {
    "index.v1alpha1": RegistryIndex,
    "lockfile.v1alpha1": Lockfile,
    "release.v1": ReleaseStatement,
    "revocations.v1alpha1": RevocationList,
    "signed-index.v1alpha1": SignedIndex,
    "vetting.v1": VettingStatement,
}
"""Model by name of the document; the manifest's schema lies beside the embedded registry."""


def file_name(document: str) -> str:
    """Return the name of a committed schema file."""
    return f"{document}.schema.json"


def document_schema(document: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of one of `DOCUMENTS`."""
    name, _, version = document.partition(".")
    schema = DOCUMENTS[document].model_json_schema(by_alias=True)
    return {"$schema": DIALECT, "$id": f"urn:steerguard:{name}:{version}", **schema}


def render(document: str) -> str:
    """Return the text of the committed schema file of one of `DOCUMENTS`."""
    return json.dumps(document_schema(document), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def outdated(folder: Path) -> tuple[str, ...]:
    """Return which schema files of the folder are missing or differ from what the models say."""
    files = {folder / file_name(document): render(document) for document in DOCUMENTS}
    return tuple(
        file.name for file, text in files.items() if not file.is_file() or file.read_text(encoding="utf-8") != text
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `--write FOLDER` or `--check FOLDER`.

    Raises:
        SystemExit: with `--check`, a file differs from what the models say.
    """
    parser = argparse.ArgumentParser(prog="python -m steerguard.registry.schemas")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--write", type=Path, metavar="FOLDER")
    choice.add_argument("--check", type=Path, metavar="FOLDER")
    chosen = parser.parse_args(arguments)
    if chosen.write is not None:
        chosen.write.mkdir(parents=True, exist_ok=True)
        for document in DOCUMENTS:
            (chosen.write / file_name(document)).write_text(render(document), encoding="utf-8")
    elif names := outdated(chosen.check):
        parser.exit(1, f"{chosen.check} is not up to date ({', '.join(names)}): {parser.prog} --write {chosen.check}\n")


if __name__ == "__main__":
    main()
