"""Control vectors in GGUF files, as repeng writes them and llama.cpp reads them.

Such a file has the architecture `controlvector` and one F32 tensor `direction.N` of the model's width for each decoder
block N; block 0 has none. llama.cpp adds `direction.N`, times a scale, to the output of block N (counted from 0) at every
position (https://github.com/ggml-org/llama.cpp, common/common.cpp and src/llama-adapter.cpp;
https://github.com/vgel/repeng, repeng/control.py).
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from steerguard.canonical import sha256_hex
from steerguard.errors import ArtifactError, ArtifactFormatError, ContentError
from steerguard.registry.folder import read_file

ARCHITECTURE: Final = "controlvector"
MAX_VECTOR_FILE_BYTES: Final = 256 * 1024 * 1024
_MAX_FIELDS: Final = 64
_MAX_TEXT: Final = 500
_NAME = re.compile(r"direction\.(0|[1-9][0-9]{0,5})")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ControlVector:
    """What a file says."""

    directions: Mapping[int, Tensor]
    """Float32 vectors by decoder block, counted from 0; at least one, all of one width, none at block 0."""
    metadata: Mapping[str, str]
    """What the writer says beside the tensors: texts and numbers, shortened where they are long."""
    sha256: str
    """Digest of the file's bytes."""

    @property
    def width(self) -> int:
        """Number of values of each direction."""
        return next(iter(self.directions.values())).shape[0]


def read_control_vector(file: Path) -> ControlVector:
    """Read a control vector; the file is read once, and what was hashed is what is parsed.

    Raises:
        ContentError: the `gguf` package is not installed.
        ArtifactFormatError: no control vector in GGUF, too large, or a direction that a model cannot have.
        ArtifactError: the file cannot be read.
    """
    gguf = _gguf()
    try:
        content = read_file(file, max_bytes=MAX_VECTOR_FILE_BYTES)
        with tempfile.TemporaryDirectory(prefix="steerguard-gguf-") as folder:
            copy = Path(folder) / "vector.gguf"
            copy.write_bytes(content)
            directions, metadata = _parsed(gguf, copy, file.name)
    except OSError as error:
        raise ArtifactError("The control vector cannot be read.", where=file, found=error.strerror) from error
    return ControlVector(directions=directions, metadata=metadata, sha256=sha256_hex(content))


def write_control_vector(
    file: Path, directions: Mapping[int, Tensor], *, model_hint: str, metadata: Mapping[str, str]
) -> None:
    """Write a control vector into a file that must not exist yet: all of it or nothing.

    Args:
        file: path of the new file.
        directions: vectors by decoder block, counted from 0; written as float32.
        model_hint: kind of the model for people, for example `llama`.
        metadata: more texts, by GGUF key.

    Raises:
        ContentError: the `gguf` package is not installed.
        ArtifactFormatError: block 0 has a direction, or there is none at all.
        ArtifactError: the file exists or cannot be written.
    """
    gguf = _gguf()
    if not directions or min(directions) < 1:
        raise ArtifactFormatError(
            "A GGUF control vector has directions from block 1 on.",
            where=file,
            expected="at least one block, none of them block 0",
            found=sorted(directions),
        )
    try:
        with tempfile.TemporaryDirectory(prefix=".steerguard-gguf-", dir=file.parent) as folder:
            staged = Path(folder) / "vector.gguf"
            writer = gguf.GGUFWriter(staged, ARCHITECTURE)
            try:
                writer.add_string(f"{ARCHITECTURE}.model_hint", model_hint)
                writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(directions))
                for key, text in metadata.items():
                    writer.add_string(key, text)
                for block in sorted(directions):
                    writer.add_tensor(f"direction.{block}", directions[block].detach().float().cpu().numpy().copy())
                writer.write_header_to_file()
                writer.write_kv_data_to_file()
                writer.write_tensors_to_file()
            finally:
                writer.close()
            # A hard link appears whole or not at all, and fails where a rename would replace a file.
            os.link(staged, file)
    except OSError as error:
        raise ArtifactError(
            "The control vector cannot be written.",
            where=file,
            expected="a path in a writable folder that does not exist yet",
            found=error.strerror,
        ) from error


def _parsed(gguf: Any, copy: Path, name: str) -> tuple[dict[int, Tensor], dict[str, str]]:
    try:
        reader = gguf.GGUFReader(copy)
        metadata = _metadata(gguf, reader)
        tensors = [(one.name, one.tensor_type.name, one.data) for one in reader.tensors]
    # The reader checks little: a damaged file surfaces as whatever its arithmetic runs into.
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, AttributeError) as error:
        raise ArtifactFormatError(
            "This is not a GGUF file that can be read.",
            where=name,
            expected="a control vector as repeng or llama.cpp writes it",
            found=type(error).__name__,
        ) from error
    found = metadata.get("general.architecture")
    if found != ARCHITECTURE:
        raise ArtifactFormatError(
            "The file holds no control vector.",
            where=f"{name}: general.architecture",
            expected=ARCHITECTURE,
            found=found,
        )
    directions: dict[int, Tensor] = {}
    for tensor, kind, data in tensors:
        block = _block(tensor, name)
        if kind != "F32" or data.ndim != 1 or data.size < 1:
            raise ArtifactFormatError(
                "A direction has another form.",
                where=f"{name}: {tensor}",
                expected="F32 values in one row",
                found=f"{kind} {list(data.shape)}",
            )
        if block in directions:
            raise ArtifactFormatError("A block has two directions.", where=f"{name}: {tensor}", expected="one")
        directions[block] = torch.from_numpy(data.astype("<f4", copy=True))
    widths = {direction.shape[0] for direction in directions.values()}
    if len(widths) != 1:
        raise ArtifactFormatError(
            "The directions have not one width.",
            where=name,
            expected="at least one direction, all of the same width",
            found=sorted(widths) or "no direction",
        )
    return dict(sorted(directions.items())), metadata


def _metadata(gguf: Any, reader: Any) -> dict[str, str]:
    """Return the texts and numbers of the file's header; lists are left out."""
    kept: dict[str, str] = {}
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or not field.types or field.types[0] == gguf.GGUFValueType.ARRAY:
            continue
        if len(kept) < _MAX_FIELDS:
            kept[str(key)[:_MAX_TEXT]] = str(field.contents())[:_MAX_TEXT]
    return kept


def _block(tensor: str, name: str) -> int:
    named = _NAME.fullmatch(tensor)
    if named is None or int(named[1]) < 1:
        raise ArtifactFormatError(
            "The file holds a tensor that is no direction.",
            where=name,
            expected="direction.N with N from 1 on",
            found=repr(tensor[:80]),
        )
    return int(named[1])


def _gguf() -> Any:
    try:
        import gguf  # noqa: PLC0415  an extra of the package
    except ImportError as error:
        raise ContentError(
            "Control vectors need the gguf package.", found=str(error), next_step="run\npip install 'steerguard[gguf]'"
        ) from error
    return gguf
