"""The allow-list: what is not in the closed model of its event type does not get into a line.

An event is opened into plain dictionaries, and these are validated, values included, however the event was made: a body
that skipped its own validation, a subclass, or another model inside is refused.
What passes on is not the event but what the validator built from it.

Parts that stay the same from record to record (policy, model, artifacts, thresholds) are validated when they are first
written; their canonical JSON is kept and put into every later line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import GenericAlias, UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, NotRequired, Union, get_args, get_origin

import orjson
from pydantic import ConfigDict, InstanceOf, TypeAdapter, ValidationError
from pydantic_core import SchemaValidator
from typing_extensions import TypedDict

from steerguard.audit.records.chain import canonical_line
from steerguard.audit.records.events import BODIES, Envelope
from steerguard.audit.records.fields import (
    ArtifactPin,
    ModelReference,
    Part,
    PolicyReference,
    RecordedThreshold,
)
from steerguard.errors import AuditError

SETTLED: Final[tuple[type[Part], ...]] = (PolicyReference, ModelReference, ArtifactPin, RecordedThreshold)
"""Parts that are the same in many records. They hold no other parts."""
REMEMBERED: Final = 1024
"""How many settled parts are kept at most."""

_CLOSED: Final = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
# Called with what the models say, which no type checker can follow.
_INSTANCE_OF: Final[Any] = InstanceOf
_TYPED_DICT: Final[Any] = TypedDict


class _Nested(NamedTuple):
    """A field that holds parts which are not settled: one, a tuple of them, or null."""

    name: str
    part: type[Part]
    opening: _Opening
    plain: bool
    """Whether the part holds no other parts, and its fields have their own names."""


class _Opening(NamedTuple):
    """How a part becomes a dictionary."""

    names: frozenset[str]
    nested: tuple[_Nested, ...]
    renamed: tuple[tuple[str, str], ...]
    """Fields that have another name in the record."""


def _opening(part: type[Part]) -> _Opening:
    fields = part.model_fields.items()
    nested = [(name, inner) for name, info in fields for inner in _parts(info.annotation) if inner not in SETTLED]
    return _Opening(
        frozenset(part.model_fields),
        tuple(_nested(name, inner) for name, inner in nested),
        tuple((name, info.alias) for name, info in fields if info.alias is not None),
    )


def _nested(name: str, part: type[Part]) -> _Nested:
    opening = _opening(part)
    return _Nested(name, part, opening, not opening.nested and not opening.renamed)


def _parts(annotation: Any) -> tuple[type[Part], ...]:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return (annotation,)
    return tuple(part for argument in get_args(annotation) for part in _parts(argument))


def _closed(name: str, parts: tuple[type[Part], ...], event_type: str | None = None) -> Any:
    """Return the type of a dictionary with the fields of these models and, for a record, its type; nothing else."""
    fields: dict[str, Any] = {} if event_type is None else {"type": Literal[event_type]}
    for part in parts:
        for field, info in part.model_fields.items():
            kind = _plain(info.annotation)
            for constraint in info.metadata:
                kind = Annotated[kind, constraint]
            fields[info.alias or field] = kind if info.is_required() else NotRequired[kind]
    closed = _TYPED_DICT(name, fields)
    closed.__pydantic_config__ = _CLOSED
    return closed


def _plain(annotation: Any) -> Any:
    """Return the annotation with dictionaries in place of models; settled parts stay, they are validated by themselves."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return (
            Annotated[annotation, _INSTANCE_OF()]
            if annotation in SETTLED
            else _closed(annotation.__name__, (annotation,))
        )
    origin = get_origin(annotation)
    if origin in {Union, UnionType}:
        return Union[tuple(_plain(one) for one in get_args(annotation))]  # noqa: UP007 - built at run time
    if origin is tuple:
        return GenericAlias(tuple, tuple(_plain(one) for one in get_args(annotation)))
    return annotation


def _validator(closed: Any) -> SchemaValidator:
    validator = TypeAdapter(closed).validator
    assert isinstance(validator, SchemaValidator)
    return validator


_OPENINGS: Final[Mapping[type, _Opening]] = {body: _opening(body) for body in BODIES}
_RECORDS: Final[Mapping[str, SchemaValidator]] = {
    body.event_type: _validator(_closed(body.__name__, (Envelope, body), body.event_type)) for body in BODIES
}
_SETTLED: Final[Mapping[type[Part], SchemaValidator]] = {
    part: _validator(_closed(part.__name__, (part,))) for part in SETTLED
}


