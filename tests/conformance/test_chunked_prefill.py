"""A prefill in chunks decides and changes what the whole prefill does; columns tell the phase, never the width of a call."""

from __future__ import annotations

import pytest
import torch
from tests.conformance.test_two_passes import Counted
from tests.guarded_models import (
    ARCHITECTURES,
    answers,
    blocks_of,
    guarded,
    policy,
    prompts,
    registry_for,
    run,
    shared_model,
    splitting_threshold,
)
from tests.operated_models import intervention, operated, schedule

from steerguard.engine.schedules import first_changed
from steerguard.errors import UnsupportedGenerationError
from steerguard.guidance.intervention import ByPhase, ByStep, Constant, Operated, Phases

TOLERANCE = {"atol": 2e-3, "rtol": 1e-4}
EVERYWHERE, AT_THE_END = "coefficient: 4.0", "coefficient: 4.0, positions: last_prompt_token_and_decode"
PER_BLOCK = "coefficient: 4.0, gate: per_block"
TWO_PASSES = "coefficient: 4.0, blocks: [0, 2]"
CHUNKS = (1, 5, 8, 1000)


def _runs(model, document, batch, chunks, registry=None, **settings):
    """The whole prefill and one in chunks, each with its reports."""
    found = []
    with guarded(model, document, registry=registry) as wrapped:
        for chunk in chunks:
            with wrapped.guard.collect() as reports:
                tokens, logits = run(wrapped, batch, prefill_chunk_size=chunk, **settings)
            found.append((tokens, logits, list(reports)))
    return found


def _agree(whole, chunked, width):
    assert [report.doses for report in chunked[2]] == [report.doses for report in whole[2]]
    assert [(report.intended, report.rules, report.cause) for report in chunked[2]] == [
        (report.intended, report.rules, report.cause) for report in whole[2]
    ]
    for one, other in zip(whole[2], chunked[2], strict=True):
        assert [reading.score for reading in other.readings] == pytest.approx(
            [reading.score for reading in one.readings], abs=1e-3
        )
    assert answers(chunked[0], width) == answers(whole[0], width)
    for one, other in zip(whole[1], chunked[1], strict=True):
        assert torch.allclose(one, other, **TOLERANCE)


@pytest.mark.parametrize("settings", [EVERYWHERE, AT_THE_END, PER_BLOCK, TWO_PASSES])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "llava", "mixtral"])
def test_chunks_of_any_width_agree_with_the_whole_prefill(architecture, settings):
    model, batch = shared_model(architecture), prompts(8)
    width = batch["input_ids"].shape[1]
    # One chunk width leaves a last chunk of one column.
    widths = sorted({*CHUNKS, next(size for size in range(2, width) if width % size == 1)})
    document = policy(splitting_threshold(architecture), settings=settings)
    whole, *chunked = _runs(model, document, batch, [None, *widths], max_new_tokens=5)
    assert 0 < sum(bool(report.doses) for report in whole[2]) < 8
    for found in chunked:
        _agree(whole, found, width)


