"""The class of a wrapped model: everything around it behaves as before, and no door stays open."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import warnings

import pytest
import torch
from tests.guarded_models import (
    answers,
    fresh_model,
    guarded,
    memory_log,
    policy,
    prompts,
    registry_for,
    run,
    shared_model,
    state_of,
    tokenizer,
)
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel, pipeline
from transformers.utils import logging as transformers_logging

import steerguard
from steerguard.errors import GuardedModelCopyError, IncompatibleModelError, NotWrappedError, SteerguardError
from steerguard.guarded_class import guarded_class


def test_the_class_keeps_name_module_and_ancestry():
    model = shared_model()
    original = type(model)
    with guarded(model, policy()) as wrapped:
        found = type(wrapped)
        assert found is not original
        assert (found.__name__, found.__qualname__, found.__module__, found.__doc__) == (
            original.__name__,
            original.__qualname__,
            original.__module__,
            original.__doc__,
        )
        assert isinstance(wrapped, LlamaForCausalLM)
        assert isinstance(wrapped, PreTrainedModel)
        assert found is guarded_class(original)
        assert inspect.signature(wrapped.generate) == inspect.signature(original.generate.__get__(wrapped))
        assert inspect.signature(wrapped.forward) == inspect.signature(original.forward.__get__(wrapped))
        assert wrapped.can_generate()
    assert type(model) is original


def test_a_pipeline_runs_a_wrapped_model_without_a_word_about_its_class(capfd):
    model = fresh_model()
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_warning()
    chat = [[{"role": "user", "content": text}] for text in ("hello there", "x")]
    try:
        guarding = guarded(model, policy(-1e6, "refuse"), registry=registry_for(shared_model()))
        with guarding as wrapped, warnings.catch_warnings():
            warnings.simplefilter("error")
            generator = pipeline("text-generation", model=wrapped, tokenizer=tokenizer())
            capfd.readouterr()
            found = [generator(one, max_new_tokens=30, do_sample=False, return_full_text=False) for one in chat]
    finally:
        transformers_logging.set_verbosity(level)
    assert [one[0]["generated_text"] for one in found] == ["I cannot help with that."] * 2
    assert "not supported" not in "".join(capfd.readouterr())


def test_saving_a_wrapped_model_writes_the_plain_class_and_reloads_as_it(tmp_path):
    model = shared_model()
    with guarded(model, policy(-1e6)) as wrapped:
        before = state_of(wrapped)
        wrapped.save_pretrained(tmp_path)
        assert state_of(wrapped) == before
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is LlamaForCausalLM
    assert all(torch.equal(one, other) for one, other in zip(loaded.parameters(), model.parameters(), strict=True))


def test_from_pretrained_of_a_wrapped_models_class_gives_the_plain_class(tmp_path):
    model = shared_model()
    model.save_pretrained(tmp_path)
    with guarded(model, policy(-1e6)) as wrapped:
        assert type(type(wrapped).from_pretrained(tmp_path)) is LlamaForCausalLM
        assert type(type(wrapped)._from_config(wrapped.config)) is LlamaForCausalLM


@pytest.mark.parametrize("action", [pickle.dumps, copy.deepcopy, copy.copy], ids=["pickle", "deepcopy", "copy"])
def test_copying_a_wrapped_model_raises_and_names_unwrap(action):
    with guarded(shared_model(), policy()) as wrapped:
        before = state_of(wrapped)
        with pytest.raises(GuardedModelCopyError, match="unwrap"):
            action(wrapped)
        assert state_of(wrapped) == before
    copied = copy.deepcopy(shared_model())
    assert type(copied) is LlamaForCausalLM


def test_torch_save_of_a_wrapped_model_raises(tmp_path):
    with guarded(shared_model(), policy()) as wrapped, pytest.raises(GuardedModelCopyError):
        torch.save(wrapped, tmp_path / "model.pt")


def test_a_guarded_class_without_a_guard_does_not_generate():
    bare = object.__new__(guarded_class(LlamaForCausalLM))
    torch.nn.Module.__init__(bare)
    for call in (
        bare.generate,
        lambda: bare._sample(torch.zeros(1, 1)),
        bare,
        lambda: bare.guard,
        lambda: bare.generate_batch([]),
        lambda: bare.load_state_dict({}),
    ):
        with pytest.raises(NotWrappedError, match="no guard"):
            call()


def test_other_weights_are_refused_until_the_right_ones_are_back():
    model = fresh_model()
    right = copy.deepcopy(model.state_dict())
    other = fresh_model(seed=5).state_dict()
    with guarded(model, policy(1e6), registry=registry_for(shared_model())) as wrapped:
        plain = run(wrapped, prompts(2))
        with pytest.raises(IncompatibleModelError):
            wrapped.load_state_dict(other)
        for call in (lambda: run(wrapped, prompts(2)), lambda: wrapped.guard.check([{"role": "user", "content": "x"}])):
            for _ in range(2):
                with pytest.raises(IncompatibleModelError) as caught:
                    call()
                assert len(caught.value.__traceback__.tb_frame.f_code.co_name) > 0
        assert "All keys matched" in str(wrapped.load_state_dict(right))
        assert torch.equal(run(wrapped, prompts(2))[0], plain[0])


def test_weights_that_were_loaded_in_part_before_an_error_are_noticed():
    model = fresh_model()
    right = copy.deepcopy(model.state_dict())
    other = fresh_model(seed=5).state_dict()
    del other["lm_head.weight"]
    with guarded(model, policy(1e6), registry=registry_for(shared_model())) as wrapped:
        with pytest.raises(SteerguardError):
            wrapped.load_state_dict(other)
        with pytest.raises(IncompatibleModelError):
            run(wrapped, prompts(2))
        wrapped.load_state_dict(right)
        del right["lm_head.weight"]
        with pytest.raises(RuntimeError, match="Missing key"):
            wrapped.load_state_dict(right)
        run(wrapped, prompts(2))


def test_weights_with_nan_are_refused_until_the_right_ones_are_back():
    model = fresh_model()
    right = copy.deepcopy(model.state_dict())
    broken = {name: torch.full_like(tensor, float("nan")) for name, tensor in right.items()}
    with guarded(model, policy(1e6), registry=registry_for(shared_model())) as wrapped:
        for call in (lambda: wrapped.load_state_dict(broken), lambda: run(wrapped, prompts(2))):
            with pytest.raises(SteerguardError, match="finite"):
                call()
        wrapped.load_state_dict(right)
        run(wrapped, prompts(2))


@pytest.mark.parametrize("grad", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_every_autograd_mode_works(grad):
    batch = prompts(4)
    with guarded(shared_model(), policy(-1e6)) as wrapped:
        plain = run(wrapped, batch)
        with grad():
            found = run(wrapped, batch)
            wrapped.guard.check([{"role": "user", "content": "x"}])
        again = run(wrapped, batch)
    width = batch["input_ids"].shape[1]
    assert answers(plain[0], width) == answers(found[0], width) == answers(again[0], width)


def test_state_dict_parameters_and_modes_are_those_of_the_plain_model():
    model = fresh_model()
    names = list(model.state_dict())
    with guarded(model, policy(), registry=registry_for(shared_model())) as wrapped:
        assert list(wrapped.state_dict()) == names
        wrapped.train()
        wrapped.eval()
        wrapped.requires_grad_(requires_grad=False)
        assert "guard" not in dict(wrapped.named_modules())


def test_two_wrapped_models_of_one_class_keep_their_own_guards():
    first, second = fresh_model(), fresh_model()
    registry = registry_for(shared_model())
    with guarded(first, policy(-1e6, "refuse"), registry=registry) as one:
        with guarded(second, policy(1e6), registry=registry) as other:
            assert type(one) is type(other)
            assert one.guard is not other.guard
            refused, allowed = run(one, prompts(2)), run(other, prompts(2))
        assert not torch.equal(refused[0], allowed[0])
        assert type(second) is LlamaForCausalLM
        assert torch.equal(run(one, prompts(2))[0], refused[0])


def test_a_garbage_collected_model_releases_its_guard():
    import gc
    import weakref

    model = fresh_model()
    wrapped = steerguard.wrap(
        model, policy(), tokenizer=tokenizer(), registry=registry_for(shared_model()), audit=memory_log()
    )
    watch = weakref.ref(wrapped)
    del model, wrapped
    gc.collect()
    assert watch() is None
