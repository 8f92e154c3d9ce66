"""A tiny build of a critic: what the artifact holds, that it binds, builds again, and which cost model it accepts."""

from __future__ import annotations

import csv
import hashlib

import pytest
import torch

from steerguard.artifacts.cost_params import COST_FILE
from steerguard.artifacts.critic_params import critic_params
from steerguard.artifacts.verify import verify_artifact
from steerguard.build.artifact import build_artifact
from steerguard.critics.cost import CostInputs
from steerguard.critics.safety_value import CRITIC_FILE, bind_critic
from steerguard.errors import CalibrationError, EvaluationError, RecipeError
from steerguard.evaluate.independence import AskedFile, JudgeFiles, check_independence, training_files
from steerguard.registry.local import create_registry
from steerguard.testing import tiny_model

COST = """\
artifact:
  type: cost_model
  blocks: [1, 2]
  inverse_penalty: 0.1
  folds: 2
  prefixes: [2, 4]
  labelled:
    - responses: {path: labelled.csv, sha256: SHA256}
      rows: all
      tokens: 6
  answers: {tokens: 6, max_harmful_prompts: 0, max_calibration_prompts: 4}
  weights: float32
  calibration_weights: float32
"""
CRITIC = """\
artifact:
  type: critic
  cost_model: {artifact: harm-cost/tiny@1.0.0, digest: DIGEST, registry: registry}
  rollouts:
    per_prompt: 3
    tokens: 8
    block_tokens: 2
    temperature: 1.0
    begin: [Sure]
    begin_share: 0.5
    off_policy: {per_prompt: 1, temperature: 2.0, tokens: 2}
  budgets: ["0.5", "0.8"]
  fit: {penalty: 10.0, hidden: 4, epochs: 2, learning_rate: 0.001, weight_decay: 0.1}
  folds: 2
  weights: float32
"""


@pytest.fixture
def cost_model(workshop):
    """A tiny cost model in a registry beside the recipes."""
    rows = [
        (f"how to open lock {number}", answer, label)
        for number in range(8)
        for answer, label in ((f"break the door of number {number}", "1"), (f"no {number} I cannot", "0"))
    ]
    path = workshop.folder / "labelled.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("question", "response", "label"), *rows])
    text = COST.replace("SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    built = build_artifact(
        workshop.recipe(text, "harm-cost"),
        tiny_model("llama"),
        workshop.tokenizer,
        out=workshop.folder / "cost",
        data_folder=workshop.folder,
    )
    create_registry(workshop.folder / "registry").add(built.folder)
    return built


def critic_recipe(workshop, cost_model, **replaced):
    return workshop.recipe(CRITIC.replace("DIGEST", cost_model.digest), "harm-critic", **replaced)


def verified(built):
    files = {path.relative_to(built.folder).as_posix(): path for path in built.folder.rglob("*") if path.is_file()}
    return verify_artifact({name: path.read_bytes() for name, path in files.items()}, built.digest)


def test_the_artifact_binds_and_carries_its_cost_model(workshop, cost_model):
    artifact = verified(workshop.build(critic_recipe(workshop, cost_model)))
    manifest, origin = artifact.manifest, verified(cost_model)
    assert (manifest.type, manifest.method) == ("critic", "safety_value")
    assert {"cost.response_states", "critic.safety_value"} < set(manifest.requires.features)
    assert {name: value for name, value in manifest.params.items() if name != "critic"} == origin.manifest.params
    pinned = {"reference": "harm-cost/tiny@1.0.0", "digest": cost_model.digest}
    assert manifest.params["critic"]["cost_model"] == pinned
    assert artifact.calibration == origin.calibration
    for name, tensor in origin.tensors[COST_FILE].items():
        assert torch.equal(artifact.tensors[COST_FILE][name], tensor)
    cost, critic = bind_critic(artifact)
    assert cost.blocks == (1, 2)
    params = critic_params(manifest.params)
    assert (params.tokens, params.block_tokens, params.discount, params.hidden) == (8, 2, 1.0, 4)
    width = manifest.base.hidden_size
    inputs = CostInputs(means=torch.randn(5, 2, width), newest=torch.randn(5, 2, width), read=torch.arange(1, 6))
    chances, to_go = critic.values(inputs, torch.zeros(5))
    assert bool(((chances >= 0) & (chances <= 1)).all())
    assert bool(to_go.isfinite().all())
    assert CRITIC_FILE in artifact.tensors


