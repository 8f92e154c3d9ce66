"""Read trust policies: strict YAML, every problem with file, line and column, all of them at once."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from steerguard.errors import PolicySyntaxError, TrustPolicyError
from steerguard.policy.problems import Path as FieldPath
from steerguard.policy.problems import Position, Problem, dotted, error_of, shown
from steerguard.policy.yaml_subset import MAX_BYTES, ParsedDocument, empty_fields, read_document
from steerguard.trust.document import TrustPolicy
from steerguard.trust.durations import DURATION_PATTERN

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_TAGS = {"strict", "loosened"}
"""Tags of unions: they stand in pydantic's locations and not in the document."""


def load_trust(source: TrustPolicy | Path | str, *, today: date | None = None) -> TrustPolicy:
    """Return the trust policy that a file holds, or the trust policy itself.

    Args:
        source: a trust policy, or the path of its file.
        today: date (UTC) against which `expires` of loosenings is checked; the current one by default.

    Raises:
        TrustPolicyError: the file cannot be read, is not the strict subset of YAML, breaks the schema, contradicts
            itself, or holds a loosening that has expired.
    """
    if isinstance(source, TrustPolicy):
        _refuse_expired(source, ParsedDocument(data={}, positions={}, written={}), file="trust policy", today=today)
        return source
    path = Path(source)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:
        raise TrustPolicyError(
            "The trust policy cannot be read.",
            where=path,
            expected="a UTF-8 file",
            found=getattr(error, "strerror", None) or type(error).__name__,
            next_step="Check the path and its permissions.",
        ) from error
    return parse_trust(text, file=str(path), today=today)


def parse_trust(text: str, *, file: str, today: date | None = None) -> TrustPolicy:
    """Return the trust policy that a text holds; the errors are those of `load_trust`.

    Args:
        text: YAML or JSON document.
        file: name for messages; with the ending `.json` the text must be JSON.
        today: as for `load_trust`.
    """
    try:
        parsed = read_document(text, file=file)
    except PolicySyntaxError as error:
        raise TrustPolicyError(
            error.summary, expected=error.expected, found=error.found, where=error.where, next_step=error.next_step
        ) from error
    if not isinstance(parsed.data, dict):
        problem = Problem(
            file=file,
            position=parsed.positions.get(()),
            field="",
            message="A trust policy is a mapping of fields.",
            expected="fields such as `apiVersion` and `publishers` at the top level",
            found=shown(parsed.data),
        )
        raise error_of(TrustPolicyError, [problem], file=file)
    problems = [
        _problem(path, parsed, file, "The field has no value.", "Give it a value, or leave the field out.")
        for path in empty_fields(parsed.data)
    ]
    try:
        # Strict validation accepts lists and dates only from JSON.
        policy = TrustPolicy.model_validate_json(json.dumps(parsed.data, allow_nan=False))
    except ValidationError as error:
        known = {problem.field for problem in problems}
        found = [_problem_of(entry, parsed, file) for entry in error.errors(include_url=False)]
        problems += [problem for problem in found if problem.field not in known]
        raise error_of(TrustPolicyError, problems, file=file) from error
    if problems:
        raise error_of(TrustPolicyError, problems, file=file)
    _refuse_expired(policy, parsed, file=file, today=today)
    return policy


def _refuse_expired(policy: TrustPolicy, parsed: ParsedDocument, *, file: str, today: date | None) -> None:
    now = today or datetime.now(UTC).date()
    problems = [
        Problem(
            file=file,
            position=_position((*path, "expires"), parsed),
            field=dotted((*path, "expires")),
            message="This loosening has expired.",
            expected=f"{now.isoformat()} or later",
            found=setting.expires.isoformat(),
            hint="Write `refuse`, or renew the date with a reason that still holds.",
        )
        for path, setting in policy.loosenings()
        if setting.expires < now
    ]
    if problems:
        raise error_of(TrustPolicyError, problems, file=file)


def _problem_of(error: ErrorDetails, parsed: ParsedDocument, file: str) -> Problem:
    """Return one error of a validation as a problem with its place in the file."""
    kind, context = error["type"], error.get("ctx", {})
    path: FieldPath = tuple(part for part in error["loc"] if part not in _TAGS)
    if kind == "contradiction":
        return _problem(tuple(context["path"]), parsed, file, str(context["summary"]), None)
    name = str(path[-1]) if path else "document"
    if kind == "missing":
        return _problem(path, parsed, file, f"The field `{name}` is missing.", f"Add `{name}`.")
    if kind == "extra_forbidden":
        return _problem(path, parsed, file, f"There is no field `{name}` here.", "Remove it, or correct its name.")
    message, hint = f"{error['msg'].rstrip('.')}.", None
    expected: str | None = None
    if kind == "public_key":
        expected, hint = str(context["expected"]), str(context["next_step"])
    elif kind == "string_pattern_mismatch":
        message, expected = f"The value of `{name}` is not of the right form.", f"text like {context['pattern']}"
        if context["pattern"] == DURATION_PATTERN:
            expected, hint = "a whole number with its unit", "Write for example 30s, 10m, 12h or 7d."
    elif kind == "string_type" and re.search(r"max_age|check_every", name):
        expected, hint = "a whole number with its unit", "Write for example 30s, 10m, 12h or 7d."
    return Problem(
        file=file,
        position=_position(path, parsed),
        field=dotted(path),
        message=message,
        expected=expected,
        found=shown(error["input"]),
        hint=hint,
    )


def _problem(path: FieldPath, parsed: ParsedDocument, file: str, message: str, hint: str | None) -> Problem:
    return Problem(file=file, position=_position(path, parsed), field=dotted(path), message=message, hint=hint)


def _position(path: FieldPath, parsed: ParsedDocument) -> Position | None:
    """Return where a field stands, or the closest part around it that the file has."""
    while path and path not in parsed.positions:
        path = path[:-1]
    return parsed.positions.get(path)
