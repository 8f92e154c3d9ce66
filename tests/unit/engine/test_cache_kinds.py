"""What is known of a cache: whether its kind was tested, what it holds, and what it is when it was emptied."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tests.cached_turns import kept, turn_of
from tests.guarded_models import fresh_model, guarded, policy, prompts, run, shared_model
from transformers import DynamicCache, EncoderDecoderCache, StaticCache
from transformers.cache_utils import DynamicLayer, Fp8QuantizedLayer, MtpCache

from steerguard.engine.arguments import check_passed_cache
from steerguard.engine.cache_kinds import (
    can_be_continued,
    can_be_cropped,
    crop,
    empty,
    fixed_rows,
    is_empty,
    keeps_keys,
    lengths,
    states,
    unknown_kind,
)
from steerguard.errors import UnsupportedGenerationError

CONFIG = shared_model().config
BATCH = prompts(2)


class _Own(DynamicCache):
    """A cache of the app."""


_Layer = type("DynamicLayer", (DynamicLayer,), {"__module__": "app"})
"""A layer of the app with the name of a known one."""


def _of_layers(*layers):
    cache = DynamicCache()
    cache.layers.extend(layers)
    return cache


def _offloaded():
    cache = DynamicCache()
    cache.offloading = True
    return cache


UNKNOWN = {
    "a pair of caches": (EncoderDecoderCache(DynamicCache(), DynamicCache()), "EncoderDecoderCache"),
    "a subclass of the library": (MtpCache(), "MtpCache"),
    "a subclass of the app": (_Own(), "_Own"),
    "a quantised layer": (_of_layers(DynamicLayer(), Fp8QuantizedLayer()), "Fp8QuantizedLayer"),
    "a layer of the app": (_of_layers(_Layer()), "DynamicLayer"),
    "an offloaded cache": (_offloaded(), "offloaded"),
    "a tuple": ((), "tuple"),
    "a number": (0, "int"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_cache_of_an_untested_kind_raises_by_name(name):
    cache, words = UNKNOWN[name]
    assert words in unknown_kind(cache)
    with (
        guarded(shared_model(), policy(1e6)) as wrapped,
        pytest.raises(UnsupportedGenerationError, match=f"past_key_values.*{words}"),
    ):
        wrapped.generate(**BATCH, past_key_values=cache, max_new_tokens=2)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen3_next", "lfm2"])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_an_emptied_cache_works_like_a_new_one(architecture, kind):
    model = shared_model(architecture)
    cache = kept(model, kind)
    assert unknown_kind(cache) is None
    assert is_empty(cache)
    run(model, BATCH, past_key_values=cache, max_new_tokens=3)
    assert not is_empty(cache)
    assert max(lengths(cache)) == BATCH["input_ids"].shape[1] + 2
    empty(cache)
    assert is_empty(cache)
    again, new = (run(model, BATCH, past_key_values=found, max_new_tokens=3) for found in (cache, kept(model, kind)))
    assert torch.equal(again[0], new[0])
    assert all(torch.equal(one.view(torch.int32), other.view(torch.int32)) for one, other in zip(again[1], new[1], strict=True))  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "kind", "continued", "rows"),
    [("llama", "dynamic", True, None), ("gemma2", "dynamic", True, None), ("llama", "static", True, 2),
     ("gemma2", "static", True, 2), ("qwen3_next", "dynamic", False, 2), ("lfm2", "static", False, 2)],
)  # fmt: skip
def test_what_can_be_continued_and_what_is_bound_to_its_rows(architecture, kind, continued, rows):
    model = shared_model(architecture)
    cache = kept(model, kind)
    assert fixed_rows(cache) is None
    run(model, BATCH, past_key_values=cache, max_new_tokens=1)
    assert can_be_continued(cache) is continued
    assert fixed_rows(cache) == rows
    assert len(states(cache)) >= 4


@pytest.mark.parametrize(
    ("architecture", "kind", "croppable"),
    [("llama", "dynamic", True), ("gemma2", "dynamic", False), ("llama", "static", False), ("lfm2", "dynamic", False)],
)
def test_only_layers_that_hold_every_column_can_be_cropped(architecture, kind, croppable):
    model = shared_model(architecture)
    cache = kept(model, kind)
    run(model, BATCH, past_key_values=cache, max_new_tokens=1)
    assert can_be_cropped(cache) is croppable
    if croppable:
        crop(cache, 2)
        assert set(lengths(cache)) == {BATCH["input_ids"].shape[1] - 2}
        crop(cache, 0)
        assert set(lengths(cache)) == {BATCH["input_ids"].shape[1] - 2}


def test_a_window_that_has_not_moved_on_can_be_cropped():
    model = shared_model("gemma2")
    cache, short = kept(model), {name: tensor[:, -5:] for name, tensor in BATCH.items()}
    run(model, short, past_key_values=cache, max_new_tokens=1)
    assert can_be_cropped(cache)
    crop(cache, 2)
    assert set(lengths(cache)) == {3}


def test_one_filled_layer_is_enough_not_to_be_empty():
    cache = DynamicCache()
    cache.update(torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3, 4), 2)
    assert lengths(cache) == (0, 0, 3)
    assert not is_empty(cache)


@pytest.mark.parametrize(
    ("parameters", "modalities", "keeps"),
    [
        (None, ("text",), True),
        ({"rope_type": "default", "rope_theta": 1e4}, ("text",), True),
        ({"rope_type": "yarn", "factor": 2.0}, ("text",), True),
        ({"rope_type": "dynamic", "factor": 2.0}, ("text",), False),
        (
            {"full_attention": {"rope_type": "longrope"}, "sliding_attention": {"rope_type": "default"}},
            ("text",),
            False,
        ),
        (None, ("text", "image"), False),
    ],
)
def test_keys_that_depend_on_what_follows_are_known(parameters, modalities, keeps):
    text = SimpleNamespace(rope_parameters=parameters)
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda **_: text))
    plan = SimpleNamespace(model=SimpleNamespace(modalities=modalities))
    assert keeps_keys(model, plan) is keeps


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"use_cache": False}, "use_cache=False"), ({"cache_implementation": "static"}, "cache_implementation")],
)
def test_settings_that_do_not_go_with_a_cache_of_the_app_raise_by_name(settings, named):
    with guarded(shared_model(), policy(1e6)) as wrapped:
        with pytest.raises((UnsupportedGenerationError, ValueError), match=named):
            wrapped.generate(**BATCH, past_key_values=DynamicCache(), max_new_tokens=2, **settings)
        assert wrapped.guard.hooked_blocks == ()


def test_a_static_cache_is_refused_where_transformers_would_compile_the_forward_pass():
    model, static = shared_model(), StaticCache(config=CONFIG, max_cache_len=8)
    with pytest.raises(UnsupportedGenerationError, match="fixed size"):
        check_passed_cache(static, model, used=True, compiles=True)
    check_passed_cache(kept(model), model, used=True, compiles=True)
    check_passed_cache(static, model, used=True, compiles=False)


def test_a_cache_that_the_library_made_of_an_untested_kind_is_not_returned():
    model = fresh_model()
    with guarded(model, policy(1e6)) as wrapped:
        found = turn_of(wrapped, BATCH, return_dict_in_generate=True, use_cache=False)
        assert found.reports
        output = wrapped.generate(**BATCH, return_dict_in_generate=True, use_cache=False, max_new_tokens=2)
    assert output.past_key_values is None
