"""The reference page of audit records, generated from the models of the events and what their docstrings say.

`python -m steerguard.audit.records.reference --write docs/audit-records.md` (or `--check`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import TypeAdapter

from steerguard.audit.records import fields
from steerguard.audit.records.events import BODIES, Envelope
from steerguard.audit.records.reference_words import HEAD, MEANINGS, VALUES
from steerguard.policy.generated import keep_in_step
from steerguard.registry.names import RegistryName

Schema = Mapping[str, Any]

_TABLE: Final = "| field | value | meaning |\n|---|---|---|\n"
_TYPE_ROW: Final = "| `type` | one of the event types below | What happened. |\n"
_HEADINGS: Final = {
    "log": "The log itself",
    "policy": "Policies",
    "artifact": "Artifacts",
    "guard": "What the guard did",
}
_GROUPS: Final = {"checkpoint": "log", "content": "log", "budget": "guard"}
"""First part of an event type, and the heading that it stands under where that is another one."""


def render() -> str:
    """Return the text of `docs/audit-records.md`."""
    parts: dict[str, Schema] = {}
    sections = [HEAD, f"## Every record\n\n{_table('envelope', Envelope.model_json_schema())}{_TYPE_ROW}"]
    for group, heading in _HEADINGS.items():
        sections.append(f"## {heading}\n")
        for body in BODIES:
            first = body.event_type.partition(".")[0]
            if _GROUPS.get(first, first) == group:
                schema = body.model_json_schema(by_alias=True)
                parts.update(schema.get("$defs", {}))
                sections.append(_section(body.event_type, schema))
    sections.append("## Parts\n\nValues that are made of several fields.\n")
    sections += [_section(name, parts[name]) for name in sorted(parts)]
    sections.append(_values())
    return "\n".join(sections)


def meaning_of(owner: str, name: str, field: Schema) -> str:
    """Return what a field means: its own docstring, else the words for this field of this owner, else those for the name.

    Raises:
        KeyError: nothing says what it means.
    """
    said = field.get("description")
    text = said or MEANINGS.get(f"{owner}.{name}") or MEANINGS[name]
    return " ".join(text.split())


def _section(title: str, schema: Schema) -> str:
    fields_of = schema.get("properties")
    table = _table(title, schema) if fields_of else "No fields of its own.\n"
    return f"### {title}\n\n{_prose(schema['description'])}\n\n{table}"


def _table(owner: str, schema: Schema) -> str:
    required = schema.get("required", [])
    rows = "".join(_row(owner, name, field, name in required) for name, field in schema["properties"].items())
    return _TABLE + rows


def _row(owner: str, name: str, field: Schema, required: bool) -> str:
    value = _value(field) if required or "null" in _value(field) else f"{_value(field)}, may be left out"
    return _line(f"`{name}`", value, meaning_of(owner, name, field))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _value(field: Schema) -> str:
    if "$ref" in field:
        name = str(field["$ref"]).rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_value(entry) for entry in field["anyOf"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        return _array(field)
    if field["type"] in {"null", "boolean"}:
        return str(field["type"])
    return f"[{_NAMED[_form(field)]}](#values)"


def _array(field: Schema) -> str:
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])}: {_value(field['prefixItems'][0])}"
    return f"list of {_value(field['items'])}"


def _form(field: Schema) -> str:
    """Return what tells a value from others: its schema without words for people."""
    return json.dumps({name: value for name, value in field.items() if name not in _WORDS}, sort_keys=True)


_WORDS: Final = frozenset({"title", "description", "default"})


def _named() -> Iterator[tuple[str, str]]:
    for name in VALUES:
        kind = RegistryName if name == "RegistryName" else getattr(fields, name)
        yield _form(TypeAdapter(kind).json_schema()), name


_NAMED: Final[Mapping[str, str]] = dict(_named())
"""Name of a kind of value by its form."""


def _values() -> str:
    rows = "".join(
        _line(name, meaning, f"`{schema['pattern']}`" if "pattern" in schema else "")
        for name, meaning, schema in _kinds()
    )
    return f"## Values\n\n| name | meaning | pattern |\n|---|---|---|\n{rows}"


def _kinds() -> Iterator[tuple[str, str, Schema]]:
    forms = {name: form for form, name in _NAMED.items()}
    for name, meaning in VALUES.items():
        yield name, meaning, json.loads(forms[name])


def _prose(text: str) -> str:
    """Return a docstring as Markdown with one sentence a line."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return "\n\n".join(paragraph.replace(". ", ".\n") for paragraph in paragraphs)


if __name__ == "__main__":
    keep_in_step(render, command="steerguard.audit.records.reference")
