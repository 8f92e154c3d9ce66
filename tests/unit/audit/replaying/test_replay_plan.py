"""What a policy becomes on the model of a record."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.guarded_models import policy, registry_for, shared_model

from steerguard.audit.replaying.replay_plan import RecordedModel, Targets
from steerguard.registry.local import LocalDirectory


@pytest.fixture(scope="module")
def store():
    return registry_for(shared_model())


@pytest.fixture(scope="module")
def model(store):
    """The model as a record that pins every artifact of the registry says it."""
    return RecordedModel(
        name="tiny",
        architecture=type(shared_model()).__name__,
        dtype="float32",
        artifacts=tuple((entry.digest, store.pin(entry).manifest.type) for entry in store.entries()),
        policy="sha256:" + "0" * 64,
    )


def test_a_policy_compiles_for_the_model_of_a_record_and_once(store, model):
    targets = Targets(policy(0.0), store)
    target = targets.of(model)
    assert target.reason == ""
    assert len(target.plan.detectors) == 1
    assert targets.of(replace(model)) is target


def test_the_policy_of_the_record_is_known_by_its_digest(store, model):
    other = Targets(policy(0.0), store).of(model)
    assert not other.same_policy
    assert Targets(policy(0.0), store).of(replace(model, policy=other.plan.policy_digest)).same_policy


def test_without_the_artifacts_nothing_is_decided_and_the_reason_is_said(tmp_path, model):
    target = Targets(policy(0.0), LocalDirectory(tmp_path)).of(model)
    assert target.plan is None
    assert "does not compile for its model" in target.reason


def test_a_detector_is_unsure_where_the_record_may_have_read_another_artifact(store, model):
    targets = Targets(policy(0.0), store)
    (detector,) = targets.of(model).plan.detectors
    own = next(one for one in model.artifacts if one[0] == detector.artifact.digest)
    alone = replace(model, artifacts=(own,))
    assert targets.of(alone).unsure == {}
    unknown = ("sha256:" + "f" * 64, None)
    assert "does not say which" in targets.of(replace(model, artifacts=(own, unknown))).unsure[detector.id]
    steering = (unknown[0], "steering_vectors")
    assert targets.of(replace(model, artifacts=(own, steering))).unsure == {}
