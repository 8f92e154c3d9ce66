"""The card's front matter in the Hub's convention, generated from manifest and side effects.

The Hub reads YAML between two lines `---` at the top of `README.md`: `library_name`, `license`, `base_model`, `tags` and
so on for its search, and measured figures under `model-index`
(https://huggingface.co/docs/hub/model-cards, section Model card metadata).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import yaml

from steerguard.artifacts.licenses import license_fields
from steerguard.artifacts.manifest import ArtifactManifest, ArtifactType
from steerguard.artifacts.paths import CARD
from steerguard.artifacts.side_effects import SideEffects
from steerguard.errors import ArtifactFormatError

MAX_FRONT_MATTER_BYTES: Final = 64 * 1024
LIBRARY: Final = "steerguard"
_FENCE = "---"
_BASE_MODEL = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_TAGS: Mapping[ArtifactType, str] = {
    "steering_vectors": "steering-vector",
    "probe": "probe",
    "null_space_map": "null-space-map",
    "polytope": "polytope",
    "critic": "critic",
    "cost_model": "cost-model",
    "multifurcation_critic": "critic",
}


def card_metadata(manifest: ArtifactManifest, effects: SideEffects | None) -> dict[str, Any]:
    """Return what the front matter must say, in the order in which it is written.

    `base_model` is left out where the manifest names a model that cannot be a name on the Hub.

    Args:
        manifest: of the artifact; every tag and name comes from it.
        effects: measured side effects, which become the `model-index`; None leaves it out.
    """
    base: dict[str, Any] = {}
    if _BASE_MODEL.fullmatch(manifest.base.repo):
        base = {"base_model": manifest.base.repo, "base_model_relation": "adapter"}
    return {
        "library_name": LIBRARY,
        **license_fields(manifest.license),
        **base,
        "pipeline_tag": "text-generation",
        "tags": [LIBRARY, "safety", _TAGS[manifest.type], manifest.method],
        **({} if effects is None else {"model-index": [_model_index(manifest, effects)]}),
    }


def with_front_matter(card: str, metadata: Mapping[str, Any]) -> str:
    """Return the card with this front matter; fields of its own front matter that are not replaced are kept, and its tags.

    Raises:
        ArtifactFormatError: the card's own front matter cannot be read.
    """
    # Every scalar as the text that stands there: `language: no` is Norwegian and must not become a truth value.
    own = front_matter(card, loader=yaml.BaseLoader) or {}
    # What this project writes itself, and must not stay behind when it no longer applies.
    written = ("license_name", "license_link", "base_model", "base_model_relation", "model-index")
    kept = {key: value for key, value in own.items() if key not in metadata and key not in written}
    tags = own.get("tags")
    mine = (
        [*metadata["tags"], *(tag for tag in tags if tag not in metadata["tags"])] if isinstance(tags, list) else None
    )
    merged = {**metadata, **kept, **({} if mine is None else {"tags": mine})}
    # The index of figures is long, so it goes last.
    if "model-index" in merged:
        merged["model-index"] = merged.pop("model-index")
    text = yaml.safe_dump(merged, sort_keys=False, allow_unicode=True, width=1000)
    return f"{_FENCE}\n{text}{_FENCE}\n\n{card_body(card).lstrip()}"


def front_matter(card: str, *, loader: Any = yaml.SafeLoader) -> dict[str, Any] | None:
    """Return the data of a card's front matter; None where the card has none.

    Args:
        card: text of `README.md`.
        loader: a safe loader of PyYAML.

    Raises:
        ArtifactFormatError: it is not closed, too large, not YAML or no mapping.
    """
    text = _split(card)[0]
    if text is None:
        return None
    if len(text.encode("utf-8", "surrogatepass")) > MAX_FRONT_MATTER_BYTES:
        raise ArtifactFormatError(
            "The front matter of the card is too large.", where=CARD, expected=f"at most {MAX_FRONT_MATTER_BYTES} bytes"
        )
    try:
        data = yaml.load(text, loader)  # noqa: S506  only the safe loaders are passed in
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        raise ArtifactFormatError(
            "The front matter of the card is not YAML.",
            where=CARD if line is None else f"{CARD}, line {line + 2}",
            expected="YAML between two lines ---",
            found=str(getattr(error, "problem", None) or type(error).__name__)[:120],
        ) from error
    if not isinstance(data, dict):
        raise ArtifactFormatError(
            "The front matter of the card is no mapping.", where=CARD, expected="fields", found=type(data).__name__
        )
    return data


def card_body(card: str) -> str:
    """Return the card without its front matter."""
    return _split(card)[1]


def check_front_matter(card: str, metadata: Mapping[str, Any]) -> None:
    """Refuse a card whose front matter does not say what manifest and figures say; more fields and tags are welcome.

    Raises:
        ArtifactFormatError: it is missing, unreadable, or a field differs.
    """
    found = front_matter(card)
    if found is None:
        raise ArtifactFormatError("The card has no front matter.", where=CARD, expected=", ".join(metadata))
    for key, expected in metadata.items():
        given = found.get(key)
        if key == "tags":
            agrees = isinstance(given, list) and all(tag in given for tag in expected)
        else:
            agrees = given == expected
        if not agrees:
            raise ArtifactFormatError(
                "The card's front matter does not say what the manifest and the figures say.",
                where=f"{CARD}: {key}",
                expected=_short(expected),
                found="absent" if key not in found else _short(given),
            )


def _split(card: str) -> tuple[str | None, str]:
    """Return the text between the fences, None without them, and what follows."""
    lines = card.removeprefix("\ufeff").split("\n")
    if lines[0].rstrip() != _FENCE:
        return None, card
    for index, line in enumerate(lines[1:], start=1):
        if line.rstrip() == _FENCE:
            return "\n".join(lines[1:index]), "\n".join(lines[index + 1 :])
    raise ArtifactFormatError("The front matter of the card is not closed.", where=CARD, expected=f"a line {_FENCE}")


def _model_index(manifest: ArtifactManifest, effects: SideEffects) -> dict[str, Any]:
    """Return one entry of `model-index`: each figure as a metric with its sample and interval beside it."""
    return {
        "name": f"{manifest.family}/{manifest.variant}",
        "results": [
            {
                "task": {"type": "text-generation", "name": "Side effects of guidance"},
                "dataset": {
                    "name": figure.set,
                    "type": f"{effects.suite.name}-{figure.id}".replace("_", "-"),
                    "args": {"suite": effects.suite.name, "sha256": effects.suite.sha256},
                },
                "metrics": [
                    {
                        "type": figure.id,
                        "value": float(figure.value),
                        "name": figure.title,
                        "args": {
                            "n": figure.n,
                            "low": float(figure.low),
                            "high": float(figure.high),
                            "interval": figure.interval,
                            "weights": figure.weights,
                            "hardware": figure.hardware,
                        },
                    }
                ],
            }
            for figure in effects.figures
        ],
    }


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
