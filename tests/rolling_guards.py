"""Rolling guards for tests: policies that watch answers, and what is read there told without the engine."""

from __future__ import annotations

import torch
from tests.guarded_models import (
    TEMPLATE,
    blocks_of,
    guarded,
    policy,
    registry_for,
    run,
    tokenizer,
)

from steerguard.artifacts.verify import verify_artifact
from steerguard.engine.refusal import RefusalTemplate

UNREACHED = 1e6
WATCHED = """
rules:
  - {id: r, when: {always: true}, then: {action: guide, use: [watch]}}
default: {action: allow}"""
STEER = "  - {id: push, method: fitted_refusal, artifact: refusal-vectors@^1, coefficient: 4.0}\n"


def rolling(
    threshold,
    *,
    every=2,
    first=1,
    in_a_row=1,
    then="",
    steering="",
    rules=WATCHED,
    detector=False,
    more="",
    family="harmful-intent",
    **named,
):
    bound = threshold if isinstance(threshold, str) else f"{{value: {threshold:.9f}}}"
    when = f"threshold: {bound}, every: {every}, first: {first}, in_a_row: {in_a_row}{then}"
    entry = f"{{id: watch, method: rolling_guard, artifact: {family}@^1, {when}}}"
    return policy(rules=rules, detector=detector, more=f"guidance:\n  - {entry}\n{steering}{more}", **named)


def opening(threshold, **named):
    return rolling(threshold, then=", then: open, opens: [push]", steering=STEER, **named)


def highest(model, batch, **named):
    """The highest score of each row's answer, read while nothing can be reached."""
    settings = {key: named.pop(key) for key in ("max_new_tokens", "do_sample", "num_return_sequences") if key in named}
    registry = named.pop("registry", None)
    _, reports = watched(model, rolling(UNREACHED, **named), batch, registry=registry, mode="monitor", **settings)
    return [report.readings[-1].score for report in reports]


def split(model, batch, **named):
    """A threshold that some rows reach and some do not."""
    scores = sorted(highest(model, batch, **named))
    return (scores[len(scores) // 2 - 1] + scores[len(scores) // 2]) / 2


def watched(model, document, batch, *, registry=None, mode=None, **settings):
    with guarded(model, document, registry=registry, mode=mode) as wrapped, wrapped.guard.collect() as reports:
        found = run(wrapped, batch, **settings)
        assert wrapped.guard.hooked_blocks == ()
    return found, reports


def refused_ids(limit=12):
    """The template as a row of that many tokens holds it."""
    return list(RefusalTemplate(TEMPLATE, tokenizer()).fit(limit, None).ids)


def probe_of(model):
    pin = registry_for(model).pinned("harmful-intent")[0]
    artifact = verify_artifact(registry_for(model).read(pin), pin.digest, where="test")
    return artifact.tensors["weights/probe.safetensors"]["weight"].double(), artifact.manifest.params["blocks"]


def hidden_states(model, tokens, mask, blocks):
    """Outputs of blocks for whole sequences, `[blocks, rows, columns, width]`, read with hooks of our own."""
    whole = torch.cat([mask, mask.new_ones(mask.shape[0], tokens.shape[1] - mask.shape[1])], dim=1)
    positions = (whole.cumsum(-1) - 1).clamp(min=0)
    found = {}
    handles = [
        blocks_of(model)[block].register_forward_hook(
            lambda _module, _args, output, block=block: found.update(
                {block: output[0] if isinstance(output, tuple) else output}
            )
        )
        for block in blocks
    ]
    with torch.no_grad():
        model(input_ids=tokens, attention_mask=whole, position_ids=positions)
    for handle in handles:
        handle.remove()
    return torch.stack([found[block] for block in blocks])
