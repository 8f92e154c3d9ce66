"""Adapters of the real PEFT library before and after `wrap`: the weights in use are those that were checked, or nothing runs."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from tests.guarded_models import (
    TEMPLATE,
    answers,
    fresh_model,
    guarded,
    memory_log,
    policy,
    prompts,
    registry_for,
    run,
    same_rows,
    shared_model,
    state_of,
    tokenizer,
)

import steerguard
from steerguard.errors import (
    IncompatibleModelError,
    SteerguardError,
    UnguidedForwardError,
    UnsupportedArchitectureError,
)
from steerguard.testing import tiny_registry

BATCH = prompts(8)
WIDTH = BATCH["input_ids"].shape[1]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
REFUSE_ALL = policy(-1e6, "refuse")


def train(model, name="default", *, seed=3):
    """Give the adapter weights of its own, as training would: in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_" in key and f".{name}." in key:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5)


def with_lora(model, name="default", *, seed=3):
    adapted = get_peft_model(model, LoraConfig(**LORA), adapter_name=name)
    train(adapted, name, seed=seed)
    return adapted.eval()


@pytest.fixture
def adapted():
    """A plain model with a trained adapter in it."""
    return with_lora(fresh_model())


@pytest.fixture
def fitting(adapted, tmp_path):
    """Artifacts that were made with that adapter on."""
    return tiny_registry(tmp_path / "registry", adapted.get_base_model(), tokenizer())


def is_guarded(model):
    tokens = model.generate(**BATCH, max_new_tokens=30, do_sample=False)
    return {text.strip() for text in tokenizer().batch_decode(tokens[:, WIDTH:], skip_special_tokens=True)} == {
        TEMPLATE
    }


def test_the_container_of_peft_is_refused_and_the_model_inside_is_named(adapted):
    with pytest.raises(UnsupportedArchitectureError, match="the model itself"):
        steerguard.wrap(adapted, policy(), tokenizer=tokenizer(), registry=registry_for(shared_model()))


def test_a_model_with_an_adapter_in_it_is_guided_exactly(adapted, fitting):
    model = adapted.get_base_model()
    plain = run(model, BATCH)
    before = state_of(model)
    with guarded(model, policy(0.0), registry=fitting, mode="monitor") as wrapped, wrapped.guard.collect() as seen:
        run(wrapped, BATCH, max_new_tokens=1)
    scores = sorted(report.readings[0].score for report in seen)
    with guarded(model, policy((scores[3] + scores[4]) / 2), registry=fitting) as wrapped:
        with wrapped.guard.collect() as reports:
            found = run(wrapped, BATCH)
        # The same through PEFT's own generate.
        through = adapted.generate(**BATCH, max_new_tokens=12, do_sample=False)
    closed = [row for row, report in enumerate(reports) if report.intended == "allow"]
    assert len(closed) == 4
    assert same_rows(closed, plain, found, WIDTH)
    assert sum(bool(report.doses) for report in reports) == 4
    assert answers(through, WIDTH) == answers(found[0], WIDTH)
    assert state_of(model) == before


def test_a_model_with_an_adapter_is_refused_by_artifacts_of_the_base_model(adapted):
    with pytest.raises(IncompatibleModelError, match="build a variant"):
        steerguard.wrap(
            adapted.get_base_model(),
            policy(),
            tokenizer=tokenizer(),
            registry=registry_for(shared_model()),
            audit=memory_log(),
        )


def test_direct_calls_through_peft_are_refused(adapted, fitting):
    with guarded(adapted.get_base_model(), REFUSE_ALL, registry=fitting):
        assert is_guarded(adapted)
        for door in (adapted, adapted.forward, adapted.base_model, adapted.base_model.forward):
            with pytest.raises(UnguidedForwardError):
                door(**BATCH)


