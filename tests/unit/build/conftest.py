"""A tiny build: few prompts, a random Llama of 4 blocks, two donor steps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from steerguard.build.artifact import BuiltArtifact, build_artifact
from steerguard.build.recipe import Recipe, load_recipe
from steerguard.testing import tiny_model

HEADER = """\
apiVersion: steerguard/v1alpha1
kind: BuildRecipe
metadata:
  family: FAMILY
  variant: tiny
  version: 1.0.0
  description: A tiny artifact.
  created: "2026-01-01T00:00:00Z"
base: {repo: example/tiny, source: random weights}
prompts: {harmful: harmful.jsonl, benign: benign.jsonl}
seed: 3
batch_size: 4
fingerprint: {blocks: [2, 3], weights: [float32]}
"""
VECTORS = """\
artifact:
  type: steering_vectors
  donor:
    refusal: I can't help.
    train_blocks: [1, 2]
    steps: 2
    batch_size: 4
    learning_rate: 0.01
    benign_answer_tokens: 3
  blocks: [2, 3]
  strength: "0.5"
"""
PROBE = """\
artifact:
  type: probe
  blocks: [0, 1]
  estimator: ESTIMATOR
  folds: 2
  calibration_weights: float32
"""


@dataclass
class Workshop:
    """A folder with prompt files and recipes, and a way to build from them."""

    folder: Path
    tokenizer: object
    builds: int = 0

    def recipe(self, artifact: str = VECTORS, family: str = "inferaligner", **replaced: str) -> Recipe:
        text = HEADER.replace("FAMILY", family).replace("[2, 3]", "[1, 2, 3]", 1) + artifact
        for old, new in replaced.items():
            text = text.replace(old, new)
        path = self.folder / f"{family}.yaml"
        path.write_text(text, encoding="utf-8")
        return load_recipe(path)

    def build(self, recipe: Recipe, *, cache: Path | None = None, effect=None, model=None) -> BuiltArtifact:
        self.builds += 1
        out = self.folder / f"out-{self.builds}"
        return build_artifact(recipe, model or tiny_model("llama"), self.tokenizer, out=out, cache=cache, effect=effect)


@pytest.fixture
def workshop(tmp_path, chatml_tokenizer):
    """A workshop with 12 harmful and 12 benign prompts, four in each split."""
    for name, words in (("harmful", "break the lock of number"), ("benign", "paint the door of number")):
        rows = [
            {
                "id": f"{name}{index}",
                "split": ("build", "held_out", "calibration")[index % 3],
                "kind": "odd" if index % 2 else "even",
                "messages": [{"role": "user", "content": f"{words} {index * 7}"}],
            }
            for index in range(12)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return Workshop(tmp_path, chatml_tokenizer)
