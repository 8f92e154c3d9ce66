"""Follow the location of a validation error through the models to the field of the document that it is about.

The locations of pydantic hold the tag of each union that was passed; documents do not, so tags are dropped here.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic.fields import FieldInfo

    from steerguard.policy.problems import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """What is known of the field that an error is about."""

    path: Path
    """Path in the document."""
    owner: type[BaseModel] | None
    """Model that holds the field, or would hold it."""
    info: FieldInfo | None
    """Declaration of the field; None for an unknown one."""

    @property
    def is_item(self) -> bool:
        """Whether this is an item of a list, and `info` the declaration of the list."""
        return bool(self.path) and isinstance(self.path[-1], int)

    @property
    def name(self) -> str:
        """Last name of the path, with the position for an item of a list."""
        names = [str(part) for part in self.path if isinstance(part, str)]
        if not names:
            return "the document"
        return f"{names[-1]}.{self.path[-1]}" if self.is_item else names[-1]

    @property
    def siblings(self) -> tuple[str, ...]:
        """Names of all fields that are legal beside this one."""
        if self.owner is None:
            return ()
        return tuple(info.alias or name for name, info in self.owner.model_fields.items())

    @property
    def unit(self) -> str | None:
        """Unit of the field, if it has one."""
        extra = self.info.json_schema_extra if self.info is not None else None
        unit = extra.get("x-unit") if isinstance(extra, dict) else None
        return unit if isinstance(unit, str) else None


def find_field(model: type[BaseModel], location: Sequence[str | int]) -> Field:
    """Return the field at a location that a validation of `model` reported."""
    annotation: Any = model
    path: Path = ()
    owner: type[BaseModel] | None = None
    info: FieldInfo | None = None
    for part in location:
        annotation = _bare(annotation)
        members = _members(annotation)
        if len(members) > 1:
            annotation = members.get(part)
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            owner, info = annotation, _declaration(annotation, part)
            annotation = info.annotation if info is not None else None
            path = (*path, part)
        else:
            arguments = get_args(annotation)
            annotation = arguments[0] if arguments else None
            path = (*path, part)
    return Field(path=path, owner=owner, info=info)


def _declaration(model: type[BaseModel], name: str | int) -> FieldInfo | None:
    for python_name, info in model.model_fields.items():
        if (info.alias or python_name) == name:
            return info
    return None


def _bare(annotation: Any) -> Any:
    """Return the annotation without `Annotated` and without `None` as an alternative."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
            continue
        if get_origin(annotation) in {Union, UnionType}:
            alternatives = [member for member in get_args(annotation) if member is not NoneType]
            if len(alternatives) == 1:
                annotation = alternatives[0]
                continue
        return annotation


def _members(annotation: Any) -> dict[str | int, Any]:
    """Return the alternatives of a tagged union by tag; nothing for any other type."""
    if get_origin(annotation) not in {Union, UnionType}:
        return {}
    return {tag: member for member in get_args(annotation) for tag in _tags(member)}


def _tags(member: Any) -> tuple[str, ...]:
    if get_origin(member) is Annotated:
        return tuple(entry.tag for entry in get_args(member)[1:] if isinstance(entry, Tag))
    method = member.model_fields["method"].annotation
    return get_args(method) if get_origin(method) is Literal else ()
