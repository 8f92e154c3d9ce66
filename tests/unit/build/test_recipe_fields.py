"""Every field of donors, searches and fitted vectors: a wrong one is refused by name."""

from __future__ import annotations

import pytest

from steerguard.build.recipe_vectors import ExistingDonor, FineTunedDonor, SystemPromptDonor
from steerguard.errors import RecipeError

DONOR = """\
artifact:
  type: steering_vectors
  donor:
    refusal: I can't help.
    train_blocks: [1, 2]
    steps: 2
    batch_size: 4
    learning_rate: 0.01
    benign_answer_tokens: 3
"""
SEARCH = (
    DONOR
    + """\
  search:
    windows: [[2, 3], [3, 3]]
    positions: [all, decode]
    strengths: ["0.5", "1.0"]
    estimators: [ssv_minus_srv, by_step]
    prompts_harmful: 3
    prompts_benign: 2
    max_new_tokens: 4
    max_repetition: 0.3
    min_strict: 0.0
    max_perplexity: 50.0
    weights: float32
    batch_size: 2
"""
)
SINGLE = DONOR + '  estimator: ssv\n  blocks: [2, 3]\n  strength: "0.5"\n  positions: all\n  response_tokens: 3\n'
SYSTEM = """\
artifact:
  type: steering_vectors
  donor: {kind: system_prompt, system: Refuse., examples: [[Break in., No.]], benign_answer_tokens: 3}
  blocks: [2, 3]
  strength: "0.5"
"""
EXISTING = SYSTEM.replace(
    "kind: system_prompt, system: Refuse., examples: [[Break in., No.]]", "kind: existing, path: x"
)
FITTED = """\
artifact:
  type: steering_vectors
  method: fitted_refusal
  sentences: [I can't help., Sorry.]
  blocks: [2, 3]
  steps: 3
  batch_size: 2
  learning_rate: 0.1
  keep_weight: 0.5
  keep_answer_tokens: 8
  start: zero
  start_strength: 0.5
  strength: "1.0"
  positions: all
"""
PROBE = """\
artifact:
  type: probe
  folds: 2
  search:
    blocks: [[0, 1], [2]]
    estimators: [lda, logistic_regression]
    inverse_penalties: [0.1, 1.0]
"""


@pytest.mark.parametrize("text", [SEARCH, SINGLE, SYSTEM, EXISTING, FITTED, PROBE])
def test_the_recipes_of_this_page_are_right(workshop, text):
    workshop.recipe(text)


