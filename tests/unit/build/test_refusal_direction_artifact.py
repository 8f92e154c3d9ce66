"""Builds of refusal directions: the difference of means of every block, and what the manifest says of each mode."""

from __future__ import annotations

import json

import pytest
import torch

from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import RecipeError
from steerguard.models.answer_means import capture_answer_means
from steerguard.models.capture import capture_residuals
from steerguard.models.chat import render
from steerguard.testing import tiny_model

DIRECTION = """\
artifact:
  type: steering_vectors
  method: refusal_direction
  blocks: [2]
  strength: "1.5"
"""
DONOR = """\
  donor:
    refusal: I can't help.
    train_blocks: [1, 2]
    steps: 2
    batch_size: 4
    learning_rate: 0.01
    benign_answer_tokens: 3
"""
ANSWERS = """\
  contrast: answers
  wordings: [I can't help., No.]
"""


def verified(built):
    files = {path.relative_to(built.folder).as_posix(): path for path in built.folder.rglob("*") if path.is_file()}
    return verify_artifact({name: path.read_bytes() for name, path in files.items()}, built.digest)


def test_theta_is_the_difference_of_means_at_every_block(workshop):
    artifact = verified(workshop.build(workshop.recipe(DIRECTION, "refusal-direction")))
    means = []
    for name in ("harmful", "benign"):
        rows = [json.loads(line) for line in (workshop.folder / f"{name}.jsonl").read_text().splitlines()]
        chats = [row["messages"] for row in rows if row["split"] == "build"]
        states = capture_residuals(tiny_model("llama"), workshop.tokenizer, chats, range(4), batch_size=4)
        means.append(states.double().mean(dim=0))
    theta = artifact.tensors["weights/vectors.safetensors"]["theta"]
    assert torch.allclose(theta, (means[0] - means[1]).float(), atol=1e-5)
    assert theta.any(dim=1).all()


def test_the_manifest_says_what_each_mode_acts_on(workshop):
    artifact = verified(workshop.build(workshop.recipe(DIRECTION, "refusal-direction")))
    assert artifact.manifest.method == "refusal_direction"
    assert artifact.manifest.params == {
        "ablated_blocks": [0, 1, 2, 3],
        "blocks": [2],
        "positions": "all",
        "source_block": 2,
        "strength": "1.5",
    }
    assert {"operator.ablate", "hook.resid_pre"} < set(artifact.manifest.requires.features)
    assert "Nothing was trained or fitted." in artifact.card
    assert "takes refusals away" in artifact.card


def test_a_donor_is_read_in_place_of_the_model(workshop):
    file = "weights/vectors.safetensors"
    own = verified(workshop.build(workshop.recipe(DIRECTION, "refusal-direction")))
    donors = verified(workshop.build(workshop.recipe(DIRECTION + DONOR, "refusal-direction")))
    assert (own.tensors[file]["theta"] != donors.tensors[file]["theta"]).any()
    assert donors.manifest.aligned_sibling.discarded
    assert "The means are those of the donor." in donors.card


def test_kinds_that_are_left_out_are_named_and_change_the_means(workshop):
    file = "weights/vectors.safetensors"
    all_kinds = verified(workshop.build(workshop.recipe(DIRECTION, "refusal-direction")))
    limited = verified(
        workshop.build(workshop.recipe(DIRECTION + "  harmful_kinds_left_out: [odd]\n", "refusal-direction"))
    )
    assert (all_kinds.tensors[file]["theta"] != limited.tensors[file]["theta"]).any()
    assert "2 harmful and 4 benign prompts" in limited.card
    assert "kinds odd left out" in limited.card


def test_answers_contrast_the_model_refusing_with_the_model_answering(workshop):
    artifact = verified(workshop.build(workshop.recipe(DIRECTION + ANSWERS, "refusal-direction")))
    rows = [json.loads(line) for line in (workshop.folder / "harmful.jsonl").read_text().splitlines()]
    chats = [row["messages"] for row in rows if row["split"] == "build"]
    model, tokenizer = tiny_model("llama"), workshop.tokenizer
    refusals = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("I can't help.", "No.")]
    longest = max(map(len, refusals))
    inputs = render(tokenizer, chats)
    own = model.generate(**inputs, max_new_tokens=longest, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    forced = [refusals[number % 2] for number in range(len(chats))]
    refusing, answering = (
        capture_answer_means(model, tokenizer, chats, answers, range(4), batch_size=4).steps.double().mean(dim=0)
        for answers in (forced, own.tolist())
    )
    theta = artifact.tensors["weights/vectors.safetensors"]["theta"]
    assert torch.allclose(theta, (refusing - answering).float(), atol=1e-5)
    assert "4 harmful prompts" in artifact.card
    assert "no other model was read" in artifact.card
    assert "may repeat themselves" in artifact.card


def test_fewer_response_tokens_read_less_of_the_own_answers(workshop):
    file = "weights/vectors.safetensors"
    whole, one = (
        verified(workshop.build(workshop.recipe(DIRECTION + ANSWERS + more, "refusal-direction")))
        for more in ("", "  response_tokens: 1\n")
    )
    assert (whole.tensors[file]["theta"] != one.tensors[file]["theta"]).any()
    assert "the first 1 tokens" in one.card


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ("  contrast: answers\n", "artifact.wordings"),
        ("  wordings: [No.]\n", "artifact.wordings"),
        ("  response_tokens: 3\n", "artifact.response_tokens"),
        (ANSWERS.replace("No.", "I can't help."), "artifact.wordings"),
        (ANSWERS + DONOR, "artifact.donor"),
        (ANSWERS + "  benign_kinds_left_out: [odd]\n", "artifact.benign_kinds_left_out"),
        (DONOR + "  max_prompts: 3\n", "artifact.donor"),
        ("  estimator: ssv\n", "artifact.estimator"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(workshop, more, named):
    with pytest.raises(RecipeError, match=named):
        workshop.recipe(DIRECTION + more, "refusal-direction")
