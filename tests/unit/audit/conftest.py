"""Decisions, keys and logs that several audit tests use."""

from __future__ import annotations

import os
import threading

import pytest

from steerguard.audit.privacy.content import token_content
from steerguard.audit.privacy.keys import ContentKey
from steerguard.audit.records.fields import ArtifactPin, ModelReference, PolicyReference
from steerguard.audit.records.record import DecisionContext, decision_event
from steerguard.decision import Decision, Dose, Reading, Threshold, Usage

DIGEST = "sha256:" + "a" * 64


@pytest.fixture(autouse=True)
def _no_keys_in_the_environment(monkeypatch):
    for name in ("STEERGUARD_AUDIT_KEY", "STEERGUARD_CHECKPOINT_KEY", "STEERGUARD_AUDIT_SEALING_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def key():
    return ContentKey(bytes(range(32)))


@pytest.fixture(scope="session")
def context():
    return DecisionContext(
        policy=PolicyReference(name="harmlessness", version="1.0.0", digest=DIGEST),
        plan=DIGEST,
        model=ModelReference(name="tiny", architecture="LlamaForCausalLM", dtype="float32"),
        artifacts=(ArtifactPin(ref="harmful-intent/tiny@1.0.0", digest=DIGEST),),
    )


@pytest.fixture(scope="session")
def decide():
    """Make a decision; keyword arguments replace its fields."""

    def make(**changes):
        fields = {
            "request": "request-1",
            "row": 0,
            "mode": "enforce",
            "readings": (
                Reading(
                    source="harm",
                    score=0.1 + 0.2,
                    thresholds=(
                        Threshold(rule="block", bound="at_least", value=5.25, fpr="0.001"),
                        Threshold(rule="steer", bound="at_least", value=0.25),
                        Threshold(rule="steer", bound="below", value=5.25, fpr="0.001"),
                    ),
                ),
                Reading(source="align/block 3", score=1e-07),
            ),
            "rules": ("steer",),
            "cause": "rule",
            "intended": "guide",
            "applied": "guide",
            "doses": (
                Dose(
                    step="align",
                    method="inferaligner",
                    open_blocks=(3, 4),
                    coefficient="1.0",
                    positions=24,
                    expected_positions=24,
                ),
            ),
            "usage": Usage(prompt_tokens=8, generated_tokens=4, extra_forward_tokens=0),
        }
        return Decision(**{**fields, **changes})

    return make


@pytest.fixture
def allow(decide, context):
    """A decision that need not be durable at once."""
    return decision_event(decide(), context, content=token_content(None, [1, 2], [3]))


@pytest.fixture
def refuse(decide, context):
    """A decision that is durable at once."""
    return decision_event(decide(applied="refuse"), context, content=token_content(None, [1, 2], [3]))


@pytest.fixture
def syncs(monkeypatch):
    """Count the syncs of regular files, by their threads."""
    calls, sync = [], os.fdatasync

    def counting(descriptor):
        calls.append(threading.current_thread())
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", counting)
    return calls
