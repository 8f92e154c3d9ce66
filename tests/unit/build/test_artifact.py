"""A whole build on a tiny model: contents, determinism, resuming."""

from __future__ import annotations

import json

import pytest
import torch

from steerguard.artifacts.fingerprint import PROMPTS
from steerguard.artifacts.verify import verify_artifact
from steerguard.build import donor_kinds
from steerguard.build.donor import donor_from
from steerguard.errors import BuildError, RecipeError
from steerguard.models.capture import capture_residuals, measure_fingerprint
from steerguard.testing import tiny_model

PROBE = """\
artifact:
  type: probe
  blocks: [0, 1]
  estimator: lda
  folds: 2
  calibration_weights: float32
"""
EFFECT = {
    "command": "measure",
    "weights": "float32",
    "max_new_tokens": 8,
    "figures": [{"id": "x", "title": "gate opens", "set": "held-out rows", "value": "0.5000", "n": 4}],
    "notes": ["A note."],
}


def files_of(built):
    return {
        path.relative_to(built.folder).as_posix(): path.read_bytes()
        for path in built.folder.rglob("*")
        if path.is_file()
    }


def test_a_steering_artifact_verifies_and_is_bound_to_the_model(workshop):
    built = workshop.build(workshop.recipe())
    artifact = verify_artifact(files_of(built), built.digest)
    tensors = artifact.tensors["weights/vectors.safetensors"]
    assert tensors["theta"].shape == (4, 32)
    assert not tensors["theta"][:2].any()
    assert tensors["theta"][2:].any(dim=1).all()
    assert torch.allclose(tensors["srv"].norm(dim=1), torch.ones(4), atol=1e-5)
    assert artifact.manifest.base.num_blocks == 4
    assert artifact.manifest.params == {"blocks": [2, 3], "strength": "0.5", "positions": "all"}
    recorded = artifact.tensors["weights/fingerprint.float32.safetensors"]["directions"]
    assert torch.equal(recorded, measure_fingerprint(tiny_model("llama"), workshop.tokenizer, [1, 2, 3], PROMPTS))


def test_a_probe_artifact_carries_its_calibration(workshop):
    built = workshop.build(workshop.recipe(PROBE, "harmful-intent"))
    artifact = verify_artifact(files_of(built), built.digest)
    probe = artifact.tensors["weights/probe.safetensors"]
    assert (probe["weight"].shape, probe["bias"].shape) == ((2, 32), (2,))
    rows = [json.loads(line) for line in (workshop.folder / "benign.jsonl").read_text().splitlines()]
    chats = [row["messages"] for row in rows if row["split"] == "calibration"]
    states = capture_residuals(tiny_model("llama"), workshop.tokenizer, chats, [0, 1], batch_size=4)
    scores = ((states * probe["weight"]).sum(-1) + probe["bias"]).mean(-1)
    assert artifact.calibration.n == 4
    assert [float(text) for text in artifact.calibration.benign_scores] == pytest.approx(
        sorted(scores.tolist()), rel=1e-4
    )


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(workshop):
    first, again = workshop.build(workshop.recipe()), workshop.build(workshop.recipe())
    assert first.digest == again.digest
    other = workshop.build(workshop.recipe(**{"seed: 3": "seed: 4"}))
    assert files_of(other)["weights/vectors.safetensors"] != files_of(first)["weights/vectors.safetensors"]


def test_a_build_leaves_the_model_as_it_was(workshop):
    model = tiny_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    workshop.build(workshop.recipe(), model=model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(block._forward_hooks for block in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_killed_build_continues_after_the_donor_training(workshop, monkeypatch):
    cache = workshop.folder / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(donor_kinds, "donor_from", _killed)
        with pytest.raises(KeyboardInterrupt):
            workshop.build(workshop.recipe(), cache=cache)
    resumed = workshop.build(workshop.recipe(), cache=cache)
    assert "donor" in resumed.reused_steps
    assert resumed.digest == workshop.build(workshop.recipe()).digest


def test_changed_settings_do_not_reuse_the_donor(workshop):
    cache = workshop.folder / "cache"
    workshop.build(workshop.recipe(), cache=cache)
    again = workshop.build(workshop.recipe(**{"steps: 2": "steps: 3"}), cache=cache)
    assert "donor" not in again.reused_steps
    assert "own-answers" in again.reused_steps


def test_figures_reach_card_and_benchmarks_but_not_the_weights(workshop):
    plain, measured = workshop.build(workshop.recipe()), workshop.build(workshop.recipe(), effect=EFFECT)
    files = files_of(measured)
    assert "| gate opens | held-out rows | 0.5000 | – | 4 |" in files["README.md"].decode()  # noqa: RUF001
    assert json.loads(files["benchmarks.json"])["effect"]["figures"] == EFFECT["figures"]
    assert files["weights/vectors.safetensors"] == files_of(plain)["weights/vectors.safetensors"]
    assert "Not yet measured" in files_of(plain)["README.md"].decode()


def test_blocks_that_the_model_lacks_are_refused_by_field(workshop):
    with pytest.raises(RecipeError) as caught:
        workshop.build(workshop.recipe(**{"train_blocks: [1, 2]": "train_blocks: [1, 9]"}))
    assert caught.value.where == "artifact.donor.train_blocks"


def test_steering_before_the_donor_differs_is_refused(workshop):
    with pytest.raises(BuildError, match="does not differ"):
        workshop.build(workshop.recipe(**{"  blocks: [2, 3]\n  strength": "  blocks: [0, 3]\n  strength"}))


def test_a_donor_copy_holds_what_moved_and_nothing_else():
    model = tiny_model("llama")
    name = "mlp.up_proj.weight"
    moved = {f"1.{name}": torch.zeros_like(model.model.layers[1].get_parameter(name))}
    donor = donor_from(model, moved)
    assert not donor.model.layers[1].get_parameter(name).any()
    assert torch.equal(donor.model.layers[2].get_parameter(name), model.model.layers[2].get_parameter(name))


def _killed(*_arguments):
    raise KeyboardInterrupt
