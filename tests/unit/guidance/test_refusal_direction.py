"""The refusal direction against an independent reference: plain hooks, and the formula in numpy and float64."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.guarded_models import ALWAYS, blocks_of, guarded, policy, prompts, registry_for, run, shared_model

from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import ArtifactFormatError
from steerguard.guidance.intervention import Ablate, Constant
from steerguard.guidance.refusal_direction.bind import bind, unit_direction
from steerguard.guidance.vector_schedules import VECTORS_FILE
from steerguard.methods.refusal_direction import RefusalDirectionSpec

SOURCE = 1


def theta_of(model):
    registry = registry_for(model)
    (pin,) = registry.pinned("refusal-direction")
    artifact = verify_artifact(registry.read(pin), pin.digest)
    assert artifact.manifest.params["source_block"] == SOURCE
    return artifact.tensors[VECTORS_FILE]["theta"]


def reference(model, batch, change, *, inputs):
    """Logits of one uncached forward with every state of a real token changed by numpy in float64."""
    kept = batch["attention_mask"].bool().numpy()[:, :, None]

    def changed(block, hidden):
        state = hidden.double().numpy()
        return torch.from_numpy(np.where(kept, change(block, state), state)).to(hidden)

    def before(block):
        return lambda _module, arguments: (changed(block, arguments[0]), *arguments[1:])

    def after(block):
        return lambda _module, _arguments, output: changed(block, output)

    handles = []
    for block, module in enumerate(blocks_of(model)):
        if inputs:
            handles.append(module.register_forward_pre_hook(before(block)))
        handles.append(module.register_forward_hook(after(block)))
    try:
        with torch.no_grad():
            place = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            return model(**batch, position_ids=place, use_cache=False).logits[:, -1].float()
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("coefficient", [1.0, 0.25])
def test_ablated_logits_equal_a_projection_written_out_by_hand(coefficient):
    model, batch = shared_model(), prompts(4)
    row = theta_of(model)[SOURCE].double().numpy()
    unit = row / np.linalg.norm(row)

    def change(_block, state):
        return state - coefficient * (state @ unit)[..., None] * unit

    wanted = reference(model, batch, change, inputs=True)
    settings = f"mode: ablate, coefficient: {coefficient}"
    document = policy(rules=ALWAYS, detector=False, method="refusal_direction", settings=settings)
    with guarded(model, document) as wrapped:
        _, logits = run(wrapped, batch, max_new_tokens=1)
    plain = run(model, batch, max_new_tokens=1)[1][0]
    assert (logits[0] - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert (plain - wanted).abs().max() > 1e-3


def test_added_logits_equal_an_addition_written_out_by_hand():
    model, batch = shared_model(), prompts(4)
    theta = theta_of(model).double().numpy()

    def change(block, state):
        return state + (3.0 * theta[block] if block in (1, 2) else 0.0)

    wanted = reference(model, batch, change, inputs=False)
    document = policy(rules=ALWAYS, detector=False, method="refusal_direction", settings="coefficient: 3.0")
    with guarded(model, document) as wrapped:
        _, logits = run(wrapped, batch, max_new_tokens=1)
    assert (logits[0] - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def _step(mode, **changes):
    spec = RefusalDirectionSpec(id="s", method="refusal_direction", artifact="refusal-direction@^1", mode=mode)
    points = ("resid_pre", "resid_post") if mode == "ablate" else ("resid_post",)
    fields = {
        "id": "s",
        "spec": spec,
        "blocks": (1, 2),
        "strength": "0.5",
        "coefficient": "1.0",
        "positions": "all",
        "first_steps": None,
        "modality_tokens": "include",
        "points": points,
    }
    return SimpleNamespace(**(fields | changes))


def _artifacts(theta=None, **params):
    manifest = SimpleNamespace(base=SimpleNamespace(num_blocks=3, hidden_size=4), params={"source_block": 1, **params})
    tensors = {"theta": torch.arange(1.0, 13.0).reshape(3, 4) if theta is None else theta}
    return {"vectors": SimpleNamespace(tensors={VECTORS_FILE: tensors}, manifest=manifest)}


def test_ablate_declares_one_unit_direction_at_the_input_and_output_of_each_block():
    found = bind(_step("ablate", coefficient="0.5"), _artifacts())
    assert [(item.block, item.point) for item in found] == [
        (1, "resid_pre"),
        (1, "resid_post"),
        (2, "resid_pre"),
        (2, "resid_post"),
    ]
    operators = [item.schedule.operator for item in found]
    assert all(isinstance(operator, Ablate) and operator.coefficient == 0.5 for operator in operators)
    assert len({id(operator.direction) for operator in operators}) == 1
    assert operators[0].direction.norm() == pytest.approx(1.0)


def test_add_declares_each_blocks_own_vector_times_the_strength():
    found = bind(_step("add"), _artifacts())
    assert all(isinstance(item.schedule, Constant) and item.point == "resid_post" for item in found)
    assert found[0].schedule.vector.tolist() == [2.5, 3.0, 3.5, 4.0]


@pytest.mark.parametrize("mode", ["add", "ablate"])
def test_coefficient_zero_declares_nothing(mode):
    assert bind(_step(mode, coefficient="0.0"), _artifacts()) == ()


@pytest.mark.parametrize("source", [None, -1, 3, "1", True])
def test_a_source_that_is_no_block_is_refused(source):
    with pytest.raises(ArtifactFormatError, match="source_block"):
        bind(_step("ablate"), _artifacts(source_block=source))


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_direction_without_a_length_is_refused(value):
    artifact = _artifacts(torch.full((3, 4), value))["vectors"]
    with pytest.raises(ArtifactFormatError, match="no length"):
        unit_direction(artifact, artifact.tensors[VECTORS_FILE]["theta"])
