"""One cell of docs/support.md: a model class run in one way under a guard, beside the same run without one."""

from __future__ import annotations

import functools

import torch
from tests.guarded_models import EXPERT_MODELS, guarded, policy, prompts, registry_for
from tests.multimodal_prompts import MULTIMODAL_CLASSES, modality_prompts
from tests.support_ways import COMPILED, ROWS, TEXT_ONLY, TWO_PASSES, WAYS

from steerguard.errors import SteerguardError
from steerguard.testing import tiny_model

WORKS = "works"
EXPERTS_TOLERANCE = 1e-4
WITHIN_TOLERANCE = (
    "works within tolerance: closed rows differ by at most 1e-4, because the default kernel of the "
    "experts groups the tokens of all rows"
)
LONGEST_MESSAGE = 160


class CellError(AssertionError):
    """A pair that neither works nor raises by name: such a table is not written."""


@functools.cache
def model_of(architecture):
    """The model as the library builds it: with the default kernel of its experts."""
    return tiny_model(architecture)


def cell(architecture, way):
    """Run one pair; return `works`, `works within tolerance: …`, or what it raises.

    Raises:
        CellError: the guarded run differs from the unguided one where it must not, or fails in some other way.
    """
    model, run = model_of(architecture), WAYS[way]
    batch = _batch(architecture, way)
    registry = registry_for(model, probe_blocks=(0, 3)) if way == TWO_PASSES else registry_for(model)
    document = policy(_threshold(model, batch, registry), modalities="text, image, audio, video")
    executor = "compiled" if way == COMPILED else "eager"
    with (
        guarded(model, document, registry=registry, executor=executor) as wrapped,
        wrapped.guard.collect() as reports,
    ):
        standing = wrapped.guard.hooked_blocks
        if way == TWO_PASSES and wrapped.guard.plan.cost.passes != 2:
            raise CellError(f"{architecture}: the plan takes one pass")
        guided = _outcome(run, wrapped, batch)
        if wrapped.guard.hooked_blocks != standing or (standing and way != COMPILED):
            raise CellError(f"{architecture}, {way}: hooks stayed on the model")
    if isinstance(guided, SteerguardError):
        return f"raises `{type(guided).__name__}`: {guided.summary}"
    plain = _outcome(run, model, batch)
    if isinstance(guided, Exception):
        if type(plain) is not type(guided):
            raise CellError(f"{architecture}, {way}: only the guarded model raises") from guided
        return f"not offered by transformers: `{type(plain).__name__}`: {_shortened(plain)}"
    if isinstance(plain, Exception):
        raise CellError(f"{architecture}, {way}: only the model without a guard raises") from plain
    return _compared(architecture, way, plain, guided, reports if guided.decisions is None else guided.decisions)


def _batch(architecture, way):
    if architecture in MULTIMODAL_CLASSES and way not in TEXT_ONLY:
        return modality_prompts(architecture, ROWS)
    return prompts(ROWS)


def _threshold(model, batch, registry):
    """A threshold in the widest gap that leaves rows on both sides."""
    watching = guarded(model, policy(0.0, modalities="text, image, audio, video"), registry=registry, mode="monitor")
    with watching as wrapped, wrapped.guard.collect() as reports:
        wrapped.generate(**batch, max_new_tokens=1, do_sample=False)
    scores = sorted(report.readings[0].score for report in reports)
    cut = max(range(1, ROWS), key=lambda index: scores[index] - scores[index - 1])
    return (scores[cut - 1] + scores[cut]) / 2


def _outcome(run, model, batch):
    try:
        with torch.random.fork_rng(devices=[]):
            return run(model, batch)
    except AssertionError:
        raise
    except Exception as error:  # noqa: BLE001 - what it raises is the result
        found = error
        while found is not None:
            if isinstance(found, SteerguardError):
                return found
            found = found.__cause__ or found.__context__
        return error


def _compared(architecture, way, plain, guided, decisions):
    if not decisions:
        return WORKS
    if len(decisions) != len(guided.tokens) or len(plain.tokens) != len(guided.tokens):
        raise CellError(f"{architecture}, {way}: {len(decisions)} decisions for {len(guided.tokens)} answers")
    applied = [decision.applied for decision in decisions]
    closed = [row for row, action in enumerate(applied) if action == "allow"]
    opened = [row for row, action in enumerate(applied) if action == "guide"]
    if not closed or not opened or len(closed) + len(opened) != len(applied):
        raise CellError(f"{architecture}, {way}: {applied}")
    if not all(dose.positions == dose.expected_positions for row in opened for dose in decisions[row].doses):
        raise CellError(f"{architecture}, {way}: doses do not add up")
    if not all(decisions[row].doses for row in opened) or any(decisions[row].doses for row in closed):
        raise CellError(f"{architecture}, {way}: the doses are not those of the verdicts")
    if any(plain.tokens[row] != guided.tokens[row] for row in closed):
        raise CellError(f"{architecture}, {way}: a closed row has other tokens")
    distance = _distance(plain.logits, guided.logits, closed, len(applied))
    if not all(_changed(plain, guided, row, len(applied)) for row in opened):
        raise CellError(f"{architecture}, {way}: an open row was not changed")
    if architecture in EXPERT_MODELS and guided.logits and distance <= EXPERTS_TOLERANCE:
        # Whether bits differ in one run is chance.
        return WITHIN_TOLERANCE
    if distance == 0.0:
        return WORKS
    raise CellError(f"{architecture}, {way}: closed rows differ by {distance}")


def _rows_of(step, rows, answers):
    """The rows of a step's tensor that belong to these answers; a prompt may have more rows than answers."""
    return [row * step.shape[0] // answers + copy for row in rows for copy in range(max(1, step.shape[0] // answers))]


def _distance(plain, guided, rows, answers):
    """The largest difference of logits in these rows; 0.0 only where every bit is the same."""
    if len(plain) != len(guided):
        raise CellError(f"{len(plain)} steps without a guard, {len(guided)} with one")
    largest = 0.0
    for one, other in zip(plain, guided, strict=True):
        kept = _rows_of(one, rows, answers)
        if not torch.equal(one[kept].view(torch.int32), other[kept].view(torch.int32)):
            largest = max(largest, float((one[kept] - other[kept]).abs().nan_to_num().max()), 1e-45)
    return largest


def _changed(plain, guided, row, answers):
    return not guided.logits or _distance(plain.logits, guided.logits, [row], answers) > 0.0


def _shortened(error):
    line = (str(error).strip() or "no message").splitlines()[0]
    return line if len(line) <= LONGEST_MESSAGE else line[:LONGEST_MESSAGE].rsplit(" ", 1)[0] + " …"
