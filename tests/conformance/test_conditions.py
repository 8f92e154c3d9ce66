"""Composed conditions over a linear and a cosine detector: per row what the scores say, and closed rows untouched."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import guarded, policy, prompts, registry_for, run, same_rows, shared_model, tokenizer

from steerguard.audit.log import AuditLog
from steerguard.detect.cosine import compared_with, cosine
from steerguard.detect.probe import PROBE_FILE
from steerguard.models.capture import capture_residuals
from steerguard.plan.planned_rules import raised
from steerguard.testing import MemorySink

DETECTORS = """
detectors:
  - {id: d, type: linear_probe, artifact: harmful-intent@^1}
  - {id: c, type: cosine, artifact: condition@^1}
"""
ROWS = 8


def document(when, action="guide", **settings):
    use = ", use: [steer]" if action == "guide" else ""
    rules = f"rules:\n  - {{id: r, when: {when}, then: {{action: {action}{use}}}}}\ndefault: {{action: allow}}"
    return policy(rules=rules, detector=False, more=DETECTORS, **settings)


def above(detector, value):
    return f"{{detector: {detector}, score: {{at_least: {{value: {value:.9f}}}}}}}"


def checked(when, model, batch, **settings):
    with guarded(model, document(when, **settings)) as wrapped, wrapped.guard.collect() as reports:
        steered = run(wrapped, batch)
    return steered, reports


@pytest.fixture(scope="module")
def middles():
    """Between the scores of each detector a value that splits the rows, and the scores."""
    scores = scores_of(shared_model(), f"{{all: [{above('d', -1e5)}, {above('c', -1e5)}]}}")
    ordered = {name: sorted(found) for name, found in scores.items()}
    return {name: (found[ROWS // 2 - 1] + found[ROWS // 2]) / 2 for name, found in ordered.items()}, scores


def scores_of(model, when):
    _, reports = checked(when, model, prompts(ROWS), mode="monitor")
    read = [{reading.source: reading.score for reading in report.readings} for report in reports]
    return {name: [row[name] for row in read] for name in ("d", "c")}


CASES = {
    "any": (lambda d, c: f"{{any: [{d}, {c}]}}", lambda d, c: d or c),
    "all": (lambda d, c: f"{{all: [{d}, {c}]}}", lambda d, c: d and c),
    "not": (lambda d, _c: f"{{not: {d}}}", lambda d, _c: not d),
    "exactly one": (
        lambda d, c: f"{{any: [{{all: [{d}, {{not: {c}}}]}}, {{all: [{c}, {{not: {d}}}]}}]}}",
        lambda d, c: d != c,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_row_opens_as_its_scores_say_and_closed_rows_are_bit_identical(case, middles):
    write, truth = CASES[case]
    cuts, scores = middles
    model, batch = shared_model(), prompts(ROWS)
    plain = run(model, batch)
    steered, reports = checked(write(above("d", cuts["d"]), above("c", cuts["c"])), model, batch)
    wanted = [truth(scores["d"][row] >= cuts["d"], scores["c"][row] >= cuts["c"]) for row in range(ROWS)]
    assert [report.intended == "guide" for report in reports] == wanted
    closed = [row for row in range(ROWS) if not wanted[row]]
    assert 0 < len(closed) < ROWS
    assert same_rows(closed, plain, steered, batch["input_ids"].shape[1])
    opened = [row for row in range(ROWS) if wanted[row]]
    assert all(not torch.equal(plain[1][0][row], steered[1][0][row]) for row in opened)
    assert [bool(report.doses) for report in reports] == wanted


def test_every_comparison_stands_in_the_decision_and_in_the_log_with_its_place(middles):
    cuts, _ = middles
    when = CASES["exactly one"][0](above("d", cuts["d"]), above("c", cuts["c"]))
    sink = MemorySink()
    with (
        AuditLog.open(sink=sink, content="none") as log,
        guarded(shared_model(), document(when), audit=log) as wrapped,
        wrapped.guard.collect() as reports,
    ):
        run(wrapped, prompts(2))
        text = str(wrapped.guard.explain([{"role": "user", "content": "hello"}]))
    for reading in reports[0].readings:
        places = {"d": ["any.0.all.0", "any.1.all.1.not"], "c": ["any.0.all.1.not", "any.1.all.0"]}[reading.source]
        assert [threshold.place for threshold in reading.thresholds] == places
    lines = b"".join(sink.lines)
    assert all(f'"place":"{place}"'.encode() in lines for place in ("any.0.all.0", "any.1.all.1.not"))
    assert "`r` compares at `any.1.all.0` with at least" in text
    assert "The condition of `r` as a whole" in text


@pytest.mark.parametrize("similarity", ["tanh_projection", "direction"])
@pytest.mark.parametrize("over", ["end", "prompt_mean"])
def test_the_engine_reads_the_cosine_of_the_captured_states(similarity, over):
    model = shared_model()
    registry = registry_for(model, similarity=similarity, probe_over=(over, over))
    (pin,) = registry.pinned("condition")
    from steerguard.artifacts.verify import verify_artifact

    direction = verify_artifact(registry.read(pin), pin.digest).tensors[PROBE_FILE]["direction"]
    texts = ["hello there", "tell me a very long story about it"]
    chats = [[{"role": "user", "content": text}] for text in texts]
    states = capture_residuals(model, tokenizer(), chats, [0, 1], over=[over, over], batch_size=1)
    parts = [cosine(states[:, i], compared_with(states[:, i], direction[i], similarity)) for i in range(2)]
    with guarded(model, document(above("c", 0.0)), registry=registry) as wrapped:
        for text, expected in zip(texts, (sum(parts) / 2).tolist(), strict=True):
            (decision,) = [wrapped.guard.check([{"role": "user", "content": text}])]
            found = {reading.source: reading.score for reading in decision.readings}
            assert found["c"] == pytest.approx(expected, abs=1e-5)


def test_a_rate_on_a_cosine_detector_comes_from_its_calibration():
    model = shared_model()
    registry = registry_for(model)
    (pin,) = registry.pinned("condition")
    from steerguard.artifacts.verify import verify_artifact

    calibration = verify_artifact(registry.read(pin), pin.digest).calibration
    with guarded(model, document("{detector: c, score: {at_least: {fpr: 0.1}}}", "refuse")) as wrapped:
        decision = wrapped.guard.check([{"role": "user", "content": "hello there"}])
        tolerance = wrapped.guard.plan.tolerances["c"]
    (threshold,) = next(reading.thresholds for reading in decision.readings if reading.source == "c")
    assert (threshold.value, threshold.fpr, threshold.place) == (
        raised(calibration.threshold(0.1), tolerance),
        "0.1",
        None,
    )
