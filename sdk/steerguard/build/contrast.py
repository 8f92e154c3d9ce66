"""Contrast prompts: harmful and benign conversations in three splits.

A prompt file is JSON lines; each row has `id`, `split` (`build`, `held_out` or `calibration`), `kind` and
`messages`. Vectors, donors and probes see `build` only, thresholds come from `calibration`, and `held_out` only
measures. Texts never leave this layer except as model inputs; what is recorded are counts and digests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steerguard.build.recipe import Recipe
from steerguard.canonical import digest, sha256_hex
from steerguard.errors import RecipeError

Split = Literal["build", "held_out", "calibration"]
Conversation = tuple[dict[str, str], ...]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(min_length=1)]


class _Row(BaseModel):
    # Prompt files may carry more columns for people, such as a source.
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    id: Annotated[str, Field(min_length=1)]
    split: Split
    kind: Annotated[str, Field(min_length=1)]
    messages: Annotated[tuple[_Message, ...], Field(min_length=1, strict=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Conversations of one class in file order."""

    ids: tuple[str, ...]
    kinds: tuple[str, ...]
    splits: tuple[Split, ...]
    conversations: tuple[Conversation, ...]

    def __len__(self) -> int:
        """Return how many conversations there are."""
        return len(self.ids)

    def split(self, name: Split) -> PromptSet:
        """Return the conversations of one split."""
        return self.chosen([index for index, split in enumerate(self.splits) if split == name])

    def without_kinds(self, kinds: tuple[str, ...]) -> PromptSet:
        """Return the conversations whose kind is none of these."""
        return self.chosen([index for index, kind in enumerate(self.kinds) if kind not in kinds])

    def chosen(self, chosen: list[int]) -> PromptSet:
        """Return the conversations at these places, in the order given."""
        return PromptSet(
            ids=tuple(self.ids[index] for index in chosen),
            kinds=tuple(self.kinds[index] for index in chosen),
            splits=tuple(self.splits[index] for index in chosen),
            conversations=tuple(self.conversations[index] for index in chosen),
        )

    @property
    def content_digest(self) -> str:
        """`sha256:<hex>` over the conversations in order."""
        return digest([[dict(message) for message in conversation] for conversation in self.conversations])


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastData:
    """Both classes with the digests of the files that they came from."""

    harmful: PromptSet
    benign: PromptSet
    file_digests: dict[str, str]
    """Path as written in the recipe to SHA-256 of the file."""


def load_contrast(recipe: Recipe) -> ContrastData:
    """Read the prompt files of a recipe.

    Raises:
        RecipeError: a file is missing or malformed, or a class has no prompts in the `build` split.
    """
    sets: dict[str, PromptSet] = {}
    digests: dict[str, str] = {}
    for field, relative in (("harmful", recipe.document.prompts.harmful), ("benign", recipe.document.prompts.benign)):
        path = recipe.folder / relative
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RecipeError(
                "A prompt file cannot be read.",
                where=f"prompts.{field}",
                found=relative,
                next_step="write the path relative to the recipe",
            ) from error
        sets[field] = _parse(content, relative)
        digests[relative] = sha256_hex(content)
        if len(sets[field].split("build")) == 0:
            raise RecipeError(
                "A prompt file has no prompts to build from.",
                where=f"prompts.{field}",
                expected="at least one row of the split build",
                found=relative,
            )
    return ContrastData(harmful=sets["harmful"], benign=sets["benign"], file_digests=digests)


def _parse(content: bytes, name: str) -> PromptSet:
    rows: list[_Row] = []
    seen: set[str] = set()
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            row = _Row.model_validate(json.loads(line))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RecipeError("A prompt row is not JSON.", where=where) from error
        except ValidationError as error:
            fields = ", ".join(".".join(str(part) for part in problem["loc"]) for problem in error.errors())
            raise RecipeError("A prompt row has wrong fields.", where=where, found=fields) from None
        if row.id in seen:
            raise RecipeError("Two prompt rows have the same id.", where=where, found=row.id)
        seen.add(row.id)
        rows.append(row)
    return PromptSet(
        ids=tuple(row.id for row in rows),
        kinds=tuple(row.kind for row in rows),
        splits=tuple(row.split for row in rows),
        conversations=tuple(
            tuple({"role": message.role, "content": message.content} for message in row.messages) for row in rows
        ),
    )


def prompt_file(path: Path) -> PromptSet:
    """Read one prompt file by itself, for measuring.

    Raises:
        RecipeError: the file is missing or malformed.
    """
    try:
        return _parse(path.read_bytes(), path.name)
    except OSError as error:
        raise RecipeError("A prompt file cannot be read.", where=path) from error
