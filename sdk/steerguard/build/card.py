"""The card of an artifact: Markdown with the Hub's front matter, written from the build and from measured figures.

No figure is typed by a person: each row of the tables comes from a figure that carries its own n and origin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerguard.build.parts import ArtifactParts, ComparedSettings
from steerguard.build.recipe import RecipeDocument

_TAGS = {"steering_vectors": "steering-vector", "probe": "probe", "cost_model": "cost-model", "critic": "critic"}


def render_card(document: RecipeDocument, parts: ArtifactParts, effect: Mapping[str, Any] | None) -> str:
    """Return the text of `README.md`.

    Args:
        document: the recipe.
        parts: what the build produced.
        effect: figures measured through the guarded model, as written by `benchmarks/effect.py`; None before that.
    """
    meta = document.metadata
    sections = [
        _front_matter(document),
        f"# {_heading(document)}\n\n{meta.description}",
        "## What it is\n\n" + _facts(document, parts),
        "## How it was made\n\n" + _bullets(parts.how_made),
        "## What was measured\n\n" + _measured(parts, effect),
        *(f"## {compared.title}\n\n{compared.text}\n\n{_comparison(compared)}" for compared in parts.compared),
        "## Limits\n\n" + _bullets((*parts.limits, *_weights_limit(document))),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(document: RecipeDocument) -> str:
    meta = document.metadata
    return "\n".join(
        [
            "---",
            "library_name: steerguard",
            f"license: {meta.license}",
            "language: en",
            f"base_model: {document.base.repo}",
            "tags:",
            "  - steerguard",
            "  - safety",
            f"  - {_TAGS[document.artifact.type]}",
            "---",
        ]
    )


def _heading(document: RecipeDocument) -> str:
    meta = document.metadata
    name = f"{meta.family} for {meta.variant}"
    return name if meta.title is None else f"{name}: {meta.title}"


def _facts(document: RecipeDocument, parts: ArtifactParts) -> str:
    meta, artifact = document.metadata, document.artifact
    params = ", ".join(f"{name} {_plain(value)}" for name, value in parts.params.items())
    return _bullets(
        (
            f"Version {meta.version}, type `{artifact.type}`, method `{parts.method}`.",
            f"Settings: {params}.",
            f"Model: {document.base.repo}; weights: {document.base.source}.",
            "Fingerprints: " + ", ".join(document.fingerprint.weights) + " weights, blocks "
            f"{_plain(list(document.fingerprint.blocks))}, accepted at 1 - cos up to "
            f"{document.fingerprint.max_one_minus_cos}.",
        )
    )


def _measured(parts: ArtifactParts, effect: Mapping[str, Any] | None) -> str:
    texts: list[str] = []
    if parts.figures:
        texts.append("By the build itself:\n\n" + _table(parts.figures))
    if effect is None:
        texts.append("Not yet measured through the guarded model.")
    else:
        texts.append(
            f"Through the guarded model ({effect['weights']} weights, greedy, {effect['max_new_tokens']} new tokens), "
            f"by `{effect['command']}`:\n\n" + _table(effect["figures"])
        )
        texts.extend(str(note) for note in effect.get("notes", ()))
    return "\n\n".join(texts)


def _table(figures: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| figure | on | value | 95 % interval | n |", "|---|---|---|---|---|"]
    for figure in figures:
        low, high = figure.get("wilson_low"), figure.get("wilson_high")
        interval = f"{low} to {high}" if low is not None else "–"  # noqa: RUF001 - a dash for "none" in a table
        lines.append(f"| {figure['title']} | {figure['set']} | {figure['value']} | {interval} | {figure['n']} |")
    return "\n".join(lines)


def _comparison(compared: ComparedSettings) -> str:
    lines = [f"| {' | '.join(compared.columns.values())} |", "|" + "---|" * len(compared.columns)]
    lines += [f"| {' | '.join(_cell(row.get(key)) for key in compared.columns)} |" for row in compared.rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "yes" if value else "–"  # noqa: RUF001 - a dash for "none" in a table
    return _plain(value)


def _weights_limit(document: RecipeDocument) -> tuple[str, ...]:
    return (
        (
            f"It was built on these weights: {document.base.source}. "
            "Other weights of the same model (another quantisation, the original checkpoint, a fine-tune) are another "
            "variant and are refused by the fingerprint."
        ),
        "It was built from English prompts in the model's own chat template.",
    )


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _plain(value: object) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