@pytest.mark.parametrize("how", ["PEFT", "transformers"])
def test_an_adapter_loaded_after_the_wrapping_is_refused_until_it_is_gone(how, adapted, tmp_path):
    adapted.save_pretrained(tmp_path / "adapter")
    model = fresh_model()
    with guarded(model, REFUSE_ALL, registry=registry_for(shared_model())) as wrapped:
        assert is_guarded(wrapped)
        if how == "PEFT":
            loaded = PeftModel.from_pretrained(wrapped, tmp_path / "adapter")
            remove = loaded.unload
        else:
            with pytest.raises(IncompatibleModelError):
                wrapped.load_adapter(str(tmp_path / "adapter"))
            remove = wrapped.disable_adapters
        for _ in range(2):
            with pytest.raises(IncompatibleModelError):
                wrapped.generate(**BATCH, max_new_tokens=2)
        remove()
        assert is_guarded(wrapped)
        if how == "transformers":
            with pytest.raises(IncompatibleModelError):
                wrapped.enable_adapters()
            with pytest.raises(IncompatibleModelError):
                wrapped.generate(**BATCH, max_new_tokens=2)


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_is_refused():
    model = fresh_model()
    with guarded(model, policy(1e6), registry=registry_for(shared_model())) as wrapped:
        adapted = get_peft_model(wrapped, LoraConfig(**LORA)).eval()
        with wrapped.guard.unguided("comparison in a test"):
            plain = run(wrapped, BATCH)
        assert same_rows(list(range(8)), plain, run(wrapped, BATCH), WIDTH)
        train(adapted)
        with pytest.raises(IncompatibleModelError):
            run(wrapped, BATCH)


def test_an_adapter_that_is_switched_off_is_noticed(adapted, fitting):
    with guarded(adapted.get_base_model(), REFUSE_ALL, registry=fitting) as wrapped:
        assert is_guarded(wrapped)
        for _ in range(2):
            with adapted.disable_adapter(), pytest.raises(IncompatibleModelError):
                wrapped.generate(**BATCH, max_new_tokens=2)
            assert is_guarded(wrapped)


def test_another_adapter_that_is_switched_on_is_noticed(adapted, fitting):
    adapted.add_adapter("other", LoraConfig(**LORA))
    train(adapted, "other", seed=8)
    with guarded(adapted.get_base_model(), REFUSE_ALL, registry=fitting) as wrapped:
        assert is_guarded(wrapped)
        adapted.set_adapter("other")
        with pytest.raises(IncompatibleModelError):
            wrapped.generate(**BATCH, max_new_tokens=2)
        adapted.set_adapter("default")
        assert is_guarded(wrapped)


def test_another_scale_of_the_adapter_is_noticed(adapted, fitting):
    with guarded(adapted.get_base_model(), REFUSE_ALL, registry=fitting) as wrapped:
        for module in adapted.modules():
            if hasattr(module, "scale_layer"):
                module.scale_layer(3.0)
        with pytest.raises(IncompatibleModelError):
            wrapped.generate(**BATCH, max_new_tokens=2)


def test_an_adapter_swapped_in_place_is_noticed(adapted, fitting, tmp_path):
    with_lora(fresh_model(), seed=8).save_pretrained(tmp_path / "other")
    with guarded(adapted.get_base_model(), REFUSE_ALL, registry=fitting) as wrapped:
        hotswap_adapter(adapted, tmp_path / "other", adapter_name="default")
        with pytest.raises(IncompatibleModelError):
            wrapped.generate(**BATCH, max_new_tokens=2)


def test_a_merged_adapter_stays_guided_by_its_own_artifacts_and_is_refused_by_others(adapted, fitting):
    split = split_of_registry(adapted.get_base_model(), fitting)
    with guarded(adapted.get_base_model(), policy(split), registry=fitting) as wrapped:
        with wrapped.guard.collect() as before:
            run(wrapped, BATCH)
        merged = adapted.merge_and_unload()
        assert merged is wrapped
        with wrapped.guard.collect() as after:
            run(wrapped, BATCH)
    assert [report.intended for report in before] == [report.intended for report in after]
    assert sum(bool(report.doses) for report in after) == 4
    with pytest.raises(IncompatibleModelError):
        steerguard.wrap(
            merged, policy(), tokenizer=tokenizer(), registry=registry_for(shared_model()), audit=memory_log()
        )


def split_of_registry(model, registry):
    with guarded(model, policy(0.0), registry=registry, mode="monitor") as wrapped, wrapped.guard.collect() as seen:
        run(wrapped, BATCH, max_new_tokens=1)
    scores = sorted(report.readings[0].score for report in seen)
    return (scores[3] + scores[4]) / 2


@pytest.mark.filterwarnings("ignore:Position ids")
@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_in_front_of_a_wrapped_models_prompt_are_refused(kind):
    model = fresh_model()
    with guarded(model, REFUSE_ALL, registry=registry_for(shared_model())) as wrapped:
        tuned = get_peft_model(wrapped, kind(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
        with pytest.raises(SteerguardError):
            tuned.generate(**BATCH, max_new_tokens=2)