WRONG = {
    "search": (
        SEARCH,
        [
            ("windows: [[2, 3], [3, 3]]", "windows: []", "artifact.search.windows"),
            ("windows: [[2, 3], [3, 3]]", "windows: [[3, 2]]", "artifact.search.windows"),
            ("windows: [[2, 3], [3, 3]]", "windows: [[2, 3, 4]]", "artifact.search.windows"),
            ("windows: [[2, 3], [3, 3]]", "windows: [[2, 3], [2, 3]]", "artifact.search.windows"),
            ("windows: [[2, 3], [3, 3]]", "windows: [[-1, 3]]", "artifact.search.windows"),
            ("windows: [[2, 3], [3, 3]]\n", "\n", "artifact.blocks"),
            ("positions: [all, decode]", "positions: [some]", "artifact.search.positions"),
            ("positions: [all, decode]", "positions: [all, all]", "artifact.search.positions"),
            ('strengths: ["0.5", "1.0"]', "strengths: [0.5]", "artifact.search.strengths"),
            ('strengths: ["0.5", "1.0"]', 'strengths: ["-0.5"]', "artifact.search.strengths"),
            ('strengths: ["0.5", "1.0"]\n', "\n", "artifact.strength"),
            ("estimators: [ssv_minus_srv, by_step]", "estimators: [srv]", "artifact.search.estimators"),
            ("estimators: [ssv_minus_srv, by_step]", "estimators: []", "artifact.search.estimators"),
            ("prompts_harmful: 3", "prompts_harmful: 0", "artifact.search.prompts_harmful"),
            ("prompts_harmful: 3\n", "\n", "artifact.search.prompts_harmful"),
            ("prompts_benign: 2", "prompts_benign: many", "artifact.search.prompts_benign"),
            ("max_new_tokens: 4", "max_new_tokens: 513", "artifact.search.max_new_tokens"),
            ("max_repetition: 0.3", "max_repetition: 1.1", "artifact.search.max_repetition"),
            ("max_perplexity: 50.0", "max_perplexity: 1.0", "artifact.search.max_perplexity"),
            ("max_perplexity: 50.0\n", "\n", "artifact.search.max_perplexity"),
            ("weights: float32\n    batch", "weights: int8\n    batch", "artifact.search.weights"),
            ("batch_size: 2", "batch_size: 0", "artifact.search.batch_size"),
            ("batch_size: 2", "batches: 2", "artifact.search.batches"),
            ("  search:", "  blocks: [2]\n  search:", "artifact.blocks"),
            ("  search:", '  strength: "1"\n  search:', "artifact.strength"),
            ("  search:", "  positions: all\n  search:", "artifact.positions"),
            ("  search:", "  estimator: ssv\n  search:", "artifact.estimator"),
        ],
    ),
    "single": (
        SINGLE,
        [
            ("estimator: ssv", "estimator: srv", "artifact.estimator"),
            ("response_tokens: 3", "response_tokens: 0", "artifact.response_tokens"),
            ("  blocks: [2, 3]\n", "", "artifact.blocks"),
            ("  blocks: [2, 3]\n", "  blocks: [3, 2]\n", "artifact.blocks"),
            ('  strength: "0.5"\n', "", "artifact.strength"),
            ("positions: all", "positions: prompt", "artifact.positions"),
            ("estimator: ssv", "estimator: by_phase", "artifact.positions"),
            ("type: steering_vectors", "type: steering_vectors\n  method: fitted", "artifact"),
            ("type: steering_vectors", "type: steering_vectors\n  method: fitted_refusal", "artifact.sentences"),
            ("estimator: ssv", "refinement: {steps: 2, batch_size: 2, learning_rate: 0.1}", "fitted_refusal"),
            ("    refusal: I can't help.\n", "", "artifact.donor.refusal"),
        ],
    ),
    "donors": (
        SYSTEM,
        [
            ("kind: system_prompt", "kind: prompted", "artifact.donor"),
            ("system: Refuse., ", "", "artifact.donor.system"),
            ("system: Refuse.", 'system: ""', "artifact.donor.system"),
            ("[[Break in., No.]]", "[[Break in.]]", "artifact.donor.examples"),
            ("[[Break in., No.]]", "[Break in., No.]", "artifact.donor.examples"),
            ("benign_answer_tokens: 3", "benign_answer_tokens: 0", "artifact.donor.benign_answer_tokens"),
            ("benign_answer_tokens: 3", "steps: 3", "artifact.donor.steps"),
            ("  blocks", "  estimator: by_step\n  blocks", "artifact.donor.refusal"),
            ("  blocks", "  estimator: response_mean\n  blocks", "artifact.donor.refusal"),
            ("  blocks", "  estimator: answer_contrast\n  blocks", "artifact.donor.refusal"),
            ("  blocks", "  wordings: [I can't.]\n  blocks", "artifact.wordings"),
        ],
    ),
    "existing": (
        EXISTING,
        [
            ("path: x, ", "", "artifact.donor.path"),
            ("path: x", "path: x, system: Refuse.", "artifact.donor.system"),
            ("path: x", 'path: x, refusal: ""', "artifact.donor.refusal"),
        ],
    ),
    "fitted": (
        FITTED,
        [
            ("sentences: [I can't help., Sorry.]", "sentences: []", "artifact.sentences"),
            ("sentences: [I can't help., Sorry.]", "sentences: Sorry.", "artifact.sentences"),
            ("sentences: [I can't help., Sorry.]", "sentences: [Sorry., Sorry.]", "artifact.sentences"),
            ("sentences: [I can't help., Sorry.]\n", "\n", "artifact.sentences"),
            ("blocks: [2, 3]\n  steps", "blocks: []\n  steps", "artifact.blocks"),
            ("blocks: [2, 3]\n  steps", "blocks: [3, 3]\n  steps", "artifact.blocks"),
            ("steps: 3", "steps: 0", "artifact.steps"),
            ("batch_size: 2", "batch_size: 2.5", "artifact.batch_size"),
            ("learning_rate: 0.1", "learning_rate: 0", "artifact.learning_rate"),
            ("keep_weight: 0.5", "keep_weight: -1", "artifact.keep_weight"),
            ("keep_answer_tokens: 8", "keep_answer_tokens: 0", "artifact.keep_answer_tokens"),
            ("start: zero", "start: one", "artifact.start"),
            ("start: zero", "start: donor", "artifact.donor"),
            ("start: zero", "donor: {kind: existing, path: x}", "artifact.donor"),
            ("start_strength: 0.5", "start_strength: 9", "artifact.start_strength"),
            ('strength: "1.0"', "strength: strong", "artifact.strength"),
            ("positions: all", "positions: none", "artifact.positions"),
            ("positions: all", "estimator: ssv", "artifact.estimator"),
            ("positions: all", "search: {}", "artifact.search"),
        ],
    ),
    "probe": (
        PROBE,
        [
            ("blocks: [[0, 1], [2]]", "blocks: [0, 1]", "artifact.search.blocks"),
            ("blocks: [[0, 1], [2]]", "blocks: [[1, 0]]", "artifact.search.blocks.0"),
            ("blocks: [[0, 1], [2]]", "blocks: [[2], [2]]", "artifact.search.blocks"),
            ("blocks: [[0, 1], [2]]\n", "\n", "artifact.blocks"),
            ("estimators: [lda, logistic_regression]", "estimators: [svm]", "artifact.search.estimators"),
            ("estimators: [lda, logistic_regression]\n", "\n", "artifact.estimator"),
            ("inverse_penalties: [0.1, 1.0]", "inverse_penalties: [0]", "artifact.search.inverse_penalties"),
            ("inverse_penalties: [0.1, 1.0]", "penalties: [1]", "artifact.search.penalties"),
            ("folds: 2", "folds: 2\n  blocks: [1]", "artifact.blocks"),
            ("folds: 2", "folds: 2\n  estimator: lda", "artifact.estimator"),
            ("folds: 2", "folds: 2\n  inverse_penalty: 1.0", "artifact.inverse_penalty"),
        ],
    ),
    "base": (
        SINGLE,
        [
            ("source: random weights", "source: random weights, num_blocks: 0", "base.num_blocks"),
            ("source: random weights", "source: random weights, depth: 4", "base.depth"),
        ],
    ),
}


