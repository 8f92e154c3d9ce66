"""InferAligner against an independent reference: plain hooks with plain arithmetic on the same model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tests.guarded_models import (
    answers,
    blocks_of,
    guarded,
    policy,
    prompts,
    registry_for,
    run,
    scores_of,
    shared_model,
    splitting_threshold,
)

from steerguard.errors import ArtifactFormatError
from steerguard.guidance.inferaligner.bind import bind
from steerguard.guidance.intervention import LinearGate, VerdictGate
from steerguard.guidance.vector_schedules import VECTORS_FILE

STRENGTH, COEFFICIENT = 0.75, 3.0


def _artifacts(model):
    from steerguard.artifacts.verify import verify_artifact

    registry = registry_for(model, strength=str(STRENGTH))
    found = {}
    for family in registry.families():
        (pin,) = registry.pinned(family)
        found[family] = verify_artifact(registry.read(pin), pin.digest)
    return registry, found


def _reference(  # noqa: C901 - written out in one place on purpose
    model, batch, opened, theta, srv, bias, *, per_block, positions, probe=None
):
    """Greedy decoding without a cache, every step from scratch, every operation written out."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    width = ids.shape[1]
    gates, logits, scores = {}, [], []

    def hook(block):
        def act(_module, _inputs, output):
            if probe is not None and block in probe[0] and output.shape[1] == width:
                index = probe[0].index(block)
                scores.append((output[:, width - 1] * probe[1][index]).sum(-1) + probe[2][index])
            if block not in (1, 2):
                return None
            if block not in gates:
                gate = opened.clone()
                if per_block:
                    gate &= (output[:, width - 1] @ srv[block]) + bias[block] > 0
                gates[block] = gate
            changed = output.clone()
            for row in range(len(ids)):
                for column in range(output.shape[1]):
                    in_prompt = column < width
                    counts = (not in_prompt) or bool(mask[row, column])
                    wanted = {
                        "all": counts,
                        "decode": not in_prompt,
                        "prefill": in_prompt and counts,
                        "last_prompt_token_and_decode": column >= width - 1,
                    }[positions]
                    if wanted and gates[block][row]:
                        changed[row, column] += COEFFICIENT * STRENGTH * theta[block]
            return changed

        return act

    handles = [blocks_of(model)[block].register_forward_hook(hook(block)) for block in range(4)]
    with torch.no_grad():
        for _ in range(5):
            place = (mask.cumsum(-1) - 1).clamp(min=0)
            step = model(input_ids=ids, attention_mask=mask, position_ids=place, use_cache=False).logits[:, -1].float()
            logits.append(step)
            ids = torch.cat([ids, step.argmax(-1, keepdim=True)], dim=1)
            mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=mask.dtype)], dim=1)
    for handle in handles:
        handle.remove()
    return ids, logits, gates, scores


@pytest.mark.parametrize("gate", ["verdict", "per_block"])
@pytest.mark.parametrize("positions", ["all", "last_prompt_token_and_decode", "decode", "prefill"])
def test_guided_logits_equal_a_reference_written_out_by_hand(positions, gate):
    model = shared_model("llama")
    registry, artifacts = _artifacts(model)
    vectors = artifacts["inferaligner"].tensors[VECTORS_FILE]
    probe = artifacts["harmful-intent"].tensors["weights/probe.safetensors"]
    batch = prompts(6)
    threshold = splitting_threshold()
    opened = torch.tensor(scores_of(model, batch)) >= threshold
    assert 0 < opened.sum() < 6
    ids, logits, gates, parts = _reference(
        model,
        batch,
        opened,
        vectors["theta"],
        vectors["srv"],
        vectors["gate_bias"],
        per_block=gate == "per_block",
        positions=positions,
        probe=((0, 1), probe["weight"], probe["bias"]),
    )
    settings = f"coefficient: {COEFFICIENT}, gate: {gate}, positions: {positions}"
    with (
        guarded(model, policy(threshold, settings=settings), registry=registry) as wrapped,
        wrapped.guard.collect() as reports,
    ):
        tokens, found = run(wrapped, batch, max_new_tokens=5, eos_token_id=None)
    assert torch.equal(tokens, ids)
    for one, other in zip(found, logits, strict=True):
        assert (one - other).abs().max() < 1e-4
    assert (found[0] - logits[0]).abs().max() < 1e-5
    by_hand = sum(parts[:2]) / 2
    for row, report in enumerate(reports):
        assert abs(report.readings[0].score - by_hand[row].item()) < 1e-5
        wanted = tuple(block for block in (1, 2) if gates[block][row])
        assert (report.doses[0].open_blocks if report.doses else ()) == wanted