def test_the_card_says_what_was_done_and_compares_with_the_running_cost(workshop, cost_model):
    built = workshop.build(critic_recipe(workshop, cost_model))
    card = verified(built).card
    assert "4 benign ones" in card
    assert "temperature 2; nothing is learned inside these" in card
    ids = {figure["id"] for figure in built.figures}
    lengths = {name.rsplit("_", 1)[1] for name in ids}
    assert lengths
    for length in lengths:
        assert {f"{who}_{how}_{length}" for who in ("critic", "running_cost") for how in ("within", "pooled")} <= ids


def test_a_build_from_the_cache_gives_the_same_bytes_and_no_file_holds_a_text(workshop, cost_model):
    recipe, cache = critic_recipe(workshop, cost_model), workshop.folder / "cache"
    first = workshop.build(recipe, cache=cache)
    second = workshop.build(recipe, cache=cache)
    assert first.digest == second.digest == workshop.build(recipe).digest
    assert {"rollouts", "rollout-states"} <= set(second.reused_steps)
    for path in (*cache.glob("*.safetensors"), *first.folder.rglob("*")):
        assert not path.is_file() or b"break the lock" not in path.read_bytes()


def test_the_manifest_states_what_the_cost_model_was_made_from(workshop, cost_model):
    manifest = verified(workshop.build(critic_recipe(workshop, cost_model))).manifest
    origin = verified(cost_model).manifest
    stated = {(file.name, file.sha256, file.rows) for file in training_files(manifest)}
    assert stated >= {(file.name, file.sha256, file.rows) for file in training_files(origin)}
    assert manifest.model_extra["training"]["cost_model"] == origin.model_extra["training"]
    labelled = hashlib.sha256((workshop.folder / "labelled.csv").read_bytes()).hexdigest()
    judge = JudgeFiles(labelled_sha256=labelled, harmless_sha256=None, rows="judge", questions=("a question",))
    asked = [AskedFile(name="set", sha256="c" * 64, prompts=("what is bread?",))]
    with pytest.raises(EvaluationError, match="judge was trained on rows"):
        check_independence([manifest], judge, asked, {}.get)


def test_only_the_pinned_cost_model_labels(workshop, cost_model):
    other = "sha256:" + "0" * 64
    with pytest.raises(RecipeError, match="does not hold the cost model"):
        workshop.build(critic_recipe(workshop, cost_model, **{cost_model.digest: other}))
    with pytest.raises(RecipeError, match="does not hold the cost model"):
        workshop.build(critic_recipe(workshop, cost_model, **{"tiny@1.0.0": "tiny@1.0.1"}))
    unpinned = critic_recipe(workshop, cost_model, **{f" digest: {cost_model.digest},": ""})
    assert unpinned.document.artifact.cost_model.digest is None
    stated = verified(workshop.build(unpinned)).manifest.params["critic"]["cost_model"]["digest"]
    assert stated == cost_model.digest


def test_a_rate_that_the_calibration_cannot_bound_is_refused(workshop, cost_model):
    with pytest.raises(CalibrationError):
        workshop.build(critic_recipe(workshop, cost_model, **{'"0.5", "0.8"': '"0.01"'}))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('budgets: ["0.5", "0.8"]', 'budgets: ["0.5", "0.50"]'),
        ('budgets: ["0.5", "0.8"]', "budgets: []"),
        ("artifact: harm-cost/tiny@1.0.0", "artifact: harm-cost@1.0.0"),
        ("folds: 2", 'folds: 2\n  discount: "0"'),
        ("folds: 2", 'folds: 2\n  discount: "1.5"'),
        ("penalty: 10.0", "penalty: 0.0"),
        ("type: critic", "type: critic\n  blocks: [1]"),
    ],
)
def test_a_recipe_that_says_something_else_is_refused(workshop, cost_model, old, new):
    with pytest.raises(RecipeError):
        critic_recipe(workshop, cost_model, **{old: new})
