"""What the parts of a recipe share: strictness, and the types of names, blocks and decimal texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$", max_length=64)]
BlockIndex = Annotated[int, Field(ge=0, le=1023)]
Blocks = Annotated[tuple[BlockIndex, ...], Field(min_length=1, strict=False)]
BlocksOrNone = Annotated[tuple[BlockIndex, ...], Field(strict=False)]
"""Blocks; the empty list is none."""
Strength = Annotated[str, Field(pattern=r"^\d+(\.\d+)?$", max_length=20)]
"""A multiple of a vector, decimal string."""
FloatDtype = Literal["bfloat16", "float16", "float32"]


class RecipePart(BaseModel):
    """One part of a recipe: no unknown keys, no converted types, no changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


def ascending(lists: Mapping[str, tuple[int, ...]]) -> None:
    """Check that every list of blocks ascends without repetition.

    Raises:
        ValueError: one does not; the message begins with its field.
    """
    for field, blocks in lists.items():
        if list(blocks) != sorted(set(blocks)):
            message = f"{field}: blocks must ascend and differ"
            raise ValueError(message)


def given_once(field: str, value: Any, list_field: str, values: Any) -> None:
    """Check that a setting is given either by itself or as a list to search, not both and not neither.

    Raises:
        ValueError: both or none are given; the message begins with a field.
    """
    if value is None and values is None:
        message = f"{field}: give it, or give {list_field}"
        raise ValueError(message)
    if value is not None and values is not None:
        message = f"{field}: leave it out, since {list_field} chooses it"
        raise ValueError(message)
