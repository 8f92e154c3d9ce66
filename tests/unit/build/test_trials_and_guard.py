"""What a search measures is what the guarded model does with the artifact that was built."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tests.guarded_models import ALWAYS, memory_log, policy

import steerguard
from steerguard.build.contrast import load_contrast
from steerguard.build.trials import steered_answers, steering_of
from steerguard.models.chat import render
from steerguard.registry.local import LocalDirectory, create_registry
from steerguard.testing import tiny_model

DONOR = """\
artifact:
  type: steering_vectors
  donor:
    refusal: I can't help.
    train_blocks: [1, 2]
    steps: 6
    batch_size: 4
    learning_rate: 0.01
    benign_answer_tokens: 3
  blocks: [2, 3]
  strength: "2.0"
  estimator: ESTIMATOR
"""
FITTED = """\
artifact:
  type: steering_vectors
  method: fitted_refusal
  sentences: [I can't help.]
  blocks: [2, 3]
  steps: 5
  batch_size: 2
  learning_rate: 0.5
"""
TOKENS = 9


@pytest.mark.parametrize("kind", ["ssv_minus_srv", "by_phase", "by_step", "fitted_refusal"])
def test_trial_answers_equal_those_of_the_guarded_model(workshop, kind):
    fitted = kind == "fitted_refusal"
    recipe = workshop.recipe(
        FITTED if fitted else DONOR.replace("ESTIMATOR", kind), "refusal-vectors" if fitted else "inferaligner"
    )
    model, built = tiny_model("llama"), workshop.build(recipe)
    harmful = load_contrast(recipe).harmful.split("build").conversations
    tensors = load_file(built.folder / "weights" / "vectors.safetensors")
    vectors = {name: tensor for name, tensor in tensors.items() if name.startswith("theta")}
    strength, positions = (1.0, "all") if fitted else (2.0, "all" if kind == "ssv_minus_srv" else None)

    def answered(steering):
        return steered_answers(
            model, workshop.tokenizer, harmful, steering, tokens=TOKENS, batch_size=4, progress=lambda _done: None
        )

    plain, tried = answered(None), answered(steering_of(vectors, (2, 3), strength, positions))
    create_registry(workshop.folder / "registry")
    registry = LocalDirectory(workshop.folder / "registry")
    registry.add(built.folder)
    log = memory_log()
    document = policy(
        detector=False, rules=ALWAYS, method=kind if fitted else "inferaligner", settings="coefficient: 1.0"
    )
    guarded = steerguard.wrap(model, document, tokenizer=workshop.tokenizer, registry=registry, audit=log)
    batch = render(workshop.tokenizer, harmful)
    new = guarded.generate(**batch, max_new_tokens=TOKENS, do_sample=False)[:, batch["input_ids"].shape[1] :]
    steerguard.unwrap(guarded)
    log.close()
    for row, answer in zip(tried, new, strict=True):
        ids = row[row >= 0].tolist()
        assert answer[: len(ids)].tolist() == ids
    assert not torch.equal(plain, tried)
