"""Ways around the class of a wrapped model: every pass that reaches its decoder blocks has permission, or is refused.

What only encodes stays callable, and the fence is gone without a trace after `unwrap`.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from tests.guarded_models import (
    ARCHITECTURES,
    blocks_of,
    conversation,
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
from transformers import LlamaForCausalLM, LlamaModel

import steerguard
from steerguard.errors import (
    AlreadyWrappedError,
    GuardedModelCopyError,
    IncompatibleModelError,
    SteerguardError,
    UnguidedForwardError,
    UnsupportedArchitectureError,
)
from steerguard.models.weights_token import weights_token

BATCH = prompts(3)
REFUSE_ALL = policy(-1e6, "refuse")


def _wrapped(model, document=REFUSE_ALL):
    return guarded(model, document, registry=registry_for(shared_model()))


DOORS = {
    "forward of the original class": lambda model, _: LlamaForCausalLM.forward(model, **BATCH),
    "forward through super": lambda model, _: super(type(model), model).forward(**BATCH),
    "a call of the original class": lambda model, _: LlamaForCausalLM.__call__(model, **BATCH),
    "what forward wraps": lambda model, _: model.forward.__wrapped__(model, **BATCH),
    "forward bound before the wrapping": lambda _, bound: bound[0](**BATCH),
    "the decoder": lambda model, _: model.model(**BATCH),
    "the decoder by its getter": lambda model, _: model.get_decoder()(**BATCH),
    "forward of the decoder": lambda model, _: model.model.forward(**BATCH),
    "forward of the decoder's class": lambda model, _: LlamaModel.forward(model.model, **BATCH),
    "forward of the decoder bound before the wrapping": lambda _, bound: bound[1](**BATCH),
    "the decoder in a container": lambda model, _: torch.nn.Sequential(model.model)(BATCH["input_ids"]),
    "the first block": lambda model, _: model.model.layers[0](torch.zeros(1, 1, 32)),
}


@pytest.mark.parametrize("name", DOORS)
def test_a_forward_pass_behind_the_wrapped_class_is_refused_by_name(name):
    model = fresh_model()
    bound = model.forward, model.model.forward
    with _wrapped(model) as wrapped, pytest.raises(UnguidedForwardError, match="outside `generate`"):
        DOORS[name](wrapped, bound)


def test_a_door_behind_the_class_stays_closed_or_is_guided_while_direct_passes_are_scored():
    model = fresh_model()
    bound = model.forward, model.model.forward
    with _wrapped(model) as wrapped, wrapped.guard.forward() as scoring:
        for name, door in DOORS.items():
            if name == "a call of the original class":
                # It calls `forward` of the model, which has the guarded class.
                door(wrapped, bound)
                continue
            with pytest.raises(UnguidedForwardError):
                door(wrapped, bound)
    assert [decision.applied for decision in scoring.decisions[0]] == ["refuse"] * 3
    assert len(scoring.decisions) == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_decoder_of_every_architecture_is_fenced(architecture):
    with guarded(shared_model(architecture), REFUSE_ALL) as wrapped:
        kind = type(wrapped.get_decoder())
        with pytest.raises(UnguidedForwardError):
            wrapped.get_decoder()(**BATCH)
        with wrapped.guard.unguided("a test"):
            assert wrapped.get_decoder()(**BATCH).last_hidden_state.shape[0] == 3
    assert type(shared_model(architecture).get_decoder()) is kind


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", ["model", "decoder", "first block"])
def test_the_forward_that_offloading_puts_on_an_instance_is_refused(part):
    model = fresh_model()
    chosen = {"model": model, "decoder": model.model, "first block": model.model.layers[0]}[part]
    add_hook_to_module(chosen, AlignDevicesHook(io_same_device=True))
    with _wrapped(model, policy(-1e6)) as wrapped:
        for door in (lambda: wrapped.forward(**BATCH), lambda: wrapped.model.forward(**BATCH)):
            with pytest.raises(UnguidedForwardError):
                door()
        with wrapped.guard.collect() as reports:
            run(wrapped, BATCH)
        assert [report.applied for report in reports] == ["guide"] * 3
        with wrapped.guard.forward() as scoring:
            wrapped(**BATCH)
        assert len(scoring.decisions) == 1


def test_another_model_around_the_same_decoder_is_refused_too():
    model, other = fresh_model(), fresh_model(seed=5)
    other.model = model.model
    with _wrapped(model):
        before = state_of(other)
        with pytest.raises(UnguidedForwardError):
            other(**BATCH)
        with pytest.raises(AlreadyWrappedError, match="blocks"):
            steerguard.wrap(
                other, REFUSE_ALL, tokenizer=tokenizer(), registry=registry_for(shared_model()), audit=memory_log()
            )
        assert state_of(other) == before
    other(**BATCH)


def test_what_only_encodes_stays_callable():
    with guarded(shared_model("llava"), REFUSE_ALL) as wrapped:
        size = wrapped.config.vision_config.image_size
        assert wrapped.get_image_features(torch.zeros(1, 3, size, size)) is not None
        assert wrapped.get_input_embeddings()(BATCH["input_ids"]).shape[0] == 3


HOOKED = {
    "the first block": lambda model: blocks_of(model)[0],
    "the last block": lambda model: blocks_of(model)[3],
    "the head": lambda model: model.lm_head,
    "the model": lambda model: model,
}
INNER = {
    "a call": lambda model: model(**prompts(2, "right")).logits,
    "forward": lambda model: model.forward(**prompts(2, "right")).logits,
    "forward of the original class": lambda model: LlamaForCausalLM.forward(model, **prompts(2, "right")).logits,
    "the decoder": lambda model: model.model(**prompts(2, "right")).last_hidden_state,
}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("place", HOOKED)
@pytest.mark.parametrize("at", [0, 1, 3], ids=["prefill", "first step", "third step"])
@pytest.mark.parametrize("threshold", [-1e6, 1e6], ids=["open", "closed"])
def test_a_forward_pass_inside_a_forward_pass_is_refused_by_name(threshold, at, place, inner):
    """A hook of the app that asks the model about another prompt while a request decodes."""
    left, found = [at], []

    def hook(*_):
        left[0] -= 1
        if left[0] == -1:
            found.append(INNER[inner](wrapped))

    with _wrapped(fresh_model(), policy(threshold)) as wrapped:
        handle = HOOKED[place](wrapped).register_forward_hook(hook)
        with pytest.raises(UnguidedForwardError, match="inside a forward pass"):
            run(wrapped, BATCH, min_new_tokens=8)
        assert not found
        handle.remove()
        run(wrapped, BATCH)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("at", [1, 2], ids=["prefill", "first step"])
def test_a_pass_in_place_of_the_real_one_ends_the_request_by_name(at, inner):
    with _wrapped(fresh_model(), policy(1e6)) as wrapped:
        entered = []

        def hook(*_):
            entered.append(1)
            if len(entered) == at:
                INNER[inner](wrapped)

        handle = wrapped.register_forward_pre_hook(hook)
        with pytest.raises(SteerguardError):
            run(wrapped, BATCH, min_new_tokens=4)
        handle.remove()
        run(wrapped, BATCH)


@pytest.mark.parametrize("call", ["__call__", "forward"])
def test_a_pass_inside_a_check_or_a_scored_pass_is_refused_by_name(call):
    with _wrapped(fresh_model(), policy(1e6)) as wrapped:
        handle = wrapped.lm_head.register_forward_hook(lambda *_: wrapped(**BATCH))
        with pytest.raises(UnguidedForwardError, match="inside a forward pass"):
            wrapped.guard.check(conversation("hello"))
        with wrapped.guard.forward(), pytest.raises(UnguidedForwardError, match="inside a forward pass"):
            getattr(wrapped, call)(**BATCH)
        handle.remove()


def test_what_the_message_offers_works_inside_a_hook():
    done = []

    def hook(*_):
        if not done:
            done.append(1)
            wrapped.guard.check(conversation("hello"))
            with wrapped.guard.unguided("a hook of a test"):
                wrapped(**prompts(2, "right"))
            run(wrapped, prompts(2, "right"))
            done.append(2)

    with _wrapped(fresh_model(), policy(-1e6)) as wrapped:
        plain = run(wrapped, BATCH)
        handle = blocks_of(wrapped)[3].register_forward_hook(hook)
        assert torch.equal(run(wrapped, BATCH)[0], plain[0])
        handle.remove()
    assert done == [1, 2]


@pytest.mark.parametrize("action", [copy.deepcopy, copy.copy, pickle.dumps])
def test_the_fenced_block_of_a_wrapped_model_is_not_copied(action):
    model = fresh_model()
    with _wrapped(model) as wrapped:
        with pytest.raises(GuardedModelCopyError, match="unwrap"):
            action(wrapped.model.layers[0])
        with pytest.raises(GuardedModelCopyError, match="unwrap"):
            (copy.deepcopy if action is copy.copy else action)(wrapped.model)
    action(model.model)
    assert torch.equal(copy.deepcopy(model).lm_head.weight, model.lm_head.weight)


def test_the_fence_keeps_names_keys_and_the_weight_token_and_goes_without_a_trace():
    model = fresh_model()
    block, original = model.model.layers[0], type(model.model.layers[0])
    before, token, shown = state_of(model), weights_token(model), repr(model)
    attributes = sorted(vars(block))
    with _wrapped(model) as wrapped:
        fenced = type(block)
        assert (fenced.__name__, fenced.__qualname__, fenced.__module__, fenced.__doc__) == (
            original.__name__,
            original.__qualname__,
            original.__module__,
            original.__doc__,
        )
        assert isinstance(block, original)
        assert type(wrapped.get_decoder()) is LlamaModel
        assert fenced.forward is original.forward
        assert (weights_token(wrapped), repr(wrapped)) == (token, shown)
        assert list(wrapped.state_dict()) == list(fresh_model().state_dict())
    assert type(block) is original
    assert sorted(vars(block)) == attributes
    assert state_of(model) == before


def test_a_block_exchanged_after_the_wrapping_is_free_of_the_fence_after_unwrap():
    model = fresh_model()
    fenced = model.model.layers[0]
    with _wrapped(model, policy(1e6)) as wrapped:
        wrapped.model.layers[0] = fresh_model().model.layers[0]
    assert type(fenced) is type(model.model.layers[0])
    assert type(fenced) is type(fresh_model().model.layers[0])
    model.model.layers[0] = fenced
    model(**BATCH)


def test_a_block_with_a_class_derived_from_the_fenced_one_works_after_unwrap_and_is_fenced_again():
    model = fresh_model()
    block = model.model.layers[0]
    original = type(block)
    wrapped = steerguard.wrap(
        model, REFUSE_ALL, tokenizer=tokenizer(), registry=registry_for(shared_model()), audit=memory_log()
    )
    # As FSDP does to the blocks that it shards.
    block.__class__ = type("Sharded", (type(block),), {})
    run(wrapped, BATCH)
    steerguard.unwrap(wrapped)
    model(**BATCH)
    with _wrapped(model) as wrapped:
        run(wrapped, BATCH)
        with pytest.raises(UnguidedForwardError):
            wrapped.model(**BATCH)
    copy.deepcopy(model)
    block.__class__ = original


def test_a_block_of_which_the_class_cannot_be_derived_from_fails_the_wrap_without_a_trace():
    model = fresh_model()
    block = model.model.layers[0]

    class Sealed(type(block)):
        def __init_subclass__(cls, **_):
            raise TypeError("final")

    block.__class__ = Sealed
    before = state_of(model)
    with pytest.raises(UnsupportedArchitectureError, match="first decoder block"):
        steerguard.wrap(
            model, REFUSE_ALL, tokenizer=tokenizer(), registry=registry_for(shared_model()), audit=memory_log()
        )
    assert state_of(model) == before
    model(**BATCH)


@pytest.mark.filterwarnings("ignore")
def test_training_with_gradient_checkpoints_works_where_it_is_allowed():
    model = fresh_model()
    with _wrapped(model) as wrapped:
        wrapped.train()
        wrapped.gradient_checkpointing_enable()
        with wrapped.guard.unguided("training in a test"):
            loss = wrapped(**BATCH, labels=BATCH["input_ids"], use_cache=False).loss
        # The backward pass runs the blocks again, maybe in a thread of torch.
        loss.backward()
        assert wrapped.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0
        with pytest.raises(SteerguardError):
            wrapped(**BATCH)
        wrapped.zero_grad()
        wrapped.eval()


@pytest.mark.parametrize("number", [0, 2])
def test_a_replaced_block_stops_every_request_until_it_is_put_back(number):
    # The new block holds the very weights, so the fingerprint alone would let it pass.
    with _wrapped(fresh_model()) as wrapped:
        layers = wrapped.model.layers
        own = layers[number]
        twin = fresh_model().model.layers[number]
        twin.load_state_dict(own.state_dict())
        layers[number] = twin
        for ask in (
            lambda: wrapped.generate(**BATCH, max_new_tokens=2),
            lambda: wrapped.guard.check(conversation("x")),
        ):
            with pytest.raises(IncompatibleModelError):
                ask()
        layers[number] = own
        wrapped.generate(**BATCH, max_new_tokens=2)