@pytest.mark.parametrize("schedule_kind", ["constant", "by_phase", "by_step"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_schedule_padding_side_and_prefilled_answer(side, schedule_kind):
    model = shared_model()
    batch = prompts(8, side, prefills=["Sure, here is", None, "No", "x" * 40, None, "I", "Yes", None])
    registry = registry_for(model, schedule=schedule_kind)
    document = policy(splitting_threshold(), settings=EVERYWHERE)
    whole, *chunked = _runs(model, document, batch, [None, 7, 16], registry=registry, max_new_tokens=5)
    for found in chunked:
        _agree(whole, found, batch["input_ids"].shape[1])


@pytest.mark.parametrize("settings", [EVERYWHERE, AT_THE_END])
def test_prompt_means_are_summed_over_chunks(settings):
    model, batch = shared_model(), prompts(6)
    parts = {"probe_blocks": (0, 0, 1, 1), "probe_over": ("end", "prompt_mean", "end", "prompt_mean")}
    registry = registry_for(model, **parts)
    with guarded(model, policy(0.0), registry=registry, mode="monitor") as wrapped, wrapped.guard.collect() as reports:
        run(wrapped, batch, max_new_tokens=1)
        run(wrapped, batch, max_new_tokens=1, prefill_chunk_size=4)
    scores = sorted(report.readings[0].score for report in reports[:6])
    assert [one.readings[0].score for one in reports[6:]] == pytest.approx(
        [one.readings[0].score for one in reports[:6]], abs=1e-4
    )
    document = policy((scores[2] + scores[3]) / 2, settings=settings)
    whole, chunked = _runs(model, document, batch, [None, 4], registry=registry, max_new_tokens=4)
    _agree(whole, chunked, batch["input_ids"].shape[1])


@pytest.mark.parametrize("point", ["resid_pre", "resid_post"])
@pytest.mark.parametrize("name", ["ablate", "clamp", "affine"])
def test_operators_agree_in_chunks(name, point):
    batch, found = prompts(6), []
    items = [intervention(schedule(name), block=2, point=point), intervention(schedule("add"), block=3, point=point)]
    with operated(shared_model(), items, policy(splitting_threshold(rows=6))) as wrapped:
        for chunk in (None, 6):
            with wrapped.guard.collect() as reports:
                found.append((*run(wrapped, batch, prefill_chunk_size=chunk, max_new_tokens=5), list(reports)))
    _agree(*found, batch["input_ids"].shape[1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_closed_rows_agree_with_the_unguided_chunks_bit_by_bit(architecture):
    model, batch = shared_model(architecture), prompts(8)
    plain = run(model, batch, prefill_chunk_size=6, max_new_tokens=5)
    document = policy(splitting_threshold(architecture), settings=EVERYWHERE)
    ((tokens, logits, reports),) = _runs(model, document, batch, [6], max_new_tokens=5)
    closed = [report.row for report in reports if not report.doses]
    assert 0 < len(closed) < 8
    for one, other in zip(plain[1], logits, strict=False):
        assert torch.equal(one[closed].view(torch.int32), other[closed].view(torch.int32))
    assert tokens.shape[0] == 8


@pytest.mark.parametrize(
    ("settings", "chunk", "extra"),
    [(EVERYWHERE, 6, 1), (AT_THE_END, 6, 0), (PER_BLOCK, 6, 1), (TWO_PASSES, 6, 1), (TWO_PASSES + ", gate: per_block", 6, 2),
     (EVERYWHERE, 1000, 0), (PER_BLOCK, 1000, 0), (TWO_PASSES, 1000, 1)],
)  # fmt: skip
def test_the_charge_is_what_was_counted(settings, chunk, extra):
    model, batch = shared_model(), prompts(4)
    lengths = batch["attention_mask"].sum(1).tolist()
    columns = []
    with guarded(model, policy(-1e6, settings=settings)) as wrapped, wrapped.guard.collect() as reports:
        handle = blocks_of(model)[0].register_forward_hook(
            lambda _m, _a, out: columns.append((out[0] if isinstance(out, tuple) else out).shape[1])
        )
        tokens, _ = run(wrapped, batch, prefill_chunk_size=chunk, max_new_tokens=3, eos_token_id=None)
        handle.remove()
    width = batch["input_ids"].shape[1]
    assert sum(columns) == (1 + extra) * width + 2
    assert [report.usage.extra_forward_tokens for report in reports] == [extra * length for length in lengths]
    assert tokens.shape[1] == width + 3


def test_the_pass_that_reads_goes_in_chunks_too():
    model, batch, columns = shared_model(), prompts(4), []
    with guarded(model, policy(-1e6, settings=EVERYWHERE)) as wrapped:
        handle = blocks_of(model)[0].register_forward_hook(
            lambda _m, _a, out: columns.append((out[0] if isinstance(out, tuple) else out).shape[1])
        )
        run(wrapped, batch, prefill_chunk_size=6, max_new_tokens=1)
        handle.remove()
    assert max(columns) == 6


def test_only_reading_in_chunks_takes_no_pass_of_its_own():
    model, batch = shared_model(), prompts(4)
    with guarded(model, policy(0.0, settings=TWO_PASSES), mode="monitor") as wrapped:
        with wrapped.guard.collect() as reports:
            counted = Counted(model, batch)
            run(wrapped, batch, prefill_chunk_size=batch["input_ids"].shape[1], max_new_tokens=1)
            counted.stop()
        assert counted.passes == 1
        assert {report.usage.extra_forward_tokens for report in reports} == {0}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"prefill_chunk_size": 0}, "prefill_chunk_size=0"),
        ({"prefill_chunk_size": 4, "use_cache": False}, "without a cache"),
    ],
    ids=["no width", "no cache"],
)
def test_chunks_that_cannot_be_followed_raise_by_name(settings, named):
    with guarded(shared_model(), policy(0.0)) as wrapped, pytest.raises(UnsupportedGenerationError, match=named):
        run(wrapped, prompts(2), **settings)


ATTENTION = [0, 0, 1, 1, 1, 1, 1]
VECTOR = torch.ones(4)


@pytest.mark.parametrize(
    ("done", "column"),
    [
        (Constant(vector=VECTOR, positions="all"), 2),
        (Constant(vector=VECTOR, positions="prefill"), 2),
        (Constant(vector=VECTOR, positions="last_prompt_token_and_decode"), 4),
        (Constant(vector=VECTOR, positions="decode"), 7),
        (ByPhase(prompt=VECTOR, last=None, decode=None), 2),
        (ByPhase(prompt=None, last=VECTOR, decode=VECTOR), 4),
        (ByPhase(prompt=None, last=None, decode=VECTOR), 5),
        (ByStep(prompt=None, last=None, steps=(VECTOR,)), 5),
        (ByStep(prompt=None, last=None, steps=()), 7),
        (Operated(operator=schedule("ablate").operator, positions="all"), 2),
        (Operated(operator=schedule("ablate").operator, positions="decode"), 7),
        (Operated(operator=schedule("ablate").operator, positions=Phases(prompt=False, last=True, decode=True)), 4),
        (Operated(operator=schedule("ablate").operator, positions=Phases(prompt=False, last=False, decode=True)), 5),
    ],
)
def test_the_first_changed_column_is_that_of_the_words(done, column):
    assert first_changed(done, attention=ATTENTION, end=4) == column
