"""Guided forwards equal an independent evaluation of the formulas: plain numpy, and the package `steering-vectors`.

The reference runs an unguided model. At each changed place its hidden states go through numpy in double precision, and
the model goes on from there. Nothing of the engine is used.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tests.guarded_models import blocks_of, prompts, shared_model, splitting_threshold, tokenizer
from tests.guarded_models import policy as written
from tests.operated_models import OPERATORS, POINTS, by_hand, intervention, operated, schedule, vector

RELATIVE = 1e-5
ARCHITECTURES = ("llama", "gpt2", "qwen2", "gemma", "phi")
CASES = [(name, point) for name in OPERATORS for point in POINTS]


def test_the_package_that_plain_addition_is_compared_with_is_installed_at_its_pinned_version():
    from importlib.metadata import version

    assert version("steering-vectors") == "0.12.2"


def _hidden(value):
    return value[0] if isinstance(value, tuple) else value


def _changed(items, hidden, places):
    """Hidden states `[rows, columns, width]` after the formulas, at `places` `[rows, columns]`."""
    for item in items:
        states = hidden.numpy()
        hidden = torch.from_numpy(
            np.where(places[:, :, None], by_hand(item.schedule, states), states).astype(np.float32)
        )
    return hidden


@contextmanager
def _reference(model, items, places):
    """The model with numpy at the places of the interventions; yields what every block put out."""
    seen, handles, blocks = {}, [], blocks_of(model)

    def behind(block, mine):
        def hook(_module, _args, output):
            changed = _changed(mine, _hidden(output), places)
            seen[block] = changed
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook

    def before(mine):
        def hook(_module, args, named):
            if args:
                return (_changed(mine, args[0], places), *args[1:]), named
            return args, {**named, "hidden_states": _changed(mine, named["hidden_states"], places)}

        return hook

    for number, block in enumerate(blocks):
        inputs = [item for item in items if (item.block, item.point) == (number, "resid_pre")]
        outputs = [item for item in items if (item.block, item.point) == (number, "resid_post")]
        if inputs:
            handles.append(block.register_forward_pre_hook(before(inputs), with_kwargs=True))
        handles.append(block.register_forward_hook(behind(number, outputs)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _seen_states(model):
    """What every block but the last hands on to the next, per forward pass."""
    seen, handles = {}, []

    def into(number):
        def hook(_module, args, named):
            seen.setdefault(number, []).append((args[0] if args else named["hidden_states"]).detach().clone())

        return hook

    # The first module inside a block sees the state that the block works with, whatever was done in front of it.
    for number, block in enumerate(blocks_of(model)[1:]):
        first = next(block.children())
        handles.append(first.register_forward_pre_hook(into(number), with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _close(found, wanted):
    assert (found - wanted).abs().max() <= RELATIVE * wanted.abs().max()


def _sequence_of(batch, tokens):
    """The whole sequences that went through the model: prompts and generated tokens that were fed back."""
    ids = tokens[:, :-1]
    mask = torch.cat([batch["attention_mask"], torch.ones_like(ids[:, batch["attention_mask"].shape[1] :])], dim=1)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


def _compare(model, items, *, side="left", threshold=-1e6, positions="all"):
    """Generate under guidance, then run the same tokens through the reference; compare states and logits."""
    batch = prompts(6, side)
    with operated(model, items, written(threshold)) as wrapped, wrapped.guard.collect() as reports:
        result = wrapped.generate(
            **batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        with _seen_states(model) as cached:
            wrapped.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    opened = torch.tensor([bool(report.doses) for report in reports[:6]])
    whole = _sequence_of(batch, result.sequences)
    width = batch["input_ids"].shape[1]
    columns = torch.arange(whole["input_ids"].shape[1])
    lies = {"all": columns >= 0, "prefill": columns < width, "decode": columns >= width}[positions]
    places = (opened[:, None] & whole["attention_mask"].bool() & lies).numpy()
    with torch.no_grad(), _reference(model, items, places), _seen_states(model) as wanted:
        logits = model(**whole, use_cache=False).logits
    tokens = whole["attention_mask"].bool()
    for number, (states,) in wanted.items():
        found = torch.cat(cached[number], dim=1)
        _close(found[tokens], states[tokens])
    ends = [columns[tokens[row] & (columns < width)][-1].item() for row in range(6)]
    _close(result.logits[0], torch.stack([logits[row, end] for row, end in enumerate(ends)]))
    for step in range(1, 4):
        _close(result.logits[step], logits[:, width + step - 1])
    return opened


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("name", "point"), CASES)
def test_states_and_logits_equal_numpy(architecture, name, point):
    items = [intervention(schedule(name), block=2, point=point)]
    assert _compare(shared_model(architecture), items).all()


@pytest.mark.parametrize("positions", ["prefill", "decode"])
@pytest.mark.parametrize("name", OPERATORS)
def test_states_and_logits_equal_numpy_at_the_positions_of_a_rule_in_open_rows_only(name, positions):
    items = [intervention(schedule(name, positions), block=2)]
    opened = _compare(shared_model(), items, threshold=splitting_threshold(rows=6), positions=positions)
    assert opened.any()
    assert not opened.all()


def test_all_operators_one_after_the_other_at_several_places_equal_numpy():
    items = [intervention(schedule(name, seed=seed), block=2) for seed, name in enumerate(OPERATORS)]
    items += [intervention(schedule(name, seed=9), block=3, point="resid_pre") for name in reversed(OPERATORS)]
    assert _compare(shared_model(), items).all()


def _steering_vector(layers):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from steering_vectors import SteeringVector

    return SteeringVector(layer_activations=layers, layer_type="decoder_block")


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_plain_addition_equals_the_package_steering_vectors(architecture):
    model, batch = shared_model(architecture), prompts(6)
    layers = {1: vector(1, 3.0), 2: vector(2, 3.0)}
    asked = {
        "max_new_tokens": 8, "do_sample": False, "output_logits": True, "return_dict_in_generate": True,
        "eos_token_id": None, "pad_token_id": tokenizer().pad_token_id,
    }  # fmt: skip
    with torch.no_grad():
        plain = model.generate(**batch, **asked)
        with _steering_vector(layers).apply(model):
            wanted = model.generate(**batch, **asked)
    items = [intervention(schedule("add", seed=block), block=block) for block in layers]
    with operated(model, items) as wrapped:
        found = wrapped.generate(**batch, **asked)
    assert torch.equal(found.sequences, wanted.sequences)
    for one, other, unsteered in zip(found.logits, wanted.logits, plain.logits, strict=True):
        _close(one, other)
        assert not torch.allclose(one, unsteered, atol=1e-2)
