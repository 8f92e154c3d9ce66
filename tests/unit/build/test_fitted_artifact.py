"""A whole build of fitted vectors: what the artifact holds, what its card says, and resuming."""

from __future__ import annotations

import json

import pytest

from steerguard.artifacts.verify import verify_artifact
from steerguard.build import fitted_refusal
from steerguard.errors import RecipeError

FITTED = """\
artifact:
  type: steering_vectors
  method: fitted_refusal
  sentences: [I can't help., Sorry. I am unable to.]
  blocks: [2, 3]
  steps: 3
  batch_size: 2
  learning_rate: 0.1
"""
FROM_DONOR = """\
  start: donor
  donor:
    refusal: I can't help.
    train_blocks: [1, 2]
    steps: 2
    batch_size: 4
    learning_rate: 0.01
    benign_answer_tokens: 3
"""


def verified(built):
    files = {path.relative_to(built.folder).as_posix(): path for path in built.folder.rglob("*") if path.is_file()}
    return verify_artifact({name: path.read_bytes() for name, path in files.items()}, built.digest)


def test_a_fitted_artifact_holds_theta_alone_under_its_own_method(workshop):
    artifact = verified(workshop.build(workshop.recipe(FITTED, "refusal-vectors")))
    assert artifact.manifest.method == "fitted_refusal"
    assert "gate.linear" not in artifact.manifest.requires.features
    assert artifact.manifest.aligned_sibling is None
    tensors = artifact.tensors["weights/vectors.safetensors"]
    assert set(tensors) == {"theta"}
    assert not tensors["theta"][:2].any()
    assert tensors["theta"][2:].any(dim=1).all()
    assert "2 refusal sentences" in artifact.card
    assert "cross entropy of the sentences" in artifact.card


def test_a_start_from_a_donor_gives_other_vectors_and_says_so(workshop):
    plain = verified(workshop.build(workshop.recipe(FITTED, "refusal-vectors")))
    started = verified(workshop.build(workshop.recipe(FITTED + FROM_DONOR, "refusal-vectors")))
    file = "weights/vectors.safetensors"
    assert (plain.tensors[file]["theta"] != started.tensors[file]["theta"]).any()
    assert started.manifest.aligned_sibling.discarded
    assert "0.5 times the donor's difference" in started.card


def test_kept_benign_answers_are_read_once_and_named_in_the_card(workshop):
    recipe = workshop.recipe(FITTED + "  keep_weight: 0.5\n  keep_answer_tokens: 3\n", "refusal-vectors")
    cache = workshop.folder / "cache"
    first = workshop.build(recipe, cache=cache)
    again = workshop.build(recipe, cache=cache)
    assert first.digest == again.digest
    assert again.reused_steps[0] == "fitted-refusal"
    assert "its own answers to 4 benign prompts, weight 0.5" in verified(first).card


def test_kinds_and_numbers_of_prompts_can_be_limited_and_the_card_says_so(workshop):
    limits = "  harmful_kinds_left_out: [odd]\n  max_prompts: 3\n  keep_weight: 0.5\n  keep_answer_tokens: 3\n"
    plain = verified(workshop.build(workshop.recipe(FITTED, "refusal-vectors")))
    built = workshop.build(workshop.recipe(FITTED + limits, "refusal-vectors"))
    limited = verified(built)
    assert "4 harmful prompts of the project's own contrast set, split `build`." in plain.card
    assert "2 harmful prompts of the project's own contrast set, split `build`, kinds odd left out." in limited.card
    assert "its own answers to 3 benign prompts" in limited.card
    figures = json.loads((built.folder / "benchmarks.json").read_text())["build"]
    assert {figure["n"] for figure in figures} == {2}
    file = "weights/vectors.safetensors"
    assert (plain.tensors[file]["theta"] != limited.tensors[file]["theta"]).any()


def test_limits_that_leave_every_prompt_in_change_no_tensor(workshop):
    file = "weights/vectors.safetensors"
    limits = "  harmful_kinds_left_out: []\n  max_prompts: 4\n"
    theta = [
        verified(workshop.build(workshop.recipe(text, "refusal-vectors"))).tensors[file]["theta"]
        for text in (FITTED, FITTED + limits)
    ]
    assert theta[0].equal(theta[1])


@pytest.mark.parametrize(("field", "name"), [("harmful_kinds_left_out", "harmful"), ("keep_kinds_left_out", "benign")])
def test_leaving_out_every_kind_is_refused_by_the_name_of_the_field(workshop, field, name):
    text = FITTED + f"  keep_weight: 0.5\n  {field}: [odd, even]\n"
    with pytest.raises(RecipeError, match=f"No {name} prompts are left") as caught:
        workshop.build(workshop.recipe(text, "refusal-vectors"))
    assert caught.value.where == f"artifact.{field}"


def test_fewer_than_two_prompts_are_refused(workshop):
    with pytest.raises(RecipeError, match="max_prompts"):
        workshop.recipe(FITTED + "  max_prompts: 1\n", "refusal-vectors")


def test_a_killed_fit_starts_again_and_gives_the_same_bytes(workshop, monkeypatch):
    recipe, cache = workshop.recipe(FITTED + FROM_DONOR, "refusal-vectors"), workshop.folder / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(fitted_refusal, "fit_vectors", _killed)
        with pytest.raises(KeyboardInterrupt):
            workshop.build(recipe, cache=cache)
    resumed = workshop.build(recipe, cache=cache)
    assert "donor-residuals" in resumed.reused_steps
    assert resumed.digest == workshop.build(recipe).digest


def _killed(*_arguments, **_settings):
    raise KeyboardInterrupt
