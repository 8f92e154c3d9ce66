"""Build steps of a cost model: answers and their states, settings, fit, threshold, calibration, card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerguard.artifacts.calibration import Calibration, calibration_from_scores
from steerguard.artifacts.cost_params import COST_FEATURE, COST_FILE, COST_METHOD, UNIT, response_state_params
from steerguard.build.cost_figures import cost_figures
from steerguard.build.cost_fit import Head, HeadSettings, fit_head, recall_threshold
from steerguard.build.cost_inputs import (
    CostClass,
    calibration_prompts,
    calibration_states,
    labelled_class,
    own_class,
)
from steerguard.build.cost_lengths import costs_at
from steerguard.build.cost_search import ChosenHead, chosen_head
from steerguard.build.parts import ArtifactParts
from steerguard.build.probe_measures import benign_splits, without
from steerguard.build.recipe_cost import CostModelRecipe
from steerguard.build.steps import BuildContext
from steerguard.critics.response_states import apply_head


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedCost:
    """A fitted cost model with its data, before it is an artifact."""

    classes: tuple[CostClass, ...]
    chosen: ChosenHead
    head: Head
    threshold: float
    """A float32 value."""
    calibration: Calibration

    @property
    def settings(self) -> HeadSettings:
        """Blocks, penalty and depth of the head."""
        return self.chosen.settings


def build_cost_model(context: BuildContext, recipe: CostModelRecipe) -> ArtifactParts:
    """Return the tensors, settings and calibration of a cost model.

    Args:
        context: the build, with the data folder that holds the labelled answers.
        recipe: the cost model's part of the recipe.

    Raises:
        BuildError: scikit-learn is missing, or a class has fewer questions than folds.
        CalibrationError: no benign prompts of the split `calibration`.
        PromptFileError: a file does not hold labelled answers.
        RecipeError: a data file is missing or altered, or a kind that the calibration leaves out does not exist.
    """
    fitted = fit_cost_model(context, recipe)
    return ArtifactParts(
        method=COST_METHOD,
        features=("calibration.split_conformal", "hook.resid_post", COST_FEATURE),
        tensors={COST_FILE: head_tensors(fitted.head, len(fitted.settings.blocks))},
        params=response_state_params(
            fitted.settings.blocks, threshold=fitted.threshold, layers=1 if len(fitted.head) == 1 else 2
        ),
        how_made=_how_made(recipe, fitted),
        limits=_limits(recipe),
        figures=cost_figures(recipe, fitted.classes, fitted.chosen.costs, fitted.threshold, fitted.calibration),
        compared=() if fitted.chosen.compared is None else (fitted.chosen.compared,),
        calibration=fitted.calibration,
        manifest_extra={
            "sign": "positive means harmful",
            "labelled_answers": [
                {
                    "path": file.path,
                    "sha256": file.sha256,
                    "rows": entry.rows,
                }
                for entry in recipe.labelled
                for file in (entry.responses, entry.questions)
                if file is not None
            ],
        },
    )


def fit_cost_model(context: BuildContext, recipe: CostModelRecipe) -> FittedCost:
    """Return the fitted cost model of a recipe; a build of a critic starts from it too.

    Raises:
        Everything that `build_cost_model` raises.
    """
    measured = benign_splits(context, recipe)
    classes = [labelled_class(context, recipe, number) for number in range(len(recipe.labelled))]
    own = (own_class(context, recipe, harmful=harmful) for harmful in (False, True))
    classes += [one for one in own if one is not None]
    chosen = chosen_head(context, recipe, classes)
    head = fit_head(classes, chosen.settings, seed=context.recipe.document.seed)
    harmful = [
        cost
        for one, costs in zip(classes, chosen.costs, strict=True)
        if one.name == "labelled"
        for bad, cost in zip(one.harmful, costs_at(one, costs, None), strict=True)
        if bad
    ]
    prompts = calibration_prompts(measured.calibration, recipe.answers)
    states = calibration_states(context, recipe, prompts)
    costs = apply_head(head, states.features(chosen.settings.blocks))[states.ends].tolist()
    calibration = calibration_from_scores(
        costs,
        score=f"cost of a whole answer, {UNIT}; mean over its tokens, at most {recipe.answers.tokens}",
        source=(
            f"own answers to {len(costs)} benign prompts of the project's own contrast set, split calibration"
            f"{without(recipe)}, temperature {recipe.answers.temperature:g}, {recipe.calibration_weights} weights"
        ),
    )
    return FittedCost(
        classes=tuple(classes),
        chosen=chosen,
        head=head,
        threshold=recall_threshold(harmful, recipe.recall),
        calibration=calibration,
    )


def head_tensors(head: Head, parts: int) -> dict[str, Any]:
    """Return the tensors of a head by the names that the artifact format gives them.

    Args:
        head: one layer or two.
        parts: blocks that it reads.
    """
    if len(head) == 1:
        ((weight, bias),) = head
        return {"weight": weight.reshape(parts, -1), "bias": bias}
    return {
        name: tensor
        for number, (weight, bias) in enumerate(head)
        for name, tensor in ((f"weight_{number}", weight), (f"bias_{number}", bias))
    }


def _how_made(recipe: CostModelRecipe, fitted: FittedCost) -> tuple[str, ...]:
    settings = fitted.settings
    head = (
        f"a linear head (logistic regression, C {settings.inverse_penalty:g})"
        if settings.hidden is None
        else f"a head with one hidden layer of {settings.hidden} (ReLU; L2 penalty as of C {settings.inverse_penalty:g})"
    )
    lengths = ", ".join(str(length) for length in recipe.prefixes)
    return (
        *(_described(entry) for entry in _by_name(fitted.classes).items()),
        *(
            f"Labelled answers come from `{entry.responses.path}` (sha256 {entry.responses.sha256[:12]}), rows `{entry.rows}`, "
            f"the first {entry.tokens} tokens of each."
            for entry in recipe.labelled
        ),
        (
            f"The model's own answers have at most {recipe.answers.tokens} tokens at temperature "
            f"{recipe.answers.temperature:g}; {recipe.answers.begin_share:.0%} of them are begun by force with a neutral "
            "beginning, which is not read."
        ),
        (
            f"It is {head} on the residual behind blocks {', '.join(map(str, settings.blocks))}, mean over the answer's "
            f"tokens. Each answer was learned after {lengths} tokens, as far as it is longer, and at its end, which has "
            f"{recipe.end_share:.0%} of its weight; answers count alike, and so do the two labels."
        ),
        (
            f"The threshold {response_state_params((), threshold=fitted.threshold, layers=1)['threshold']} is the highest "
            f"one that {float(recipe.recall):.0%} of the harmful labelled answers reach at their end, each by a head that "
            f"saw no answer to its question ({recipe.folds} folds)."
        ),
        (
            f"Calibrated on {fitted.calibration.n} other benign answers, {fitted.calibration.source}. The smallest "
            f"false-positive rate that a budget may ask for is {fitted.calibration.smallest_fpr}."
        ),
    )


def _by_name(classes: Sequence[CostClass]) -> Mapping[str, tuple[int, int, int]]:
    """Return for each origin how many harmful and harmless answers there are, and to how many questions."""
    found: dict[str, tuple[int, int, int]] = {}
    for name in dict.fromkeys(one.name for one in classes):
        own = [one for one in classes if one.name == name]
        bad = sum(sum(one.harmful) for one in own)
        found[name] = bad, sum(len(one.harmful) for one in own) - bad, sum(len(set(one.groups)) for one in own)
    return found


def _described(entry: tuple[str, tuple[int, int, int]]) -> str:
    name, (harmful, harmless, questions) = entry
    if name == "labelled":
        return f"Learned from {harmful} harmful and {harmless} harmless labelled answers to {questions} questions."
    label = "harmful" if harmful else "harmless"
    refused = "; answers that state a refusal were left out" if harmful else ""
    return f"And from {harmful + harmless} of the model's own answers to {name[4:]} prompts, split `build`, as {label}{refused}."


def _limits(recipe: CostModelRecipe) -> tuple[str, ...]:
    return (
        (
            "A cost is what this one model says of an answer; that an answer stays within a budget says nothing about harm "
            "that the model does not see. Search lowers the cost of answers faster than their harm: judge them with "
            "something that was trained on other data."
        ),
        (
            "A rate or a recall holds for answers like those that it was measured on, and at their end; after few tokens "
            "costs are less certain, as the figures by length show."
        ),
        (
            "Labels of the labelled answers are those of their authors; a refusal is harmless there, whatever was asked."
            + (
                " Own answers to harmful prompts count as harmful whatever they say, since nobody labelled them."
                if recipe.answers.max_harmful_prompts
                else ""
            )
        ),
        "It reads the states of an answer of the model itself; of a text of another model it says less.",
    )
