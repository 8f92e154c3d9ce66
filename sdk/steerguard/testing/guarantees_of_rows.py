"""Guarantees 1 to 3: rows whose gate is closed are left alone, and no row depends on what stands beside it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from steerguard.errors import UnsupportedGenerationError
from steerguard.testing.guarantees import Tolerance, broken, require_same_rows
from steerguard.testing.trial import CLOSED, OPEN
from steerguard.testing.watched_run import differing, passed_states, place_name, watched_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from steerguard.decision import Decision
    from steerguard.testing.trial import Side, Trial
    from steerguard.testing.watched_run import WatchedRun

SIDES: tuple[Side, ...] = ("left", "right")


def neutral_is_identity(trial: Trial, threshold: float, row_tolerance: float) -> None:
    """Prove guarantee 1: closed gates, and a coefficient of 0, give the unguided run of the same batch."""
    unguided: dict[str, WatchedRun] = {}
    for side in SIDES:
        batch = trial.batch(side)
        plain = unguided[side] = watched_run(trial.model, batch, pad=trial.pad)
        with trial.guarded(threshold) as wrapped:
            run = watched_run(wrapped, batch, pad=trial.pad)
        require_same_rows(
            1,
            closed_rows(run.decisions),
            plain.logits,
            run.logits,
            atol=row_tolerance,
            what="a row whose gate is closed was changed",
        )
    batch, plain, every = trial.batch("left"), unguided["left"], range(len(trial.contents))
    with trial.guarded(CLOSED) as wrapped:
        run = watched_run(wrapped, batch, pad=trial.pad)
    what = "a batch in which every gate is closed was changed"
    require_same_rows(1, every, plain.logits, run.logits, atol=0.0, what=what)
    if "coefficient" in type(trial.spec).model_fields:
        with trial.guarded(OPEN, spec=trial.spec.model_copy(update={"coefficient": 0.0})) as wrapped:
            run = watched_run(wrapped, batch, pad=trial.pad)
        what = "a coefficient of 0 changed a row"
        require_same_rows(1, every, plain.logits, run.logits, atol=0.0, what=what)


def verdict_per_row(trial: Trial, threshold: float) -> None:
    """Prove guarantee 2: the same verdicts with padding on either side, and padding is never changed."""
    found: dict[str, tuple[Decision, ...]] = {}
    for side in SIDES:
        batch = trial.batch(side)
        with trial.guarded(threshold) as wrapped:
            # The library itself writes other answers behind padding on the right, and a method may read them.
            found[side] = watched_run(wrapped, batch, pad=trial.pad, steps=1).decisions
        for row, decision in enumerate(found[side]):
            if decision.doses and decision.intended == "allow":
                raise broken(
                    2,
                    "a row was guided against its verdict",
                    expected="no dose",
                    found=f"{len(decision.doses)} doses",
                    where=f"row {row}, padding {side}",
                )
        _require_padding_alone(trial, threshold, side)
    for row, (left, right) in enumerate(zip(found["left"], found["right"], strict=True)):
        _require_same_decision(2, trial, threshold, left, right, where=f"row {row}, padding left and right")


def batches_and_caches(trial: Trial, threshold: float) -> None:
    """Prove guarantee 3: the same row alone and in a batch, with and without a cache."""
    tolerance = Tolerance.of(trial.model.dtype)
    batch = trial.batch()
    tokens = watched_run(trial.model, batch, pad=trial.pad).tokens
    with trial.guarded(threshold) as wrapped:
        together = watched_run(wrapped, batch, pad=trial.pad, forced=tokens)
        uncached = _uncached(trial, wrapped, batch, tokens)
        alone = {
            row: watched_run(wrapped, trial.batch(rows=[row]), pad=trial.pad, forced=tokens[[row]])
            for row in run_alone(together.decisions)
        }
    others = [] if uncached is None else zip(together.decisions, uncached.decisions, strict=True)
    for row, (decision, other) in enumerate(others):
        _require_same_decision(3, trial, threshold, decision, other, where=f"row {row}, with and without a cache")
    for row, run in alone.items():
        _require_same_decision(
            3, trial, threshold, together.decisions[row], run.decisions[0], where=f"row {row}, alone and in the batch"
        )
    pairs = [(f"row {row} alone", [step[[row]] for step in together.logits], run.logits) for row, run in alone.items()]
    if uncached is not None:
        pairs.append(("without a cache", together.logits, uncached.logits))
    for where, logits, others_logits in pairs:
        # A row that is refused in the middle of its answer ends there when it is alone.
        for step, (first, second) in enumerate(zip(logits, others_logits, strict=False)):
            if not tolerance.agree(first.float(), second.float()):
                distance = float((first.float() - second.float()).nan_to_num().abs().max())
                raise broken(
                    3,
                    "logits differ by more than rounding explains",
                    expected=f"agreement within {tolerance.relative} of the largest logit, ten times over",
                    found=f"a difference of {distance:.3g}",
                    where=f"{where}, step {step}",
                )


def _uncached(trial: Trial, wrapped: Any, batch: dict[str, Tensor], tokens: Tensor) -> WatchedRun | None:
    """Return the run without a cache; None where the method refuses that by name."""
    try:
        return watched_run(wrapped, batch, pad=trial.pad, forced=tokens, use_cache=False)
    except UnsupportedGenerationError:
        return None


def run_alone(decisions: Sequence[Decision]) -> list[int]:
    """Return the rows that are also run alone: the first and the last one that is left alone, and that is not."""
    closed = closed_rows(decisions)
    others = sorted({decision.row for decision in decisions} - set(closed))
    return sorted({row for rows in (closed, others) for row in (*rows[:1], *rows[-1:])})


def closed_rows(decisions: Sequence[Decision]) -> list[int]:
    """Return the rows whose verdict leaves them alone."""
    return [decision.row for decision in decisions if decision.intended == "allow"]


def _require_padding_alone(trial: Trial, threshold: float, side: Side) -> None:
    """Require that the prefill changes no column of padding at the first place where it changes anything."""
    batch = trial.batch(side)
    with passed_states(trial.model) as before:
        plain = watched_run(trial.model, batch, pad=trial.pad, steps=1)
    with trial.guarded(threshold) as wrapped, passed_states(trial.model) as after:
        watched_run(wrapped, batch, pad=trial.pad, forced=plain.tokens, steps=1)
    padding = batch["attention_mask"].cpu() == 0
    for number, (one, other) in enumerate(zip(before.places, after.places, strict=True)):
        prefill = len(other) - len(one)
        if prefill < 0 or one[0].shape != other[prefill].shape:
            return
        changed = differing(one[0], other[prefill])
        if not bool(changed.any()):
            continue
        wrong = (changed & padding).nonzero().tolist()
        if wrong:
            row, column = wrong[0]
            raise broken(
                2,
                "padding was changed",
                expected="the state of the unguided run",
                found="another one",
                where=f"row {row}, column {column}, padding {side}, {place_name(number, len(before.places))}",
            )
        return


def _require_same_decision(
    number: int, trial: Trial, threshold: float, one: Decision, other: Decision, *, where: str
) -> None:
    scores = [decision.readings[0].score for decision in (one, other)]
    if any(score is None for score in scores):
        raise broken(number, "a score is not finite", expected="a finite score", found=scores, where=where)
    known = [score for score in scores if score is not None]
    limit = Tolerance.of(trial.model.dtype).around([*known, threshold])
    if abs(known[0] - known[1]) > limit:
        raise broken(number, "scores differ", expected=f"agreement within {limit:.3g}", found=known, where=where)
    for decision in (one, other):
        require_strict_side(number, decision, where=where)
    if one.near != other.near:
        # The outer edge of the tolerance: here the stricter verdict ends, and both scores are short of the threshold.
        return
    verdicts = [decision.intended for decision in (one, other)]
    if verdicts[0] != verdicts[1]:
        raise broken(number, "verdicts differ", expected=verdicts[0], found=verdicts[1], where=where)
    doses = [[(dose.step, dose.open_blocks, dose.positions) for dose in decision.doses] for decision in (one, other)]
    if doses[0] != doses[1]:
        raise broken(number, "doses differ", expected=doses[0], found=doses[1], where=where)


def require_strict_side(number: int, decision: Decision, *, where: str) -> None:
    """Require the stricter verdict of a row whose score lies within its tolerance of the threshold, and no other row."""
    reading = decision.readings[0]
    (threshold,) = reading.thresholds
    score = reading.score or 0.0
    distance = abs(score - threshold.value)
    if decision.near != (distance < reading.tolerance) and not math.isclose(distance, reading.tolerance, rel_tol=1e-3):
        raise broken(
            number,
            "a row is counted as within the score tolerance that is not, or the other way round",
            expected=f"{distance < reading.tolerance} at a distance of {distance:.3g}",
            found=f"{decision.near} with a tolerance of {reading.tolerance:.3g}",
            where=where,
        )
    if decision.cause not in {"rule", "default"}:
        return
    expected = "guide" if decision.near or score >= threshold.value else "allow"
    if decision.intended != expected:
        raise broken(
            number,
            "a row took the less strict verdict"
            if expected == "guide"
            else "a row took another verdict than its score",
            expected=expected,
            found=decision.intended,
            where=where,
        )