@pytest.mark.parametrize(
    ("text", "old", "new", "field"),
    [
        pytest.param(text, *change, id=f"{name}-{number}")
        for name, (text, changes) in WRONG.items()
        for number, change in enumerate(changes)
    ],
)
def test_a_wrong_field_is_refused_by_name(workshop, text, old, new, field):
    workshop.recipe(text)
    with pytest.raises(RecipeError) as caught:
        workshop.recipe(text, **{old: new})
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind"), [(SINGLE, FineTunedDonor), (SYSTEM, SystemPromptDonor), (EXISTING, ExistingDonor)]
)
def test_the_kind_of_donor_is_told_apart_and_may_be_left_out_for_training(workshop, text, kind):
    assert isinstance(workshop.recipe(text).document.artifact.donor, kind)


def test_a_recipe_without_new_fields_means_what_it_meant(workshop):
    artifact = workshop.recipe(DONOR + '  blocks: [2, 3]\n  strength: "0.5"\n').document.artifact
    assert (artifact.method, artifact.tried_estimators, artifact.search) == ("inferaligner", ("ssv_minus_srv",), None)


def test_blocks_of_a_search_that_the_model_lacks_are_refused_by_field(workshop):
    with pytest.raises(RecipeError) as caught:
        workshop.build(workshop.recipe(SEARCH, **{"[[2, 3], [3, 3]]": "[[2, 3], [3, 4]]"}))
    assert caught.value.where == "artifact.search.windows.1"


def test_a_recipe_for_another_depth_is_refused_with_the_way_to_scale_it(workshop):
    with pytest.raises(RecipeError, match="--scale-blocks") as caught:
        workshop.build(workshop.recipe(SINGLE, **{"random weights": "random weights, num_blocks: 30"}))
    assert caught.value.where == "base.num_blocks"
