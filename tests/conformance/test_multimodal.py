"""Images and sounds under guidance: inputs arrive untouched, gates are read behind them, rows of all kinds mix."""

from __future__ import annotations

import functools
import operator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from tests.guarded_models import (
    TEMPLATE,
    answers,
    blocks_of,
    guarded,
    policy,
    registry_for,
    run,
    same_rows,
    shared_model,
    state_of,
    tokenizer,
)
from tests.multimodal_prompts import MULTIMODAL_CLASSES, TOKENS, TOWERS, modality_prompts, video_prompts

from steerguard.errors import GuidanceDidNotFireError, IncompatibleModelError, UnsupportedGenerationError
from steerguard.models.chat import pad_batch
from steerguard.models.prompt_mean import SKIPPED_TOKENS
from steerguard.testing import AUDIO_TOKEN_ID, IMAGE_TOKEN_ID

EVERY_MODALITY = "text, image, audio, video"
OPEN = policy(-1e6, modalities=EVERY_MODALITY)
SIGNAL = {name: "input_features" if name == "qwen2_audio" else "pixel_values" for name in MULTIMODAL_CLASSES}


def _scores(model, batch):
    document = policy(0.0, modalities=EVERY_MODALITY)
    with guarded(model, document, mode="monitor") as wrapped, wrapped.guard.collect() as reports:
        wrapped.generate(**batch, max_new_tokens=1, do_sample=False)
    return torch.tensor([report.readings[0].score for report in reports])


