"""Tiny models whose answers a tiny judge of texts judges, through artifacts with pinned files."""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

from tests.guarded_models import guarded, registry_for, tokenizer
from tests.text_judges import (
    bert_classifier,
    bert_encoder,
    classifier_settings,
    embedding_settings,
    guardian,
    guardian_settings,
    inputs,
    pinned,
    saved,
)

from steerguard.artifacts.codec import write_artifact
from steerguard.artifacts.fingerprint import PROMPTS
from steerguard.artifacts.verify import verify_artifact
from steerguard.critics.guardian_logits import GuardianCost
from steerguard.critics.sequence_classifier import SequenceClassifierCost
from steerguard.policy.load import parse_policy
from steerguard.registry.local import create_registry

_HOME = tempfile.TemporaryDirectory(prefix="steerguard-judges-")
_MADE: dict[str, int] = {}


def _folder(name):
    _MADE[name] = _MADE.get(name, 0) + 1
    return Path(_HOME.name) / f"{name}-{_MADE[name]}"


def guardian_registry(model, **settings):
    """A registry whose `harm-cost` is a guardian, and that guardian in memory."""
    judge, own = guardian()
    chosen = guardian_settings(**settings)
    registry = _registry(model, "guardian_logits", chosen, saved(_folder("guardian"), judge, own))
    return registry, GuardianCost(name="in memory", settings=chosen, model=judge, tokenizer=own)


def classifier_registry(model, **settings):
    """A registry whose `harm-cost` is a classifier of prompt and answer, and that classifier in memory."""
    judge = bert_classifier()
    chosen = classifier_settings(**{"output": "log_odds", "labels": ("harm",)} | settings)
    registry = _registry(model, "sequence_classifier", chosen, saved(_folder("classifier"), judge))
    return registry, SequenceClassifierCost(name="in memory", settings=chosen, model=judge, tokenizer=tokenizer())


def embedding_registry(model, head):
    """A registry whose `harm-cost` is an embedding with a head: float32 `weight` `[width]` and `bias` `[1]`."""
    folder = saved(_folder("embedding"), bert_encoder())
    return _registry(model, "embedding_head", embedding_settings(), folder, head={"weights/head.safetensors": head})


def _registry(model, method, settings, folder, *, head=None):
    source = registry_for(model)
    pin = source.pinned("harm-cost")[0]
    fields = json.loads(pin.manifest.model_dump_json(exclude={"files"}, exclude_unset=True))
    params = json.loads(settings.model_dump_json(exclude_unset=True))
    params["model"] = json.loads(pinned(folder).model_dump_json(exclude_unset=True))
    fields |= {"method": method, "params": params, "requires": {"sdk": ">=0.1", "features": [f"cost.{method}"]}}
    kept = verify_artifact(source.read(pin), pin.digest).tensors
    fingerprints = {entry["file"]: kept[entry["file"]] for entry in fields["fingerprints"]}
    assert all(entry["prompts"] == len(PROMPTS) for entry in fields["fingerprints"])
    artifact = _folder("artifact")
    write_artifact(artifact, fields, fingerprints | (head or {}), None, None, "# Judge for tests\n", None)
    registry = create_registry(_folder("registry"))
    registry.add(artifact)
    return registry


def guardian_policy(cost_budget, check="[input, output]", *, mode="enforce"):
    """A policy under which a guardian judges every row."""
    return parse_policy(
        f"""
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {{name: guardian, version: 1.0.0, description: for tests, owner: tests}}
mode: {mode}
target: {{modalities: [text]}}
guidance:
  - {{id: search, method: guardian, critic: harm-cost@^1, check: {check}, cost_budget: {{value: {cost_budget}}}}}
rules:
  - {{id: r, when: {{always: true}}, then: {{action: guide, use: [search]}}}}
default: {{action: allow}}
budget: {{max_added_latency_ms: 600000}}
refusal: {{template: "I cannot help with that."}}
""",
        file="guardian.yaml",
    )


@contextmanager
def judged(model, document, registry, **named):
    """The model under a policy with a judge of texts; the reports of all calls inside are gathered."""
    with guarded(model, document, registry=registry, **named) as wrapped, wrapped.guard.collect() as reports:
        yield wrapped, reports


def cost_of(judge, prompt, answer):
    """What one answer costs by a judge in memory."""
    return float(judge.cost(inputs([prompt], [answer]))[0])
