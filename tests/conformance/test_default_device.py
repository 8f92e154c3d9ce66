"""An app that has set another default device of torch: wrapping, generating and scoring go where the model lies."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import conversation, fresh_model, guarded, policy, prompts, registry_for, run
from tests.rolling_guards import opening, rolling

BATCH = prompts(3)
GUIDED = policy(-1e6)
DOCUMENTS = {
    "constant": (GUIDED, {}),
    "by phase": (GUIDED, {"schedule": "by_phase"}),
    "by step": (GUIDED, {"schedule": "by_step"}),
    "refused": (policy(-1e6, "refuse"), {}),
    "operator": (policy(-1e6, method="refusal_direction", settings="mode: ablate, coefficient: 1.0"), {}),
    "rolling": (rolling(6.0), {}),
    "opening": (opening(6.0), {}),
}


@pytest.mark.parametrize("settings", [{}, {"prefill_chunk_size": 5}])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_another_default_device_changes_no_answer(name, settings):
    document, schedule = DOCUMENTS[name]
    model = fresh_model()
    registry = registry_for(model, **schedule)
    with guarded(model, document, registry=registry) as wrapped:
        expected, _ = run(wrapped, BATCH, **settings)
    with torch.device("meta"), guarded(model, document, registry=registry) as wrapped:
        found, _ = run(wrapped, BATCH, **settings)
        wrapped.guard.check(conversation("hello there"))
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["constant", "by phase", "by step", "refused", "operator"])
def test_another_default_device_changes_no_scored_logits(name):
    document, schedule = DOCUMENTS[name]
    model = fresh_model()
    with guarded(model, document, registry=registry_for(model, **schedule)) as wrapped:
        with wrapped.guard.forward():
            expected = wrapped(**BATCH, logits_to_keep=[0, 3]).logits
        with torch.device("meta"), wrapped.guard.forward():
            found = wrapped(**BATCH, logits_to_keep=[0, 3]).logits
    assert torch.equal(found, expected)
