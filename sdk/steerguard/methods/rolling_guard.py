"""Settings of the rolling guard: a probe that is read while the answer is written."""

from __future__ import annotations

from typing import Annotated, Any, Literal, final

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from steerguard.errors import ArtifactFormatError
from steerguard.methods.bounds import Bound, CalibratedBound
from steerguard.methods.section import ArtifactReferenceText, Identifier
from steerguard.methods.spec import ArtifactNeed, ArtifactParameters, Footprint, GuidanceSpec

MOST_TOKENS = 4096

Reaction = Literal["refuse", "open"]
"""What happens to a row whose score reaches the threshold.

`refuse`: its answer is replaced by the refusal template.
`open`: other guidance entries act on it from the next token on.
"""


@final
class RollingGuardSpec(GuidanceSpec):
    """Read a linear probe every few generated tokens, and refuse or steer from there on where its score is too high.

    Idea: a verdict on the prompt cannot see an answer that turns harmful later, or one whose beginning was forced. The
    states at the answer's own tokens can.

    Formula, at read j of a row, with `h_i(t)` the output of the probe's i-th block at token t: the score is
    `mean_i(w_i . h_i(t_j) + b_i)`, with `t_j` the newest token; parts over the prompt mean keep what they read at the
    prompt. The first score at or above the threshold, or the first `in_a_row` of them one after the other, refuses the
    row or opens the named entries for all later tokens.

    Cost: no extra forward token; one dot product per part and row at each read, and a hook on each read block in every
    decode step.

    Fails when: the probe was made for prompts and its scores mean nothing at answer tokens; the last tokens of an answer
    are written after the last read; answers are longer than those that a rate was calibrated on, and are read more often.

    Reference: none is followed; the probe is a linear read-out as in InferAligner (Wang et al., arXiv 2401.11206,
    section 3.2), the reason late compliance and prefilled answers (Qi et al., arXiv 2406.05946).
    """

    method: Literal["rolling_guard"]
    """Which method this entry configures: `rolling_guard`."""
    artifact: ArtifactReferenceText
    """Probe: an artifact family of type `probe`, of the method `linear_probe`, and a version range."""
    threshold: Bound
    """Score at which the guard acts: `{value: score}`, or `{fpr: rate}`, the share of benign answers that reach it; a rate
    needs a probe that was calibrated on answers, and the `every`, `first` and `in_a_row` of that calibration."""
    every: Annotated[
        int,
        Field(
            ge=1,
            le=MOST_TOKENS,
            json_schema_extra={"x-unit": "generated tokens", "x-cost": "one dot product per part and row at each read"},
        ),
    ] = 8
    """How many generated tokens lie between two reads."""
    first: Annotated[int, Field(ge=1, le=MOST_TOKENS, json_schema_extra={"x-unit": "generated tokens"})] = 1
    """After how many generated tokens the first read is; a prefilled answer is also read before the first one."""
    in_a_row: Annotated[int, Field(ge=1, le=16, json_schema_extra={"x-unit": "reads"})] = 1
    """How many reads, one after the other, must reach the threshold; the score is the lowest of them."""
    then: Reaction = "refuse"
    """What happens then: `refuse` replaces the answer by the template, `open` lets other entries act."""
    opens: Annotated[tuple[Identifier, ...], Field(max_length=16, validate_default=True)] = ()
    """Ids of the guidance entries that are opened; needed with `then: open`, forbidden with `refuse`."""

    @field_validator("opens")
    @classmethod
    def _goes_with_reaction(cls, opens: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "then" in info.data and (info.data["then"] == "open") != bool(opens):
            kind = "opens_needs_open"
            message = "`opens` names guidance entries exactly when `then: open` is written"
            raise PydanticCustomError(kind, message)
        return opens

    def artifact_needs(self) -> tuple[ArtifactNeed, ...]:
        """Return the one need: the probe."""
        need = ArtifactNeed(role="probe", reference=self.artifact, types=("probe",), methods=("linear_probe",))
        return (need,)

    def features(self) -> frozenset[str]:
        """Return the engine features that the reads need."""
        return frozenset({"probe.linear", "hook.resid_post"})

    def footprint(self, parameters: ArtifactParameters) -> Footprint:
        """Return the read blocks; nothing is changed.

        Raises:
            ArtifactFormatError: the artifact states no blocks, or reads the prompt mean alone.
        """
        params = parameters["probe"]
        blocks = params.get("blocks")
        if not isinstance(blocks, list | tuple) or any(type(block) is not int for block in blocks):
            raise _malformed("blocks", "a list of decoder blocks", blocks)
        over = params.get("over") or ["end"] * len(blocks)
        newest = {block for block, tokens in zip(blocks, over, strict=False) if tokens == "end"}
        if not newest:
            raise _malformed("over", "at least one part that reads `end`", over)
        return Footprint(
            steered_blocks=(),
            read_blocks=tuple(blocks),
            strength="1.0",
            positions=None,
            answer_blocks=tuple(sorted(newest)),
            kept_reads=self.in_a_row - 1,
        )

    def needs_buffered_stream(self) -> bool:
        """Return False: under `window` a late refusal ends the stream with an error."""
        return False

    def opened_entries(self) -> tuple[str, ...]:
        """Return the entries that the guard may open."""
        return self.opens

    def summary(self) -> str:
        """Return one plain sentence on what the step does with these settings."""
        bound = self.threshold
        what = (
            f"what {bound.fpr * 100:g}% of benign answers reach"
            if isinstance(bound, CalibratedBound)
            else str(bound.value)
        )
        times = "" if self.in_a_row == 1 else f", {self.in_a_row} reads in a row"
        does = "refuses the answer" if self.then == "refuse" else f"opens {' and '.join(self.opens)} from there on"
        return (
            f"reads {self.artifact} after {self.first} generated tokens and every {self.every} from there, and {does} "
            f"where the score is at least {what}{times}"
        )


def _malformed(name: str, expected: str, found: Any) -> ArtifactFormatError:
    return ArtifactFormatError(
        f"The artifact's parameter `{name}` is not what a rolling guard can read.",
        expected=expected,
        found=repr(found)[:80],
        where=f"manifest.json: params.{name}",
        next_step="Name a linear probe that reads the end of the generation prompt.",
    )
