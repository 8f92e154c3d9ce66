"""Find and read policies: a shipped name, a path, a `file://` reference, or text.

Nothing here imports torch, transformers or huggingface_hub.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from steerguard.content import policies_directory
from steerguard.errors import (
    PolicyError,
    PolicyNotFoundError,
    PolicySyntaxError,
    PolicyValidationError,
    UnknownMethodError,
    UnsupportedApiVersionError,
)
from steerguard.policy.document import API_VERSION, KIND, Policy
from steerguard.policy.failure import Loosening
from steerguard.policy.field_errors import UNKNOWN_METHOD, position_of, problem_of, problem_of_inconsistency
from steerguard.policy.problems import Problem, dotted, error_of, nearest, shown
from steerguard.policy.yaml_subset import MAX_BYTES, ParsedDocument, empty_fields, read_document

if TYPE_CHECKING:
    from steerguard.policy.problems import Path as FieldPath

SUFFIXES = (".yaml", ".yml", ".json")


def load_policy(source: str | Path | Policy, *, today: date | None = None) -> Policy:
    """Return the policy that a name, a path, a `file://` reference or a `Policy` stands for.

    Args:
        source: name of a shipped policy, path of a YAML or JSON file, `file://` reference, or a policy.
        today: date against which `expires` is checked; the current UTC date by default.

    Raises:
        PolicyNotFoundError: there is no such name or file.
        PolicySyntaxError: the file is not the strict subset of YAML 1.2, or not UTF-8.
        PolicyValidationError: the document breaks the schema, contradicts itself, or holds an expired loosening.
        UnknownMethodError: a guidance entry names a method that does not exist.
        UnsupportedApiVersionError: `apiVersion` or `kind` is not one that this version reads.
    """
    if isinstance(source, Policy):
        parsed = ParsedDocument(data=source.document(), positions={}, written={})
        _refuse_expired(source, parsed, file=source.metadata.name, today=today)
        return source
    path = source if isinstance(source, Path) else _path_of(source)
    return parse_policy(_text_of(path), file=str(path), folder=path.parent, today=today)


def parse_policy(text: str, *, file: str, folder: Path | None = None, today: date | None = None) -> Policy:
    """Return the policy that a text holds; the errors are those of `load_policy`.

    Args:
        text: YAML or JSON document.
        file: name for messages; with the ending `.json` the text must be JSON.
        folder: what paths in the document are relative to; the working directory by default.
        today: date against which `expires` is checked; the current UTC date by default.
    """
    parsed = read_document(text, file=file)
    if not isinstance(parsed.data, dict):
        problem = Problem(
            file=file,
            position=position_of((), parsed),
            field="",
            message="A policy is a mapping of fields.",
            expected="fields such as `apiVersion` and `metadata` at the top level",
            found=shown(parsed.data),
        )
        raise error_of(PolicyValidationError, [problem], file=file)
    _check_version(parsed, file=file)
    policy = _validated(parsed, file=file)
    _refuse_expired(policy, parsed, file=file, today=today)
    return policy if folder is None else policy.located_in(folder.absolute())


def shipped_policies() -> tuple[str, ...]:
    """Return the names of the policies that come with the package, sorted."""
    return tuple(sorted(path.stem for path in policies_directory().glob("*.yaml")))


def _path_of(source: str) -> Path:
    scheme, mark, _ = source.partition("://")
    if mark and scheme == "file":
        return _local_path(source)
    if mark:
        raise PolicyError(
            "Remote policies are not supported in this version.",
            expected="a shipped name, a path or a file:// reference",
            found=f"a {scheme}:// reference",
            next_step="Download the document and give its path.",
        )
    if source.endswith(SUFFIXES) or "/" in source or "\\" in source:
        return Path(source)
    names = shipped_policies()
    if source in names:
        return policies_directory() / f"{source}.yaml"
    near = nearest(source, names)
    if near is not None:
        advice = f"Write `{near}`, or give a path."
    else:
        advice = "Choose one of the names listed, or give a path such as ./policy.yaml."
    raise PolicyNotFoundError(
        f"No shipped policy is called `{source[:80]}`.",
        expected=f"one of {', '.join(f'`{name}`' for name in names)}",
        found=source[:80],
        next_step=advice,
    )


def _local_path(source: str) -> Path:
    parts = urlsplit(source)
    if parts.netloc not in {"", "localhost"} or not parts.path or parts.query or parts.fragment:
        raise PolicyNotFoundError(
            "This is not a reference to a local file.",
            expected="file:///absolute/path.yaml",
            found=source,
            next_step="Write three slashes and an absolute path.",
        )
    return Path(unquote(parts.path))


def _text_of(path: Path) -> str:
    """Return the text of a file that is small enough and UTF-8."""
    try:
        if path.is_dir():
            raise PolicyNotFoundError(
                "A policy is a file, and this is a directory.",
                found=path,
                next_step="Name the document inside it.",
            )
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the path is not valid"
        raise PolicyNotFoundError(
            "The policy file cannot be read.", found=reason, where=path, next_step="Check the path and its permissions."
        ) from error
    if len(content) > MAX_BYTES:
        raise PolicySyntaxError(
            "The policy file is too large.", expected=f"at most {MAX_BYTES // 1024} KiB", where=path
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicySyntaxError(
            "The policy file is not UTF-8 text.",
            expected="UTF-8",
            found=f"byte 0x{content[error.start]:02x} at offset {error.start}",
            where=path,
            next_step="Save the file as UTF-8.",
        ) from error


def _check_version(parsed: ParsedDocument, *, file: str) -> None:
    """Refuse a document of another version or kind before any other field is judged."""
    problems = [
        Problem(
            file=file,
            position=position_of((name,), parsed),
            field=name,
            message=f"This version of steerguard does not read documents with this `{name}`.",
            expected=f"`{legal}`",
            found=shown(parsed.data[name]),
            hint=f"Write `{name}: {legal}`.",
        )
        for name, legal in (("apiVersion", API_VERSION), ("kind", KIND))
        if name in parsed.data and parsed.data[name] != legal
    ]
    if problems:
        raise error_of(UnsupportedApiVersionError, problems, file=file)


def _validated(parsed: ParsedDocument, *, file: str) -> Policy:
    empty = list(empty_fields(parsed.data))
    problems = [
        Problem(
            file=file,
            position=position_of(path, parsed),
            field=dotted(path),
            message="The field has no value.",
            hint="Give it a value, or leave the field out to use the default.",
        )
        for path in empty
    ]
    kind: type[PolicyError] = PolicyValidationError
    try:
        # Strict validation accepts lists and dates only from JSON.
        policy = Policy.model_validate_json(json.dumps(parsed.data, allow_nan=False))
    except ValidationError as error:
        for entry in error.errors(include_url=False):
            if entry["type"] == "inconsistent":
                findings = () if empty else entry["ctx"]["findings"]
                problems += [problem_of_inconsistency(finding, parsed, file=file) for finding in findings]
            else:
                problem = problem_of(entry, parsed, file=file)
                if problem.field not in {dotted(path) for path in empty}:
                    problems.append(problem)
            if entry["type"] == UNKNOWN_METHOD:
                kind = UnknownMethodError
        raise error_of(kind, problems, file=file) from error
    if problems:
        raise error_of(kind, problems, file=file)
    return policy


def _refuse_expired(policy: Policy, parsed: ParsedDocument, *, file: str, today: date | None) -> None:
    now = today or datetime.now(UTC).date()
    settings: tuple[tuple[FieldPath, object], ...] = (
        (("unrecognised_prompt",), policy.unrecognised_prompt),
        (("failure", "detector"), policy.failure.detector),
        (("failure", "guidance"), policy.failure.guidance),
        (("failure", "audit"), policy.failure.audit),
    )
    problems = [
        Problem(
            file=file,
            position=position_of((*path, "expires"), parsed),
            field=dotted((*path, "expires")),
            message="This loosening has expired.",
            expected=f"{now.isoformat()} or later",
            found=setting.expires.isoformat(),
            hint="Write `refuse`, or renew the date with a reason that still holds.",
        )
        for path, setting in settings
        if isinstance(setting, Loosening) and setting.expires < now
    ]
    if problems:
        raise error_of(PolicyValidationError, problems, file=file)
