"""The files of a Hugging Face model, held to their pinned digests before anything is made of them.

What is loaded is not the folder that was found but a new one that holds the pinned files only: a file that nobody
pinned (code, a pickle, an adapter, another tokenizer) cannot be picked up on the way.
Weights are linked and everything else is copied. A person who can replace the weights between the check and the load
can also replace this program; that is not defended against.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from steerguard.critics.text_models import FileName, Locate, PinnedModel
from steerguard.errors import ArtifactError, ArtifactIntegrityError, ArtifactNotFoundError

_LEGAL: TypeAdapter[str] = TypeAdapter(FileName)


def found_locally(model: PinnedModel) -> Path:
    """Return the folder of a model: the one that it names, or its snapshot in the local cache of the Hub.

    Nothing is downloaded.

    Raises:
        ArtifactNotFoundError: the cache does not hold that revision.
    """
    if model.folder is not None:
        return Path(model.folder)
    from huggingface_hub import snapshot_download  # noqa: PLC0415  not needed for folders
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415  as above

    try:
        return Path(snapshot_download(str(model.repository), revision=model.revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise ArtifactNotFoundError(
            "The model of a cost model is not on this machine.",
            expected=f"{model.where} in the local cache of the Hub",
            found="nothing",
            where="params.model",
            next_step="Download that revision once, or name a folder that holds its files.",
        ) from error


def pins_of_folder(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file in a folder that a description may pin: the `files` of `PinnedModel`.

    Other files, such as code and pickles, are left out.

    Raises:
        ArtifactError: the folder cannot be read.
    """
    try:
        return {
            path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.is_file() and _is_legal(path.name)
        }
    except OSError as error:
        raise ArtifactError(
            "The folder of a model cannot be read.",
            expected="a folder as `save_pretrained` writes it",
            found=error.strerror,
            where=folder,
            next_step="Name the folder that holds config.json.",
        ) from error


@contextmanager
def checked_folder(model: PinnedModel, locate: Locate) -> Iterator[Path]:
    """Give a folder that holds exactly the pinned files, each with its pinned digest; gone afterwards.

    Raises:
        ArtifactNotFoundError: a file is not there.
        ArtifactIntegrityError: a file has another digest.
    """
    source = locate(model)
    with tempfile.TemporaryDirectory(prefix="steerguard-model-") as name:
        staged = Path(name)
        for file, pinned in model.files.items():
            place = staged / file
            is_weights = file.endswith(".safetensors")
            try:
                if is_weights:
                    place.symlink_to((source / file).resolve(strict=True))
                else:
                    shutil.copyfile(source / file, place)
                # Of a copy, the copy is what is checked.
                found = _sha256(place)
            except OSError as error:
                raise ArtifactNotFoundError(
                    "A file of a pinned model cannot be read.",
                    expected=file,
                    found=error.strerror,
                    where=f"{model.where}: {source}",
                    next_step="Bring the whole model onto this machine, or correct `params.model`.",
                ) from error
            if found != pinned:
                raise ArtifactIntegrityError(
                    "A file of a pinned model has another digest.",
                    expected=pinned,
                    found=found,
                    where=f"{model.where}: {source / file}",
                    next_step="Fetch the model again; if the change is intended, publish the cost model as a new version.",
                )
        yield staged


def _is_legal(name: str) -> bool:
    try:
        _LEGAL.validate_python(name)
    except ValidationError:
        return False
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