def test_doubling_the_coefficient_equals_doubling_the_strength():
    model = shared_model()
    weak, strong = registry_for(model, strength="0.5"), registry_for(model, strength="1.0")
    with guarded(model, policy(-1e6, settings="coefficient: 2.0"), registry=weak) as wrapped:
        one = run(wrapped, prompts(4))
    with guarded(model, policy(-1e6, settings="coefficient: 1.0"), registry=strong) as wrapped:
        other = run(wrapped, prompts(4))
    assert torch.equal(one[0], other[0])


def test_two_steps_on_the_same_blocks_add_up():
    model = shared_model()
    rules = """
  - {id: again, method: inferaligner, artifact: inferaligner@^1, coefficient: 1.0}
rules:
  - {id: r, when: {always: true}, then: {action: guide, use: [steer, again]}}
default: {action: allow}"""
    document = policy(rules=rules, settings="coefficient: 2.0", detector=False)
    with guarded(model, document) as wrapped, wrapped.guard.collect() as reports:
        both = run(wrapped, prompts(4))
    with guarded(model, policy(-1e6, settings="coefficient: 3.0")) as wrapped:
        once = run(wrapped, prompts(4))
    width = prompts(4)["input_ids"].shape[1]
    assert answers(both[0], width) == answers(once[0], width)
    assert torch.allclose(both[1][0], once[1][0], atol=1e-4)
    assert [[dose.step for dose in report.doses] for report in reports] == [["steer", "again"]] * 4


def _step(**changes):
    fields = {
        "id": "steer",
        "blocks": (1, 2),
        "read_blocks": (),
        "strength": "0.5",
        "coefficient": "2.0",
        "positions": "all",
        "first_steps": None,
        "modality_tokens": "include",
    }
    return SimpleNamespace(**(fields | changes))


def _artifact(**changes):
    tensors = {"theta": torch.ones(4, 8), "srv": torch.ones(4, 8), "gate_bias": torch.arange(4.0), **changes}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    manifest = SimpleNamespace(base=SimpleNamespace(num_blocks=4, hidden_size=8), params={})
    return {"vectors": SimpleNamespace(tensors={VECTORS_FILE: tensors}, manifest=manifest)}


def test_bind_declares_one_intervention_per_block():
    found = bind(_step(), _artifact())
    assert [(item.block, item.point, item.source) for item in found] == [
        (1, "resid_post", "steer/block 1"),
        (2, "resid_post", "steer/block 2"),
    ]
    assert all(isinstance(item.gate, VerdictGate) for item in found)
    assert all(torch.equal(item.schedule.vector, torch.ones(8)) for item in found)


def test_bind_gives_per_block_gates_their_own_bias():
    found = bind(_step(read_blocks=(1, 2)), _artifact())
    assert [item.gate.bias for item in found] == [1.0, 2.0]
    assert all(isinstance(item.gate, LinearGate) for item in found)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"theta": None}, "theta"),
        ({"srv": None}, "srv"),
        ({"theta": torch.zeros(4, 8)}, "blocks \\[1, 2\\]"),
        ({"theta": torch.ones(4, 1)}, "theta"),
        ({"theta": torch.ones(2, 8)}, "theta"),
        ({"srv": torch.ones(4, 1)}, "srv"),
        ({"gate_bias": torch.ones(4, 1)}, "gate_bias"),
    ],
)
def test_bind_refuses_tensors_that_do_not_fit(changes, named):
    with pytest.raises(ArtifactFormatError, match=named):
        bind(_step(), _artifact(**changes))
