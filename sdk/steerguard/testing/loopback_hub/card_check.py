"""The check of a model card's front matter: YAML, types of the well-known fields, and the shape of `model-index`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

FRONT_MATTER = re.compile(r"\A(?:\ufeff)?\s*---[ \t]*\r?\n(?P<yaml>.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
TEXT_OR_TEXTS = ("license", "language", "base_model", "datasets", "metrics", "tags", "new_version")
TEXTS = ("tags",)
TEXT = ("library_name", "pipeline_tag", "license_name", "license_link", "base_model_relation")
RELATIONS = {"adapter", "merge", "quantized", "finetune"}
IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class CardError(Exception):
    """The front matter is not a YAML mapping; never leaves the server."""


def front_matter(content: str) -> dict[str, Any] | None:
    """The mapping at the head of a card, or None where there is no front matter.

    Raises:
        CardError: it is not YAML, or not a mapping.
    """
    found = FRONT_MATTER.match(content)
    if found is None:
        return None
    try:
        metadata = yaml.safe_load(found["yaml"])
    except yaml.YAMLError as problem:
        raise CardError(f"bad YAML: {' '.join(str(problem).split())}") from problem
    if metadata is None:
        return None
    if not isinstance(metadata, dict) or not all(isinstance(key, str) for key in metadata):
        raise CardError("the front matter is not a mapping with texts as keys")
    return metadata


def check_card(content: str) -> tuple[list[str], list[str]]:
    """What is wrong with a card (errors), and what could be better (warnings)."""
    try:
        metadata = front_matter(content)
    except CardError as problem:
        return [str(problem)], []
    if metadata is None:
        return [], ["empty or missing yaml metadata in repo card"]
    return list(_errors(metadata)), list(_warnings(metadata))


def _warnings(metadata: Mapping[str, Any]) -> Iterator[str]:
    if metadata.get("license") == "other" and "license_name" not in metadata:
        yield '"license_name" should say which license "other" is'


def _errors(metadata: Mapping[str, Any]) -> Iterator[str]:
    for name in TEXT_OR_TEXTS:
        value = metadata.get(name)
        if name not in TEXTS and isinstance(value, str):
            continue
        if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            yield f'"{name}" must be {"a list of texts" if name in TEXTS else "a text or a list of texts"}'
    for name in TEXT:
        if metadata.get(name) is not None and not isinstance(metadata[name], str):
            yield f'"{name}" must be a text'
    license_ = metadata.get("license")
    for item in license_ if isinstance(license_, list) else [license_]:
        if isinstance(item, str) and not IDENTIFIER.fullmatch(item):
            yield f'"license" must be a license identifier: {item}'
    relation = metadata.get("base_model_relation")
    if isinstance(relation, str) and relation not in RELATIONS:
        yield f'"base_model_relation" must be one of {", ".join(sorted(RELATIONS))}'
    if metadata.get("model-index") is not None:
        yield from _index_errors(metadata["model-index"])


def _index_errors(index: Any) -> Iterator[str]:
    if not isinstance(index, list) or not index:
        yield '"model-index" must be a list with one entry at least'
        return
    for i, model in enumerate(index):
        where = f'"model-index[{i}]'
        if not isinstance(model, dict) or not isinstance(model.get("name"), str) or not model["name"]:
            yield f'{where}.name" is required and must be a text'
            continue
        results = model.get("results")
        if not isinstance(results, list):
            yield f'{where}.results" is required and must be a list'
            continue
        for k, result in enumerate(results):
            yield from _result_errors(result, f"{where}.results[{k}]")


def _result_errors(result: Any, where: str) -> Iterator[str]:
    if not isinstance(result, dict):
        yield f'{where}" must be a mapping'
        return
    for part, fields in (("task", ("type",)), ("dataset", ("type", "name"))):
        value = result.get(part)
        for name in fields:
            if not isinstance(value, dict) or not isinstance(value.get(name), str) or not value[name]:
                yield f'{where}.{part}.{name}" is required and must be a text'
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        yield f'{where}.metrics" is required and must be a list with one entry at least'
        return
    for j, metric in enumerate(metrics):
        if not isinstance(metric, dict) or not isinstance(metric.get("type"), str) or not metric["type"]:
            yield f'{where}.metrics[{j}].type" is required and must be a text'
        elif metric.get("value") is None:
            yield f'{where}.metrics[{j}].value" is required'
