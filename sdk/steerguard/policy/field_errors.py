"""Turn the errors of pydantic into problems that name line, field, legal choices and nearest spelling."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from steerguard.methods.catalog import METHODS
from steerguard.policy.document import Policy
from steerguard.policy.problems import Path, Position, Problem, dotted, nearest, shown
from steerguard.policy.rule_documents import ScoreCondition
from steerguard.policy.schema_walk import Field, find_field

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from steerguard.policy.consistency import Inconsistency
    from steerguard.policy.yaml_subset import ParsedDocument

UNKNOWN_METHOD = "union_tag_invalid"
"""Error type of a discriminated union whose tag no member has; `method` is the only such union."""

_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "`true` or `false`",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "date_type": "a date such as 2027-01-31",
}
_WITHOUT_VALUE = frozenset({"missing", "extra_forbidden"})
_RANGES = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"})
_LENGTHS = frozenset({"string_too_short", "string_too_long", "too_short", "too_long"})
_LIMIT_PHRASES = {
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "below {}",
    "min_length": "at least {} characters or entries",
    "max_length": "at most {} characters or entries",
}
_BOUND_FORMS = ("value", "fpr")
_WITH_UNIT = re.compile(r"\s*[-+]?[0-9.]+\s*[A-Za-zµ%]+\s*")


def problem_of(error: ErrorDetails, parsed: ParsedDocument, *, file: str) -> Problem:
    """Return one error of a validation as a problem with its place in the file."""
    field = find_field(Policy, error["loc"])
    value = _value_at(parsed.data, field.path)
    path, message, expected, hint = _explained(error, field, value, parsed.written.get(field.path))
    written = parsed.written.get(path)
    found = shown(_value_at(parsed.data, path)) if written is None else f"the number {written}"
    return Problem(
        file=file,
        position=position_of(path, parsed),
        field=dotted(path),
        message=message,
        expected=expected,
        found=None if error["type"] in _WITHOUT_VALUE or path not in parsed.positions else found,
        hint=hint,
    )


def problem_of_inconsistency(finding: Inconsistency, parsed: ParsedDocument, *, file: str) -> Problem:
    """Return a contradiction between two parts as a problem with its place in the file."""
    return Problem(
        file=file,
        position=position_of(finding.path, parsed),
        field=dotted(finding.path),
        message=finding.message,
        expected=finding.expected,
        found=finding.found,
        hint=finding.hint,
    )


def position_of(path: Path, parsed: ParsedDocument) -> Position | None:
    """Return where a field stands, or the closest part around it that the file has."""
    while path and path not in parsed.positions:
        path = path[:-1]
    return parsed.positions.get(path)


_Explanation = tuple[Path, str, str | None, str | None]
"""Path, message, what was expected, and a hint."""


def _explained(error: ErrorDetails, field: Field, value: Any, written: str | None) -> _Explanation:
    kind, path = error["type"], field.path
    name = field.name
    if kind == "extra_forbidden":
        legal = _legal_beside(field)
        near = nearest(name, legal)
        hint = f"Did you mean `{near}`?" if near else "Remove it."
        return path, f"There is no field `{name}` here.", _one_of(legal), hint
    if kind == "missing":
        return path, f"The field `{name}` is missing.", _first_sentence(field), f"Add `{name}`."
    if kind == "union_tag_not_found":
        return _without_tag(field, value)
    if kind in _KINDS:
        return (
            path,
            f"The value of `{name}` has the wrong type.",
            _kind_text(kind, field),
            _retype(kind, value, written),
        )
    if kind in _RANGES | _LENGTHS:
        complaint = "is out of range" if kind in _RANGES else "has the wrong length"
        return path, f"The value of `{name}` {complaint}.", _limits(field, error.get("ctx", {})), None
    return _not_legal(error, field, value, name)


def _not_legal(error: ErrorDetails, field: Field, value: Any, name: str) -> _Explanation:
    """Explain a value of the right type that is not one of the legal ones."""
    kind, context, path = error["type"], error.get("ctx", {}), field.path
    if kind == UNKNOWN_METHOD:
        tag = str(context.get("tag"))
        names = [method.name for method in METHODS]
        return (*path, "method"), f"There is no guidance method `{tag}`.", _one_of(names), _did_you_mean(tag, names)
    if kind == "literal_error":
        return _not_a_choice(field, str(context["expected"]), value)
    if kind == "artifact_reference":
        return path, str(context["summary"]), _optional(context["expected"]), _optional(context["next_step"])
    if kind == "string_pattern_mismatch":
        return path, f"The value of `{name}` is not of the right form.", f"text like {context['pattern']}", None
    if kind.startswith("date_"):
        return path, f"The value of `{name}` is not a date.", "a date such as 2027-01-31", None
    return path, f"{error['msg'][:1].upper()}{error['msg'][1:]}.", None, None


def _legal_beside(field: Field) -> tuple[str, ...]:
    """Return the legal names; what is not recognised as another kind of condition is read as a comparison."""
    return (*field.siblings, "any", "all", "not") if field.owner is ScoreCondition else field.siblings


def _without_tag(field: Field, value: Any) -> _Explanation:
    """Explain a union member that cannot be told: a guidance entry without method, or no bound."""
    if field.path[:1] == ("guidance",) and len(field.path) == 2:
        names = [method.name for method in METHODS]
        return (*field.path, "method"), "The field `method` is missing.", _one_of(names), "Add `method`."
    hint = None
    if isinstance(value, (int, float)):
        hint = f"Write `{{value: {value}}}` for a raw score, or `{{fpr: rate}}` for a calibrated one."
    elif isinstance(value, dict):
        near = next((close for key in value if (close := nearest(key, _BOUND_FORMS))), None)
        hint = f"Did you mean `{near}`?" if near else None
    return field.path, "This is not a bound.", "`{value: number}` or `{fpr: rate}`", hint


def _not_a_choice(field: Field, choices: str, value: Any) -> _Explanation:
    names = re.findall(r"'([^']*)'", choices) or [choices.lower()]
    hint = _did_you_mean(value, names) if isinstance(value, str) else None
    loosening = field.path[:1] in {("failure",), ("unrecognised_prompt",)}
    if loosening and not isinstance(value, dict) and field.path[-1] != "action":
        hint = hint or "To loosen it, write {action: allow, reason: …, expires: YYYY-MM-DD}."
    return field.path, f"`{field.path[-1]}` does not have this value.", _one_of(names), hint


def _kind_text(kind: str, field: Field) -> str:
    expected = _KINDS[kind]
    return f"{expected} ({field.unit})" if field.unit else expected


def _retype(kind: str, value: Any, written: str | None) -> str | None:
    """Return the hint for the usual ways to write the wrong type."""
    if kind == "string_type" and written is not None:
        return f'Put text into quotes: "{written}" without quotes is a number.'
    if kind == "string_type" and isinstance(value, bool):
        return "Put text into quotes: without them this is a boolean."
    if isinstance(value, str) and kind in {"int_type", "float_type"}:
        if _WITH_UNIT.fullmatch(value):
            return "Write the number alone, without a unit."
        return "Write the number without quotes, in plain digits."
    if kind == "tuple_type":
        return "Write a list: [a, b]."
    return None


def _limits(field: Field, context: dict[str, Any]) -> str:
    """Return the legal range or length as a phrase: all of the field's limits, or the one that a list item broke."""
    limits = dict(context)
    if field.info is not None and not field.is_item:
        for entry in field.info.metadata:
            limits |= {name: getattr(entry, name) for name in _LIMIT_PHRASES if getattr(entry, name, None) is not None}
    text = " and ".join(phrase.format(limits[name]) for name, phrase in _LIMIT_PHRASES.items() if name in limits)
    return f"{text} ({field.unit})" if field.unit else text


def _value_at(data: Any, path: Path) -> Any:
    for part in path:
        if isinstance(data, dict):
            data = data.get(str(part))
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _first_sentence(field: Field) -> str | None:
    text = field.info.description if field.info is not None else None
    return text.split("\n")[0].rstrip(".") if text else None


def _did_you_mean(word: str, names: list[str]) -> str | None:
    near = nearest(word, names)
    return f"Did you mean `{near}`?" if near else None


def _one_of(names: tuple[str, ...] | list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"one of {', '.join(quoted)}"


def _optional(value: object) -> str | None:
    return None if value is None else str(value)
