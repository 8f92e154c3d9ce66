"""Thresholds as false-positive rates: split-conformal quantiles of benign calibration scores.

For exchangeable benign scores the chance that a new one reaches the threshold is at most the asked rate (Vovk et al.,
Algorithmic Learning in a Random World, 2005, section 4.1; Angelopoulos and Bates, arXiv 2107.07511, section 1).
The bound holds on average over calibration sets; it says nothing about prompts of another kind.
"""

from __future__ import annotations

import math
import struct
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation, localcontext
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from steerguard.artifacts.conformal import conformal_rank, rate_upper_bound
from steerguard.artifacts.manifest import DecimalText, Text
from steerguard.artifacts.paths import CALIBRATION, MAX_FILE_BYTES
from steerguard.artifacts.strict_json import validated
from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError, CalibrationError


class Calibration(BaseModel):
    """Benign calibration scores of one detector."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    kind: Literal["split_conformal"]
    """How thresholds follow from the scores."""
    score: Text
    """What the score is, for people."""
    benign_scores: tuple[DecimalText, ...] = Field(min_length=1)
    """Ascending float32 values as decimal strings."""
    n: Annotated[int, Field(ge=1)]
    """Number of scores."""
    source: Text
    """Where the benign prompts came from, for people."""

    @property
    def smallest_fpr(self) -> Decimal:
        """The smallest false-positive rate that this many scores can bound: 1 / (n + 1), rounded up to 4 digits."""
        # The thread's own decimal context may hold too few digits.
        with localcontext(Context(prec=50, rounding=ROUND_CEILING)):
            return _shortest(Decimal(1) / (self.n + 1))

    def threshold(self, fpr: Decimal | float | str) -> float:
        """Return the float32 threshold for a false-positive rate; a score fires when `score >= threshold`.

        With k = ceil((n + 1)(1 - fpr)) it is the next float32 above the k-th smallest benign score.

        Args:
            fpr: between 0 and 1, both excluded; a float counts as its shortest decimal spelling.

        Raises:
            CalibrationError: not such a rate, or smaller than n scores can bound.
        """
        k = self._rank(fpr)
        threshold = next_float32(to_float32(float(self.benign_scores[k - 1])))
        if not math.isfinite(threshold):
            raise CalibrationError(
                "No finite threshold lies above the calibration scores.",
                where=CALIBRATION,
                found=self.benign_scores[-1],
            )
        return threshold

    def likely_rate(self, fpr: Decimal | float | str, confidence: float = 0.95) -> float:
        """Return the rate under which this one calibration lies with that confidence; `fpr` itself holds on average.

        Args:
            fpr: as for `threshold`.
            confidence: between 0 and 1.

        Raises:
            CalibrationError: as for `threshold`.
        """
        return rate_upper_bound(self.n, self._rank(fpr), confidence)

    def _rank(self, fpr: Decimal | float | str) -> int:
        rate = _rate(fpr)
        k = conformal_rank(self.n, rate)
        if k > self.n:
            raise CalibrationError(
                f"{self.n} benign scores cannot bound a false-positive rate of {rate}.",
                where=CALIBRATION,
                expected=f"at least {self.smallest_fpr}",
                found=rate,
                next_step="Raise the rate in the policy, or calibrate the artifact on more benign prompts.",
            )
        return k


def calibration_from_scores(scores: list[float], *, score: str, source: str) -> Calibration:
    """Build a calibration from benign scores in any order; they are rounded to float32.

    Raises:
        CalibrationError: no scores, or one that is not finite.
    """
    # Adding zero turns -0.0, which sorts arbitrarily beside 0.0, into 0.0.
    rounded = [to_float32(value) + 0.0 for value in scores]
    if not rounded or not all(math.isfinite(value) for value in rounded):
        raise CalibrationError(
            "A calibration needs finite scores.",
            expected="at least one score, all finite",
            found=f"{len(rounded)} scores, {sum(not math.isfinite(value) for value in rounded)} not finite",
        )
    texts = tuple(float32_text(value) for value in sorted(rounded))
    return Calibration(kind="split_conformal", score=score, benign_scores=texts, n=len(texts), source=source)


def parse_calibration(content: bytes) -> Calibration:
    """Parse and check the bytes of `calibration.json`.

    Raises:
        ArtifactFormatError: not canonical, breaks the schema, or the scores are not ascending and finite in float32.
    """
    calibration = validated(Calibration, content, where=CALIBRATION, max_bytes=MAX_FILE_BYTES)
    check_scores(calibration, where=CALIBRATION)
    return calibration


def check_scores(calibration: Calibration, *, where: str) -> None:
    """Refuse a calibration whose parts disagree.

    Args:
        calibration: of the right shape already.
        where: file, and field if it is part of a larger document, for messages.

    Raises:
        ArtifactFormatError: another number of scores than stated, or they are not ascending and finite in float32.
    """
    if calibration.n != len(calibration.benign_scores):
        raise ArtifactFormatError(
            "The number of scores differs from the list.",
            where=f"{where}: n",
            expected=len(calibration.benign_scores),
            found=calibration.n,
        )
    values = [to_float32(float(text)) for text in calibration.benign_scores]
    for index, value in enumerate(values):
        if not math.isfinite(value):
            raise ArtifactFormatError(
                "A score lies outside the range of float32.",
                where=f"{where}: benign_scores[{index}]",
                expected="a decimal string of a finite float32 value",
                found=calibration.benign_scores[index],
            )
    for index, (left, right) in enumerate(pairwise(values)):
        if left > right:
            raise ArtifactFormatError(
                "The scores are not ascending.",
                where=f"{where}: benign_scores[{index + 1}]",
                expected=f"at least {left}",
                found=right,
            )


def calibration_bytes(calibration: Calibration) -> bytes:
    """Return the canonical bytes of `calibration.json`."""
    return canonical_bytes(calibration.model_dump(mode="json"))


def to_float32(value: float) -> float:
    """Round to float32; values beyond its range become infinite."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def next_float32(value: float) -> float:
    """Return the next float32 above a float32 value."""
    if math.isnan(value) or value == math.inf:
        return value
    if value == 0.0:
        return float(struct.unpack("<f", b"\x01\x00\x00\x00")[0])
    bits = struct.unpack("<i", struct.pack("<f", value))[0]
    return float(struct.unpack("<f", struct.pack("<i", bits + (1 if value > 0 else -1)))[0])


def float32_text(value: float) -> str:
    """Return the shortest decimal string that rounds to this float32 value, as `DecimalText` spells numbers."""
    if not math.isfinite(value):
        return str(value)
    spellings = (f"{value:.{digits}g}" for digits in range(1, 10))
    text = next(text for text in spellings if to_float32(float(text)) == value)
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _rate(fpr: Decimal | float | str) -> Decimal:
    try:
        rate = fpr if isinstance(fpr, Decimal) else Decimal(str(fpr))
    except InvalidOperation:
        rate = Decimal("NaN")
    if not (rate.is_finite() and 0 < rate < 1):
        raise CalibrationError(
            "A false-positive rate lies between 0 and 1.", expected="above 0 and below 1", found=repr(fpr)
        )
    return rate


def _shortest(value: Decimal) -> Decimal:
    return value.quantize(Decimal(1).scaleb(value.adjusted() - 3), rounding=ROUND_CEILING)
