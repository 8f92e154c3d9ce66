"""What `params` of a probe state: its parts, each a block and the tokens whose hidden states are read there.

A probe of answers reads the newest token of an answer where one of prompts reads the end of the generation prompt, and
says how its calibration read each answer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from steerguard.errors import ArtifactFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from steerguard.artifacts.manifest import ArtifactManifest

Over = Literal["end", "prompt_mean"]
"""Which hidden state of a block a part of a probe reads.

`end`: the one at the end of the generation prompt; for a probe of answers, at the newest token of the answer.
`prompt_mean`: the mean from the fifth token of the prompt through the end of the generation prompt.
"""

PROMPT_MEAN_FEATURE = "probe.prompt_mean"
"""What a probe requires exactly when one of its parts reads the prompt mean."""

READS_PROMPTS = "generation_prompt_end"
READS_ANSWERS = "answer"
"""What `params.read` of a probe of answers says."""

ANSWER_FEATURE = "probe.answer"
"""What a probe requires exactly when it was fitted to answers: no detector may read it at the end of a prompt."""

Similarity = Literal["tanh_projection", "direction"]
"""What a probe of the method `cosine` compares a hidden state with.

`tanh_projection`: tanh of the state's projection on the condition direction, as in CAST.
`direction`: the condition direction itself.
"""

COSINE_METHOD = "cosine"
COSINE_FEATURE = "probe.cosine"
"""What a probe requires exactly when its method is `cosine`: an older reader must not take it for a linear one."""

Part = tuple[int, Over]
"""Block and what is read there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerReading:
    """How the calibration of a probe of answers read each answer; its rates hold for answers that are read alike."""

    tokens: int
    """Generated tokens of each answer at most."""
    first: int
    """Generated tokens before the first read; an answer that was begun by force is also read where it was begun."""
    every: int
    """Generated tokens between two reads."""
    in_a_row: int
    """Reads, one after the other, whose lowest score counts; the highest of these is the score of the answer."""

    def same_reads(self, *, first: int, every: int, in_a_row: int) -> bool:
        """Return whether a guard with these settings reads an answer as the calibration did."""
        return (self.first, self.every, self.in_a_row) == (first, every, in_a_row)


def probe_parts(manifest: ArtifactManifest) -> tuple[Part, ...]:
    """Return the parts of a probe in the order of its weights; a manifest without `over` reads the end everywhere.

    Raises:
        ArtifactFormatError: `blocks` or `over` is not what a probe may state, a part stands twice, or one of the
            features `probe.prompt_mean`, `probe.cosine` and `probe.answer` is required without being used, or the
            other way round.
    """
    blocks = _blocks(manifest.params, manifest.base.num_blocks)
    over = manifest.params.get("over")
    if over is None:
        over = ["end"] * len(blocks)
    if not isinstance(over, list | tuple) or len(over) != len(blocks) or any(one not in get_args(Over) for one in over):
        raise _malformed("over", f"{len(blocks)} times one of {', '.join(get_args(Over))}", over)
    parts = tuple(zip(blocks, over, strict=True))
    if len(set(parts)) != len(parts):
        raise _malformed("blocks", "each block once for the end, and once for the prompt mean", parts)
    _required_as_used(manifest, PROMPT_MEAN_FEATURE, "it reads the prompt mean", used="prompt_mean" in over)
    _required_as_used(manifest, COSINE_FEATURE, "its method is `cosine`", used=manifest.method == COSINE_METHOD)
    _required_as_used(manifest, ANSWER_FEATURE, "it reads answers", used=manifest.params.get("read") == READS_ANSWERS)
    return parts


def answer_reading(manifest: ArtifactManifest) -> AnswerReading | None:
    """Return how the calibration of a probe of answers read them; None for a probe of prompts.

    Raises:
        ArtifactFormatError: a number is missing or below 1, or the first read lies behind every token.
    """
    params = manifest.params
    if params.get("read") != READS_ANSWERS:
        return None
    numbers: dict[str, int] = {}
    for name in ("tokens", "first", "every", "in_a_row"):
        value = params.get(name)
        if type(value) is not int or value < 1:
            raise _malformed(name, "a whole number from 1 on", value)
        numbers[name] = value
    reading = AnswerReading(**numbers)
    if reading.first >= reading.tokens:
        raise _malformed("first", f"below `tokens`, which is {reading.tokens}", reading.first)
    return reading


def similarity_of(manifest: ArtifactManifest) -> Similarity:
    """Return what a probe of the method `cosine` compares hidden states with.

    Raises:
        ArtifactFormatError: the manifest states none, or one that this version does not know.
    """
    found = manifest.params.get("similarity")
    for known in get_args(Similarity):
        if found == known:
            return cast("Similarity", known)
    raise _malformed("similarity", f"one of {', '.join(get_args(Similarity))}", found)


def probe_params(parts: Sequence[Part], reading: AnswerReading | None = None) -> dict[str, Any]:
    """Return the `params` of a probe with these parts: the inverse of `probe_parts` and `answer_reading`.

    Args:
        parts: in the order of the probe's weights.
        reading: of a probe of answers.
    """
    params: dict[str, Any] = {
        "blocks": [block for block, _ in parts],
        "read": READS_PROMPTS if reading is None else READS_ANSWERS,
        "reduce": "mean",
        **({} if reading is None else asdict(reading)),
    }
    if any(over != "end" for _, over in parts):
        params["over"] = [over for _, over in parts]
    return params


def _required_as_used(manifest: ArtifactManifest, feature: str, when: str, *, used: bool) -> None:
    required = feature in manifest.requires.features
    if required != used:
        raise ArtifactFormatError(
            f"A probe requires `{feature}` exactly when {when}.",
            expected="required and used, or neither",
            found="required but not used" if required else "used but not required",
            where="manifest.json: requires.features",
            next_step="Rebuild the artifact with `steerguard build`.",
        )


def _blocks(params: Mapping[str, Any], num_blocks: int) -> tuple[int, ...]:
    blocks = params.get("blocks")
    if (
        not isinstance(blocks, list | tuple)
        or not blocks
        or any(type(block) is not int or not 0 <= block < num_blocks for block in blocks)
    ):
        raise _malformed("blocks", f"one or more decoder blocks, each from 0 to {num_blocks - 1}", blocks)
    return tuple(blocks)


def _malformed(name: str, expected: str, found: object) -> ArtifactFormatError:
    return ArtifactFormatError(
        f"The artifact's parameter `{name}` is not what a probe may state.",
        expected=expected,
        found=repr(found)[:80],
        where=f"manifest.json: params.{name}",
        next_step="Upgrade steerguard, or use another version of the artifact.",
    )
