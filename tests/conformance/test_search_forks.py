"""Whatever a cache is made of: forked, rewound, kept or begun within an answer, it gives what a pass from scratch gives."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from tests.guarded_models import fresh_model, prompts, registry_for
from tests.multimodal_prompts import MULTIMODAL_CLASSES, modality_prompts
from tests.search_checks import Ramp, Seen, passed_through, unpadded
from tests.searched_models import sampled, search_policy, searched, with_judge
from transformers import LogitsProcessorList

from steerguard.engine.loop_inputs import BY_COLUMN
from steerguard.testing import AUDIO_TOKEN_ID, IMAGE_TOKEN_ID, tiny_model
from steerguard.testing.text_configs import TextArchitecture
from steerguard.testing.tokenizers import VIDEO_TOKEN_ID

EVERY = "method: inference_guard, candidates: 4, block_tokens: 3, keep: 2, retries: 1"
WINDOWED = {"mistral": 6, "qwen2": 5}
"""Classes that are given a window in every block, shorter than the answer."""
SIGNS = (IMAGE_TOKEN_ID, AUDIO_TOKEN_ID, VIDEO_TOKEN_ID)
"""Tokens that stand for images and sounds; a pass from scratch would look for theirs in an answer that holds them."""


def _searching(model, batch, *, start, free=4, **settings):
    """Search under a cost that ends over the budget whatever is drawn; return what every row was shown, and reports."""
    registry = registry_for(model)
    seen = Seen()
    document = search_policy(EVERY, start=start, final_check="none")
    with searched(model, document, registry=registry) as (wrapped, found):
        with_judge(wrapped, Ramp(wrapped.guard.engine.program.searches[0].cost.blocks, free))
        settings = {"min_new_tokens": 12, "suppress_tokens": list(SIGNS), **settings}
        sampled(wrapped, batch, logits_processor=LogitsProcessorList([seen]), **settings)
    return seen, found


def _require_scores_from_scratch(model, batch, seen, *, tolerance=2e-4, most=12):
    """Compare what rows were shown with a pass without a cache over the same tokens."""
    width, lengths = batch["input_ids"].shape[1], set()
    full = [tuple(ids) for ids in batch["input_ids"].tolist()]
    for ids, scores in seen.rows[:: max(len(seen.rows) // most, 1)]:
        row = full.index(ids[:width])
        logits, _ = passed_through(model, unpadded(batch)[row], ids[width:], **_inputs_of(batch, row, ids))
        # No answer may end early.
        told = torch.isfinite(scores)
        assert told.sum() >= len(scores) - 1 - len(SIGNS)
        assert torch.allclose(logits[-1][told], scores[told], atol=tolerance), (row, len(ids) - width)
        lengths.add(len(ids) - width)
    return lengths


def _inputs_of(batch, row, ids):
    """What a pass over one row without padding is given beside tokens: every second row has an image or a sound."""
    shown = batch["attention_mask"][row].bool()
    rows, found = len(batch["input_ids"]), {}
    for name in batch.keys() - {"input_ids", "attention_mask"}:
        value = batch[name]
        if name in BY_COLUMN:
            found[name] = torch.nn.functional.pad(value[row][shown], (0, len(ids) - len(shown)))[None]
        elif row % 2 == 0:
            each = len(value) // len(range(0, rows, 2)) if len(value) != rows else 1
            first = row if len(value) == rows else row // 2 * each
            found[name] = value[first : first + each]
    return found


@pytest.mark.parametrize("architecture", get_args(TextArchitecture))
@pytest.mark.parametrize("start", ["always", "lazy"])
def test_every_class_is_shown_the_scores_of_a_pass_from_scratch(architecture, start):
    model, batch = fresh_model(architecture), prompts(2)
    seen, found = _searching(model, batch, start=start)
    assert {report.search.outcome for report in found} == {"found"}
    assert [report.search.kept_tokens for report in found] == [3 if start == "lazy" else 0] * 2
    # Every block behind the free tokens was drawn again as often as it may be.
    assert all(report.search.retries == 3 for report in found)
    assert max(_require_scores_from_scratch(model, batch, seen)) == 11


@pytest.mark.parametrize("architecture", WINDOWED)
@pytest.mark.parametrize("start", ["always", "lazy"])
def test_windows_in_every_block_that_move_on_within_the_answer(architecture, start):
    model = _with_windows(architecture)
    batch = prompts(2)
    seen, found = _searching(model, batch, start=start)
    assert {report.search.outcome for report in found} == {"found"}
    _require_scores_from_scratch(model, batch, seen)


def test_a_window_that_the_answer_fills_only_behind_the_place_that_a_search_goes_back_to():
    model = _with_windows("mistral", window=prompts(1)["input_ids"].shape[1] + 4)
    batch = prompts(1)
    seen, found = _searching(model, batch, start="lazy")
    assert found[0].search.kept_tokens == 3
    _require_scores_from_scratch(model, batch, seen)


@pytest.mark.parametrize("architecture", MULTIMODAL_CLASSES)
@pytest.mark.parametrize("start", ["always", "lazy"])
def test_candidates_behind_images_and_sounds(architecture, start):
    model, batch = fresh_model(architecture), modality_prompts(architecture, 4)
    seen, found = _searching(model, batch, start=start)
    assert {report.search.outcome for report in found} == {"found"}
    _require_scores_from_scratch(model, batch, seen)


def _with_windows(architecture, window=None):
    plain = tiny_model(architecture)
    config = copy.deepcopy(plain.config)
    config.sliding_window, config.use_sliding_window = window or WINDOWED[architecture], True
    config.layer_types = ["sliding_attention"] * config.num_hidden_layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.sliding_window)
        model = type(plain)(config).eval()
    model.generation_config = plain.generation_config
    return model