@contextmanager
def _watching(module, act, *, before=False):
    """Call a function with what a module gets or returns; what the function returns is dropped."""

    def note(_module, arguments, *rest):
        act(*((arguments, *rest) if before else rest[-1:]))

    register = module.register_forward_pre_hook if before else module.register_forward_hook
    handle = register(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _encoded(model, tower, batch):
    """Run one prefill; return a copy of every tensor that the encoder was called with, and where they were kept."""
    calls = []

    def note(arguments, named):
        tensors = [value for value in (*arguments, *named.values()) if isinstance(value, torch.Tensor)]
        calls.append([(tensor.clone(), tensor.data_ptr()) for tensor in tensors])

    with _watching(tower, note, before=True):
        model.generate(**batch, max_new_tokens=1, do_sample=False)
    (call,) = calls
    return call


@pytest.mark.parametrize("architecture", MULTIMODAL_CLASSES)
def test_what_the_processor_made_reaches_the_encoder_untouched(architecture):
    model = shared_model(architecture)
    batch = modality_prompts(architecture, 4)
    tower = operator.attrgetter(TOWERS[architecture])(model)
    before = {name: tensor.clone() for name, tensor in batch.items()}
    plain = _encoded(model, tower, batch)
    with guarded(model, OPEN) as wrapped:
        given = _encoded(wrapped, tower, batch)
    assert len(given) == len(plain) > 0
    assert all(torch.equal(one[0], other[0]) for one, other in zip(plain, given, strict=True))
    # Idefics3 leaves out the images that are only padding, so its encoder sees a copy, guided or not.
    kept = (
        [pointer for _, pointer in given]
        if architecture not in {"idefics3", "smolvlm"}
        else [batch[SIGNAL[architecture]].data_ptr()]
    )
    assert batch[SIGNAL[architecture]].data_ptr() in kept
    assert all(torch.equal(batch[name], before[name]) for name in batch)


@pytest.mark.parametrize("architecture", MULTIMODAL_CLASSES)
def test_the_gate_is_read_at_the_end_of_the_generation_prompt_behind_the_modality_tokens(architecture):
    model = shared_model(architecture)
    batch = modality_prompts(architecture, 4)
    with guarded(model, OPEN) as wrapped:
        probe = wrapped.guard.engine.program.probes[0]
    last = {}
    with ExitStack() as watches:
        for block in probe.blocks:
            keep = functools.partial(last.__setitem__, block)
            watches.enter_context(_watching(blocks_of(model)[block], keep))
        model.generate(**batch, max_new_tokens=1, do_sample=False)
    # Padding is on the left, so the last column is the end of the generation prompt in every row.
    last = {block: output[:, -1].detach().float() for block, output in last.items()}
    expected = sum(probe.partial(index, last[block]) for index, block in enumerate(probe.blocks))
    scores = _scores(model, batch)
    assert torch.allclose(scores, expected, atol=1e-5)
    other = dict(batch)
    other[SIGNAL[architecture]] = batch[SIGNAL[architecture]].flip(0) * 0.5
    moved = (_scores(model, other) - scores).abs()
    assert (moved[[0, 2]] > 1e-3).all()
    assert (moved[[1, 3]] < 1e-5).all()


@pytest.mark.parametrize("architecture", MULTIMODAL_CLASSES)
def test_steering_all_positions_includes_the_modality_tokens(architecture):
    model = shared_model(architecture)
    batch = modality_prompts(architecture, 2)
    outputs = []
    with guarded(model, OPEN) as wrapped:
        first = min(block for step in wrapped.guard.plan.steps for block in step.blocks)
        # The next block gets what ours returned, whatever the order of hooks on the block itself.
        with _watching(blocks_of(model)[first + 1], lambda arguments, _: outputs.append(arguments[0]), before=True):
            with wrapped.guard.collect() as reports:
                wrapped.generate(**batch, max_new_tokens=1, do_sample=False)
            with wrapped.guard.unguided("the same prefill without steering, to compare"):
                wrapped.generate(**batch, max_new_tokens=1, do_sample=False)
    moved = (outputs[1] - outputs[0]).norm(dim=-1)
    placeholders = (batch["input_ids"] == IMAGE_TOKEN_ID) | (batch["input_ids"] == AUDIO_TOKEN_ID)
    assert placeholders.sum() == TOKENS
    assert torch.allclose(moved[placeholders], torch.tensor(4.0), atol=1e-3)
    tokens = batch["attention_mask"].sum(dim=1).tolist()
    assert [report.usage.prompt_tokens for report in reports] == tokens
    assert [report.doses[0].positions for report in reports] == [2 * count for count in tokens]


@pytest.mark.parametrize("architecture", MULTIMODAL_CLASSES)
def test_a_prompt_mean_is_over_the_texts_alone_but_these_have_seen_the_image(architecture):
    model = shared_model(architecture)
    batch = modality_prompts(architecture, 4)
    registry = registry_for(model, probe_blocks=(1,), probe_over=("prompt_mean",), steered_blocks=(1, 2))
    outputs = {}
    with guarded(model, OPEN, registry=registry, mode="monitor") as wrapped:
        probe = wrapped.guard.engine.program.probes[0]
        keep = functools.partial(outputs.__setitem__, "block")
        with _watching(blocks_of(model)[1], keep), wrapped.guard.collect() as reports:
            wrapped.generate(**batch, max_new_tokens=1, do_sample=False)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    texts = (ids != IMAGE_TOKEN_ID) & (ids != AUDIO_TOKEN_ID) & mask.bool() & (mask.cumsum(dim=1) > SKIPPED_TOKENS)
    means = torch.stack([state[row].float().mean(dim=0) for state, row in zip(outputs["block"], texts, strict=True)])
    scores = torch.tensor([report.readings[0].score for report in reports])
    assert torch.allclose(scores, probe.partial(0, means), atol=1e-4)


@pytest.mark.parametrize("architecture", MULTIMODAL_CLASSES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_score_does_not_depend_on_which_rows_have_images_beside_it(architecture, side):
    model = shared_model(architecture)
    mixed = _scores(model, modality_prompts(architecture, 4, with_modality=[0, 2], side=side))
    alone = _scores(model, modality_prompts(architecture, 1, with_modality=[0], side=side))
    none = _scores(model, modality_prompts(architecture, 4, with_modality=[], side=side))
    assert (mixed[[1, 3]] - none[[1, 3]]).abs().max() < 1e-4
    assert (mixed[[0, 2]] - none[[0, 2]]).abs().min() > 1e-3
    # The first image of a batch is made of the same random numbers; Idefics pads rows without an image.
    assert (mixed[0] - alone[0]).abs() < (1e-4 if architecture in {"idefics3", "smolvlm"} else 10.0)


@pytest.mark.parametrize("architecture", MULTIMODAL_CLASSES)
def test_rows_with_images_are_refused_like_others(architecture):
    model = shared_model(architecture)
    batch = modality_prompts(architecture, 4)
    width = batch["input_ids"].shape[1]
    scores = _scores(model, batch).tolist()
    threshold = sum(sorted(scores)[1:3]) / 2
    plain = run(model, batch)
    document = policy(threshold, "refuse", modalities=EVERY_MODALITY)
    with guarded(model, document) as wrapped, wrapped.guard.collect() as reports:
        guided = run(wrapped, batch)
    refused = [report.row for report in reports if report.applied == "refuse"]
    assert refused == [row for row, score in enumerate(scores) if score >= threshold]
    assert same_rows([row for row in range(4) if row not in refused], plain, guided, width)
    for row in refused:
        text = tokenizer().decode(guided[0][row, width:], skip_special_tokens=True)
        assert text == TEMPLATE[: len(text)] != ""


@pytest.mark.parametrize("architecture", MULTIMODAL_CLASSES)
def test_decoding_with_images_and_without_a_cache_gives_the_same_verdicts_and_doses(architecture):
    model = shared_model(architecture)
    batch = modality_prompts(architecture, 2)
    # A random model would write placeholders that no image stands behind.
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "suppress_tokens": [IMAGE_TOKEN_ID, AUDIO_TOKEN_ID, 42]}
    found = []
    with guarded(model, OPEN) as wrapped:
        for use_cache in (True, False):
            with wrapped.guard.collect() as reports:
                tokens, logits = run(wrapped, batch, use_cache=use_cache, **settings)
            found.append((answers(tokens, batch["input_ids"].shape[1]), logits, [report.doses for report in reports]))
    assert found[0][2] == found[1][2]
    assert all(found[0][2])
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(one, other, atol=2e-3, rtol=1e-3)


def test_rows_with_videos_are_gated_and_closed_rows_stay_bit_identical():
    model = shared_model("qwen2_5_vl")
    batch = video_prompts(4)
    scores = _scores(model, batch)
    moved = (_scores(model, {**batch, "pixel_values_videos": -batch["pixel_values_videos"]}) - scores).abs()
    assert (moved[[0, 2]] > 1e-3).all()
    plain = run(model, batch)
    threshold = scores.sort().values[1:3].mean().item()
    with guarded(model, policy(threshold, modalities=EVERY_MODALITY)) as wrapped, wrapped.guard.collect() as reports:
        guided = run(wrapped, batch)
    closed = [report.row for report in reports if report.intended == "allow"]
    assert len(closed) == 2
    assert same_rows(closed, plain, guided, batch["input_ids"].shape[1])
    assert all(bool(report.doses) == (report.row not in closed) for report in reports)


def test_a_placeholder_that_the_model_itself_would_widen_is_refused_without_trace():
    """Qwen2-Audio still takes one placeholder per sound; then columns of `input_ids` and positions differ."""
    model = shared_model("qwen2_audio")
    batch = modality_prompts("qwen2_audio", 3, with_modality=[0, 1, 2])
    shortened = []
    for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        placeholders = row == AUDIO_TOKEN_ID
        kept = mask.bool() & (~placeholders | (placeholders.cumsum(dim=0) == 1))
        shortened.append(row[kept].tolist())
    short = {**batch, **pad_batch(shortened, tokenizer())}
    with guarded(model, OPEN) as wrapped:
        before = state_of(wrapped)
        with wrapped.guard.collect() as reports, pytest.raises(GuidanceDidNotFireError, match="another number"):
            wrapped.generate(**short, max_new_tokens=2)
        assert reports == []
        assert state_of(wrapped) == before
        assert wrapped.guard.hooked_blocks == ()


@pytest.mark.parametrize("architecture", ["llava", "qwen2_audio"])
def test_a_policy_for_text_alone_does_not_cover_a_model_that_takes_more(architecture):
    model, document = shared_model(architecture), policy(0.0, modalities="text")
    with pytest.raises(IncompatibleModelError, match="does not cover"), guarded(model, document):
        pass


def test_images_that_were_encoded_outside_are_refused_by_name():
    batch = modality_prompts("llava", 1, with_modality=[])
    refused = pytest.raises(UnsupportedGenerationError, match="mm_encoder_outputs")
    with guarded(shared_model("llava"), OPEN) as wrapped, refused:
        wrapped.generate(**batch, mm_encoder_outputs={"image": object()}, max_new_tokens=1)


@pytest.mark.parametrize("architecture", ["llava", "idefics3", "qwen2_5_vl", "gemma3_vision"])
@pytest.mark.parametrize(
    "settings",
    [{"num_return_sequences": 2, "do_sample": True}, {"num_beams": 2}, {"prefill_chunk_size": 8}],
    ids=["samples", "beams", "chunks"],
)
def test_closed_batches_with_images_are_the_unguided_run_in_other_ways_of_generating(architecture, settings):
    model = shared_model(architecture)
    batch = modality_prompts(architecture, 4)
    plain = run(model, batch, max_new_tokens=5, **settings)
    with guarded(model, policy(1e6, modalities=EVERY_MODALITY)) as wrapped:
        closed = run(wrapped, batch, max_new_tokens=5, **settings)
    with guarded(model, OPEN) as wrapped, wrapped.guard.collect() as reports:
        opened = run(wrapped, batch, max_new_tokens=5, **settings)
    assert torch.equal(plain[0], closed[0])
    assert not torch.equal(plain[1][0], opened[1][0])
    assert len(reports) == plain[0].shape[0]
    assert all(report.doses for report in reports)


@pytest.mark.parametrize("architecture", MULTIMODAL_CLASSES)
def test_a_plan_that_reads_the_prompt_twice_sees_the_image_both_times(architecture):
    model = shared_model(architecture)
    batch = modality_prompts(architecture, 4)
    registry = registry_for(model, probe_blocks=(2, 3), steered_blocks=(1,))
    plain = run(model, batch)
    with guarded(model, OPEN, registry=registry, mode="monitor") as wrapped, wrapped.guard.collect() as reports:
        wrapped.generate(**batch, max_new_tokens=1, do_sample=False)
    scores = sorted(report.readings[0].score for report in reports)
    document = policy(sum(scores[1:3]) / 2, modalities=EVERY_MODALITY)
    with guarded(model, document, registry=registry) as wrapped, wrapped.guard.collect() as reports:
        guided = run(wrapped, batch)
    closed = [report.row for report in reports if report.intended == "allow"]
    assert len(closed) == 2
    assert same_rows(closed, plain, guided, batch["input_ids"].shape[1])
    assert all(bool(report.doses) == (report.row not in closed) for report in reports)
