"""The reference page of policy documents, generated from the JSON Schema and the catalog.

`python -m steerguard.policy.reference --write docs/policy-reference.md` (or `--check`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from steerguard.methods.catalog import METHODS
from steerguard.policy.generated import keep_in_step
from steerguard.policy.json_schema import policy_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = """\
# Policy reference

This page is generated from the models by `python -m steerguard.policy.reference --write docs/policy-reference.md`.
Do not edit it by hand.

A policy is one YAML 1.2 or JSON document.
Reading is strict: an unknown key, a duplicate key, a tag, an anchor, an empty value or a wrong type is an error.
Each error names file, line, column, the legal choices and the nearest spelling.
Only `true` and `false` are booleans; `yes`, `no`, `on` and `off` are text.
Numbers carry their unit in the name of the field and are written without one.
`steerguard policy validate FILE` checks a document, `steerguard policy show FILE` prints it with every default.
"""

_FIELD_HEAD = "| field | type | unit | range | default | meaning | effect on cost |\n|---|---|---|---|---|---|---|\n"


def render() -> str:
    """Return the text of `docs/policy-reference.md`."""
    schema = policy_schema()
    definitions: dict[str, Any] = schema["$defs"]
    parts = [_HEAD, _methods(), _section("The document", schema)]
    parts += [_section(name, definitions[name]) for name in _in_reading_order(schema, definitions)]
    return "\n".join(parts)


def _methods() -> str:
    rows = "".join(
        f"| `{method.name}` | [{method.spec.__name__}](#{method.spec.__name__.lower()}) | {method.status} |\n"
        for method in METHODS
    )
    return (
        "## Methods\n\n"
        "An entry of `guidance` is one of these, chosen by its field `method`.\n"
        "An experimental method runs, and did not do better than a simpler one where it was measured.\n\n"
        f"| method | fields | status |\n|---|---|---|\n{rows}"
    )


def _section(title: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = "".join(_row(name, field, name in required) for name, field in schema["properties"].items())
    return f"## {title}\n\n{_prose(schema.get('description', ''))}\n\n{_FIELD_HEAD}{rows}"


def _row(name: str, field: dict[str, Any], required: bool) -> str:
    default = "required" if required else _default(field)
    cells = (
        f"`{name}`",
        _type(field),
        field.get("x-unit", "none"),
        _range(field),
        default,
        " ".join(field.get("description", "").split()),
        field.get("x-cost", "none"),
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return "left out"
    return f"`{json.dumps(field['default'], ensure_ascii=False)}`"


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    for key in ("oneOf", "anyOf"):
        if key in field:
            return " or ".join(_type(entry) for entry in field[key])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "boolean"}
    return "date" if field.get("format") == "date" else names[field["type"]]


def _range(field: dict[str, Any]) -> str:
    if field.get("type") == "array" and "minimum" in field.get("items", {}):
        return f"each {_range(field['items'])}"
    phrases = {
        "minimum": "≥ {}",
        "exclusiveMinimum": "> {}",
        "maximum": "≤ {}",
        "exclusiveMaximum": "< {}",
        "minLength": "≥ {} characters",
        "maxLength": "≤ {} characters",
        "minItems": "≥ {} entries",
        "maxItems": "≤ {} entries",
        "pattern": "form `{}`",
    }
    return ", ".join(phrase.format(field[key]) for key, phrase in phrases.items() if key in field) or "none"


def _prose(text: str) -> str:
    """Return a docstring as Markdown with one sentence a line."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return "\n\n".join(paragraph.replace(". ", ".\n").replace("arXiv\n", "arXiv ") for paragraph in paragraphs)


def _in_reading_order(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    """Yield the parts in the order in which a reader of the document meets them."""
    seen: set[str] = set()
    queue: list[Any] = [schema["properties"]]
    while queue:
        for name in _references(queue.pop(0)):
            if name not in seen:
                seen.add(name)
                yield name
                queue.append(definitions[name]["properties"])


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value.rsplit("/", 1)[-1]
            elif key != "discriminator":
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


if __name__ == "__main__":
    keep_in_step(render, command="steerguard.policy.reference")
