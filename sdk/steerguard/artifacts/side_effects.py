"""Side effects of an artifact as figures: what guidance with it costs benign users.

`benchmarks.json` holds them under `side_effects`, the card shows them in a section that is made from them, and nothing
is published without them. Three figures are required: how often a benign prompt is refused (`over_refusal`), how much
less natural the answers become (`coherence`) and how much longer a request takes (`overhead`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steerguard.artifacts.attestation import Digest
from steerguard.artifacts.manifest import ArtifactManifest, DecimalText, Identifier, Name, Sha256, Text
from steerguard.artifacts.paths import BENCHMARKS, CALIBRATION, is_weights
from steerguard.canonical import digest
from steerguard.errors import ArtifactFormatError

KEY: Final = "side_effects"
"""Where the figures stand in `benchmarks.json`."""

FigureId = Literal["over_refusal", "coherence", "overhead"]
REQUIRED: Final[tuple[FigureId, ...]] = ("over_refusal", "coherence", "overhead")

_MEANINGS: Mapping[FigureId, str] = {
    "over_refusal": "share of benign prompts that get a refusal under the policy; 0 is none",
    "coherence": "perplexity of the answers to benign prompts, rated by the model without guidance, "
    "divided by that of its own answers; 1 is no change",
    "overhead": "seconds of the same benign requests under the policy divided by those without; 1 is no cost",
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class SideEffectFigure(_Part):
    """One measured side effect with its sample."""

    id: FigureId
    title: Text
    """What the number is, for people."""
    set: Text
    """What was measured on, with the split."""
    n: Annotated[int, Field(ge=1)]
    """Prompts, or pairs of timed requests for `overhead`."""
    value: DecimalText
    low: DecimalText
    high: DecimalText
    """95 % interval."""
    interval: Literal["wilson", "bootstrap"]
    """How the interval was made."""
    weights: Identifier
    """Weight type of the model, for example `bfloat16`."""
    hardware: Text
    """Device and threads that the model ran on."""


class SuiteName(_Part):
    """Which suite measured."""

    name: Name
    version: Text
    sha256: Sha256
    """Digest of the suite file's bytes."""


class SideEffects(_Part):
    """The section `side_effects` of `benchmarks.json`."""

    content_digest: Digest
    """What was measured: `measured_content` of the artifact's manifest, so that figures cannot outlive the tensors."""
    suite: SuiteName
    policy: Text
    """Which policy exercised the artifact."""
    max_new_tokens: Annotated[int, Field(ge=1)]
    sdk: Text
    """Version of the package that measured."""
    figures: Annotated[tuple[SideEffectFigure, ...], Field(strict=False)]
    """Each of the required figures at most once."""

    def figure(self, name: FigureId) -> SideEffectFigure | None:
        """Return one figure, or None where it was not measured."""
        return next((figure for figure in self.figures if figure.id == name), None)

    @property
    def missing(self) -> tuple[FigureId, ...]:
        """Required figures that are not there."""
        return tuple(name for name in REQUIRED if self.figure(name) is None)


def measured_content(manifest: ArtifactManifest) -> str:
    """Return the digest over everything in an artifact that a measurement depends on.

    It covers method, settings, weights and calibration; texts such as the card, the recipe and the figures themselves
    may change without it.
    """
    covered = {
        entry.path: entry.sha256 for entry in manifest.files if is_weights(entry.path) or entry.path == CALIBRATION
    }
    return digest(
        {
            "type": manifest.type,
            "method": manifest.method,
            "method_version": manifest.method_version,
            "params": manifest.params,
            "files": covered,
        }
    )


def side_effects_of(benchmarks: Mapping[str, Any]) -> SideEffects | None:
    """Return the side effects in the data of `benchmarks.json`; None where nobody measured them.

    Raises:
        ArtifactFormatError: the section breaks its schema, names a figure twice, or a value lies outside its interval.
    """
    if KEY not in benchmarks:
        return None
    where = f"{BENCHMARKS}: {KEY}"
    try:
        # Through JSON, because strict validation of Python data would ask for tuples where JSON has lists.
        found = SideEffects.model_validate_json(json.dumps(benchmarks[KEY]))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise ArtifactFormatError(
            "The side effects break their schema.",
            where=".".join([where, *(str(part) for part in first["loc"])]),
            expected=first["msg"],
            found=repr(first.get("input"))[:120],
            next_step="Measure them with steerguard vet --measure-side-effects.",
        ) from error
    for index, figure in enumerate(found.figures):
        if found.figure(figure.id) is not figure:
            raise ArtifactFormatError(
                "A side effect is listed twice.", where=f"{where}.figures[{index}]", found=figure.id
            )
        if not 0 <= float(figure.low) <= float(figure.value) <= float(figure.high):
            raise ArtifactFormatError(
                "The value of a side effect lies outside its interval.",
                where=f"{where}.figures[{index}]",
                expected="0 <= low <= value <= high",
                found=f"{figure.low}, {figure.value}, {figure.high}",
            )
    return found


def side_effects_section(effects: SideEffects) -> str:
    """Return the section of the card that shows the figures: Markdown, made from the data alone."""
    rows = [
        f"| {_cell(figure.title)} | {_cell(figure.set)} | {figure.value} | {figure.low} to {figure.high} ({figure.interval}) | {figure.n} "
        f"| {_cell(figure.weights)}, {_cell(figure.hardware)} |"
        for figure in effects.figures
    ]
    meanings = [f"- {figure.title}: {_MEANINGS[figure.id]}." for figure in effects.figures]
    return "\n".join(
        [
            "## Side effects",
            "",
            _measured_by(effects),
            "",
            "| side effect | on | value | 95 % interval | n | weights, hardware |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            *meanings,
        ]
    )


def _measured_by(effects: SideEffects) -> str:
    suite = f"`{effects.suite.name}` {effects.suite.version}"
    return f"Measured by the suite {suite} under its policy `{effects.policy}`, greedy, {effects.max_new_tokens} new tokens:"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
