"""Guarantee 3 at its edge: a row whose score lies at the threshold takes the stricter verdict, however it is run."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import pytest
import torch
from tests.guarded_models import CONTENTS, conversation, guarded, memory_log, policy, shared_model, tokenizer

from steerguard.artifacts.verify import verify_artifact
from steerguard.build.own_calibration import calibrate, new_version
from steerguard.models.chat import render
from steerguard.testing import MemorySink, tiny_registry

DTYPES = (torch.float32, torch.bfloat16)
ROWS = (0, 2, 6)
"""Rows that are put at the threshold: a short one, the longest, and one in between."""
BENIGN = tuple(f"{text} {word}" for text in CONTENTS for word in ("now", "and then", "in the morning", "once more"))
_HOME = tempfile.TemporaryDirectory(prefix="steerguard-tolerance-")


@functools.cache
def calibrated_registry(architecture, dtype):
    """Random artifacts, and a version 1.1.0 of the probe whose calibration holds its own scores on the model."""
    model, root = shared_model(architecture, dtype), Path(_HOME.name) / f"{architecture}-{dtype}"
    registry = tiny_registry(root / "registry", model, tokenizer())
    (pin,) = registry.pinned("harmful-intent")
    files = dict(registry.read(pin))
    artifact = verify_artifact(files, pin.digest, where=pin.reference)
    own = calibrate(artifact, model, tokenizer(), [conversation(text) for text in BENIGN], source="tests")
    made = new_version(files, artifact, own, version="1.1.0", created="2026-01-01T00:00:00Z")
    for path, content in made.items():
        file = root / "probe" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    registry.add(root / "probe")
    return registry


def batch(rows, side="left"):
    return render(tokenizer(), [conversation(CONTENTS[row]) for row in rows], padding_side=side)


def generated(wrapped, rows, target, side="left", **settings):
    with wrapped.guard.collect() as reports:
        wrapped.generate(**batch(rows, side), max_new_tokens=2, do_sample=False, **settings)
    return reports[list(rows).index(target)]


EVERY = range(len(CONTENTS))
WAYS = {
    "alone": lambda wrapped, row: generated(wrapped, [row], row),
    "among eight": lambda wrapped, row: generated(wrapped, EVERY, row),
    "padding on the right": lambda wrapped, row: generated(wrapped, EVERY, row, "right"),
    "no cache": lambda wrapped, row: generated(wrapped, EVERY, row, use_cache=False),
    "chunks": lambda wrapped, row: generated(wrapped, EVERY, row, prefill_chunk_size=5),
    "alone in chunks": lambda wrapped, row: generated(wrapped, [row], row, prefill_chunk_size=5),
    "two beams": lambda wrapped, row: generated(wrapped, [row], row, num_beams=2),
    "a check": lambda wrapped, row: wrapped.guard.check(conversation(CONTENTS[row])),
}


@functools.cache
def scores(architecture, dtype, row):
    """What every way reads for a row, without any guidance."""
    model, registry = shared_model(architecture, dtype), calibrated_registry(architecture, dtype)
    with guarded(model, policy(0.0), registry=registry, mode="monitor") as wrapped:
        return {way: run(wrapped, row).readings[0].score for way, run in WAYS.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma", "gpt2"])
@pytest.mark.parametrize("action", ["guide", "refuse"])
def test_a_row_at_the_threshold_takes_the_stricter_verdict_in_every_way(architecture, dtype, action):
    model, registry = shared_model(architecture, dtype), calibrated_registry(architecture, dtype)
    for row in ROWS:
        highest = max(scores(architecture, dtype, row).values())
        # With the highest reading as the threshold, every lower one lies below it.
        with guarded(model, policy(highest, action), registry=registry) as wrapped:
            for way, run in WAYS.items():
                report = run(wrapped, row)
                assert (report.intended, report.near, report.readings[0].near) == (action, True, True), way
                assert report.rules == ("r",)


def test_without_the_tolerance_rounding_decides_some_of_these_rows():
    """The rows above are rows whose verdict would differ: in bfloat16 the ways do not all read the same score."""
    readings = [scores("llama", torch.bfloat16, row) for row in ROWS]
    assert any(min(found.values()) < max(found.values()) for found in readings)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
def test_just_above_the_tolerance_a_row_is_left_alone_in_every_way(dtype):
    model, registry = shared_model("llama", dtype), calibrated_registry("llama", dtype)
    with guarded(model, policy(0.0), registry=registry) as wrapped:
        tolerance = wrapped.guard.plan.tolerances["d"]
    for row in ROWS:
        highest = max(scores("llama", dtype, row).values())
        with guarded(model, policy(highest + 1.01 * tolerance), registry=registry) as wrapped:
            for way, run in WAYS.items():
                report = run(wrapped, row)
                assert (report.intended, report.near) == ("allow", False), way


@pytest.mark.parametrize(
    ("condition", "inside"),
    [
        ("{detector: d, score: {at_least: {value: T}}}", "guide"),
        ("{detector: d, score: {below: {value: T}}}", "guide"),
        ("{not: {detector: d, score: {at_least: {value: T}}}}", "guide"),
        ("{not: {detector: d, score: {below: {value: T}}}}", "guide"),
    ],
)
def test_a_condition_and_its_opposite_both_count_as_met(condition, inside):
    model, registry = shared_model("llama", torch.bfloat16), calibrated_registry("llama", torch.bfloat16)
    threshold = f"{scores('llama', torch.bfloat16, 0)['alone']:.9f}"
    rules = f"""
rules:
  - {{id: r, when: {condition.replace("T", threshold)}, then: {{action: guide, use: [steer]}}}}
default: {{action: allow}}"""
    with guarded(model, policy(rules=rules), registry=registry) as wrapped:
        for way in ("alone", "among eight", "chunks"):
            report = WAYS[way](wrapped, 0)
            assert (report.intended, report.near) == (inside, True), way
            assert report.doses[0].positions == report.doses[0].expected_positions > 0


def test_the_log_and_the_explanation_say_that_the_row_took_the_stricter_verdict():
    model, registry = shared_model("llama", torch.bfloat16), calibrated_registry("llama", torch.bfloat16)
    sink = MemorySink()
    with memory_log(sink) as log:
        score = scores("llama", torch.bfloat16, 0)["alone"]
        with guarded(model, policy(score + 0.01), registry=registry, audit=log) as wrapped:
            text = str(wrapped.guard.explain(conversation(CONTENTS[0])))
            tolerance = wrapped.guard.plan.tolerances["d"]
    assert "so the row took the stricter verdict" in text
    assert f"give or take {tolerance:.3g}" in text
    assert "counts as met, being within the score tolerance" in text
    records = [json.loads(line) for line in sink.lines]
    (reading,) = next(one for one in records if one["type"] == "guard.decision")["readings"]
    assert reading["near"] is True
    assert float(reading["tolerance"]) == tolerance
    # The line alone says why: the score is short of the threshold by less than the tolerance.
    assert 0 < float(reading["thresholds"][0]["value"]) - float(reading["score"]) < tolerance