def _names(parts: Iterable[type[Part]]) -> set[str]:
    inner = {one for part in parts for info in part.model_fields.values() for one in _parts(info.annotation)}
    own = {info.alias or name for part in parts for name, info in part.model_fields.items()}
    return own | _names(inner) if inner else own


_NAMES: Final = _names((*BODIES, Envelope))
"""Names of fields: of the path to an error only these are shown, for an unknown key is itself the caller's text."""


def opened(body: Part) -> dict[str, Any]:
    """Return the fields of an event as plain dictionaries and settled parts.

    Raises:
        AuditError: it is not exactly of a class of the closed set, or holds a part of another class than it may.
    """
    opening = _OPENINGS.get(type(body))
    if opening is None:
        raise _unfit("event", "it is not of a class of the closed set of audit events")
    if not body.__dict__.keys() <= opening.names:
        # The record's validator would let the names of the envelope pass.
        raise _unfit("event", "it has a field that its class does not have")
    return _fields(body, opening)


def admitted(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record as the closed model of its type admits it, settled parts as they are.

    Raises:
        AuditError: something is not in the model. The message names the place, never the value.
    """
    validator = _RECORDS.get(record["type"])
    if validator is None:
        raise AuditError("This event type is not in the closed set of audit events.", expected=", ".join(_RECORDS))
    try:
        built: dict[str, Any] = validator.validate_python(record)
    except ValidationError as error:
        raise refused_fields(error, where=record["type"]) from None
    return built


class SettledParts:
    """Writes the lines of one log, and remembers the JSON of settled parts; it belongs to whoever holds the log's lock."""

    __slots__ = ("_settled",)

    def __init__(self) -> None:
        # By id, with the part itself, so that no other object gets that id.
        self._settled: dict[int, tuple[Part, orjson.Fragment]] = {}

    def line(self, record: dict[str, Any]) -> bytes:
        """Return the canonical line of an admitted record.

        Raises:
            AuditError: a settled part is not what its model admits.
        """
        return canonical_line(record, default=self._fragment)

    def _fragment(self, part: Part) -> orjson.Fragment:
        found = self._settled.get(id(part))
        if found is not None:
            return found[1]
        validator = _SETTLED.get(type(part))
        if validator is None:
            raise _unfit(type(part).__name__, "it is not of a class of the closed set of settled parts")
        try:
            fragment = orjson.Fragment(canonical_line(validator.validate_python(part.__dict__)))
        except ValidationError as error:
            raise refused_fields(error, where=type(part).__name__) from None
        if len(self._settled) >= REMEMBERED:
            self._settled.clear()
        self._settled[id(part)] = (part, fragment)
        return fragment


def _fields(part: Part, opening: _Opening) -> dict[str, Any]:
    fields = part.__dict__.copy()
    for name, inner, nested, plain in opening.nested:
        value = fields.get(name)
        # The validator reads the dictionaries of plain parts and builds its own.
        if type(value) is inner:
            fields[name] = value.__dict__ if plain else _fields(value, nested)
        elif type(value) is tuple:
            for one in value:
                if type(one) is not inner:
                    raise _other_class(name, inner)
            fields[name] = tuple([one.__dict__ if plain else _fields(one, nested) for one in value])
        elif value is not None:
            raise _other_class(name, inner)
    for name, alias in opening.renamed:
        if name in fields:
            fields[alias] = fields.pop(name)
    return fields


def refused_fields(error: ValidationError, *, where: str) -> AuditError:
    """Translate a validation error without the values that it carries."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # A key that is no text ends the path of its error.
    known = first["loc"][:-1] if first["type"] == "invalid_key" else first["loc"]
    path = ".".join(str(part) for part in known if isinstance(part, int) or part in _NAMES)
    return _unfit(f"{where} {path}".strip(), first["msg"])


def _unfit(where: str, found: str) -> AuditError:
    return AuditError("The event does not fit the closed schema of audit records.", where=where, found=found)


def _other_class(name: str, inner: type[Part]) -> AuditError:
    return _unfit(name, f"it is not of the class {inner.__name__}")
