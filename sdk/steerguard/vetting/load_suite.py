"""Finding and reading a suite, its policies and its prompts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from steerguard.artifacts.manifest import ArtifactManifest
from steerguard.canonical import sha256_hex
from steerguard.content import registry_directory
from steerguard.errors import EvaluationError, PolicySyntaxError
from steerguard.evaluate.prompt_files import PromptSet, read_prompts
from steerguard.evaluate.prompt_rows import MESSAGES, jsonl_rows
from steerguard.evaluate.prompt_spec import PromptSpec
from steerguard.policy.document import Policy
from steerguard.policy.load import parse_policy
from steerguard.policy.problems import Path as FieldPath
from steerguard.policy.problems import dotted, nearest
from steerguard.policy.yaml_subset import ParsedDocument, read_document
from steerguard.vetting.suite import ARTIFACT_MARK, SuiteCase, SuiteSet, VettingSuite

SUITES = "suites"
MAX_SUITE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSuite:
    """A suite with the file that it was read from."""

    suite: VettingSuite
    path: Path
    sha256: str
    """Digest of the file's bytes."""


def shipped_suites() -> tuple[str, ...]:
    """Return the names of the suites that come with the package, sorted."""
    return tuple(sorted(path.stem for path in (registry_directory() / SUITES).glob("*.yaml")))


def load_suite(source: str | Path) -> LoadedSuite:
    """Read a suite.

    Args:
        source: name of a shipped suite, or path of a YAML file.

    Raises:
        EvaluationError: there is no such suite or file, or it breaks the schema; names file, line and field.
    """
    path = source if isinstance(source, Path) else _path_of(source)
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(
            "The vetting suite cannot be read.",
            where=path,
            expected="a YAML file in UTF-8",
            found=(error.strerror if isinstance(error, OSError) else None) or type(error).__name__,
        ) from error
    if len(content) > MAX_SUITE_BYTES:
        raise EvaluationError(
            "The vetting suite is too large.",
            where=path,
            expected=f"at most {MAX_SUITE_BYTES} bytes",
            found=len(content),
        )
    return LoadedSuite(suite=_parsed(text, str(path)), path=path, sha256=sha256_hex(content))


def policy_for(case: SuiteCase, manifest: ArtifactManifest, *, where: str) -> Policy:
    """Return the policy of a case with the artifact in its place, by exact version.

    Raises:
        PolicyError: the policy in the suite is wrong.
    """
    return parse_policy(json.dumps(_with(case.policy, manifest.reference)), file=f"{where}#{case.kind}.json")


def read_set(loaded: LoadedSuite, one: SuiteSet) -> PromptSet:
    """Return the prompts of one set.

    Raises:
        PromptFileError: the file cannot be read or is malformed.
        EvaluationError: the file has another digest than the suite pins, or too few rows remain.
    """
    path = loaded.path.parent / one.file
    prompts = read_prompts(PromptSpec(name=one.name, path=path, column=MESSAGES), one.expect)
    content = path.read_bytes()
    if sha256_hex(content) != one.sha256:
        raise EvaluationError(
            "The prompts are not those that the suite was written for.",
            where=path,
            expected=one.sha256,
            found=sha256_hex(content),
            next_step="Put the file back, or give the suite the new digest and a new version.",
        )
    rows = [row.value for row in jsonl_rows(content.decode("utf-8-sig"), str(path))]
    fitting = [index for index, row in enumerate(rows) if _chosen(row, one)]
    if len(fitting) < one.rows:
        raise EvaluationError(
            "The suite asks for more rows than there are.",
            where=f"{loaded.path}: sets: {one.name}",
            expected=f"at most {len(fitting)} rows",
            found=one.rows,
        )
    taken = [fitting[place * len(fitting) // one.rows] for place in range(one.rows)]
    return PromptSet(
        name=one.name,
        expect=one.expect,
        conversations=tuple(prompts.conversations[index] for index in taken),
        prefills=None,
    )


def _path_of(source: str) -> Path:
    if source.endswith((".yaml", ".yml")) or "/" in source or "\\" in source:
        return Path(source)
    names = shipped_suites()
    if source in names:
        return registry_directory() / SUITES / f"{source}.yaml"
    near = nearest(source, names)
    raise EvaluationError(
        "There is no shipped suite of that name.",
        where="--suite",
        expected=f"one of {', '.join(names)}, or the path of a YAML file",
        found=source[:80],
        next_step=f"Did you mean `{near}`?" if near else None,
    )


def _parsed(text: str, file: str) -> VettingSuite:
    try:
        parsed = read_document(text, file=file)
    except PolicySyntaxError as error:
        raise EvaluationError(
            error.summary, where=error.where, expected=error.expected, found=error.found, next_step=error.next_step
        ) from error
    try:
        return VettingSuite.model_validate_json(json.dumps(parsed.data), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        more = error.error_count() - 1
        raise EvaluationError(
            f"The vetting suite breaks its schema{f' in {more + 1} places' if more else ''}.",
            where=_place(parsed, first["loc"], file),
            expected=first["msg"],
            found=type(first.get("input")).__name__,
            next_step="docs/vetting.md says what a suite holds.",
        ) from error


def _place(parsed: ParsedDocument, location: tuple[int | str, ...], file: str) -> str:
    """Return `file:line:column, field path` of the nearest part of the document that has a place."""
    path: FieldPath = tuple(location)
    while path and path not in parsed.positions:
        path = path[:-1]
    position = parsed.positions.get(path)
    place = file if position is None else f"{file}:{position.line}:{position.column}"
    return f"{place}, field {dotted(tuple(location))}" if location else place


def _with(node: Any, reference: str) -> Any:
    if isinstance(node, dict):
        return {key: _with(value, reference) for key, value in node.items()}
    if isinstance(node, list):
        return [_with(value, reference) for value in node]
    return reference if node == ARTIFACT_MARK else node


def _chosen(row: Any, one: SuiteSet) -> bool:
    fields = row if isinstance(row, dict) else {}
    return all(_matches(fields.get(name), patterns) for name, patterns in one.keep.items()) and not any(
        _matches(fields.get(name), patterns) for name, patterns in one.drop.items()
    )


def _matches(value: object, patterns: tuple[str, ...]) -> bool:
    return isinstance(value, str) and any(fnmatchcase(value, pattern) for pattern in patterns)
