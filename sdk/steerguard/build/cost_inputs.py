"""The answers that a cost model is made from, with their states: labelled ones, and the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerguard.build.answers import AnsweredPrompts, not_refused
from steerguard.build.contrast import PromptSet
from steerguard.build.cost_answers import sampled_answers_of
from steerguard.build.cost_data import labelled_set
from steerguard.build.cost_states import GivenAnswers, PrefixStates, prefix_states_of
from steerguard.build.donor import end_of_turn
from steerguard.build.donor_kinds import drawn_for_build
from steerguard.build.recipe_cost import CostModelRecipe, OwnAnswers
from steerguard.build.steps import BuildContext
from steerguard.canonical import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class CostClass:
    """Answers of one origin."""

    name: str
    """`labelled`, `own benign` or `own harmful`."""
    states: PrefixStates
    harmful: tuple[bool, ...]
    """Per answer."""
    groups: tuple[str, ...]
    """Per answer its question; answers to one question lie in one fold."""

    @property
    def identity(self) -> str:
        """`sha256:<hex>` over what the class is a function of."""
        return digest([self.states.identity, [int(bad) for bad in self.harmful], list(self.groups)])


def labelled_class(context: BuildContext, recipe: CostModelRecipe, number: int) -> CostClass:
    """Return the answers of one entry of `artifact.labelled`.

    Raises:
        RecipeError: a file is missing or altered, or a question has no text.
        PromptFileError: a file does not hold labelled answers.
    """
    where = f"artifact.labelled.{number}"
    seed = context.recipe.document.seed
    rows = labelled_set(context.data_folder, recipe.labelled[number], context.tokenizer, seed=seed, where=where)
    states = _states(context, recipe, rows.given, recipe.weights, f"states: labelled {number}")
    return CostClass(name="labelled", states=states, harmful=rows.harmful, groups=rows.questions)


def own_class(context: BuildContext, recipe: CostModelRecipe, *, harmful: bool) -> CostClass | None:
    """Return the model's own answers to `build` prompts of one class; None where the recipe asks for none.

    An answer without a token, and one to a harmful prompt that states a refusal, is left out.
    """
    name, prompts = ("harmful", context.data.harmful) if harmful else ("benign", context.data.benign)
    limit = recipe.answers.max_harmful_prompts if harmful else recipe.answers.max_benign_prompts
    if harmful and not limit:
        return None
    drawn = drawn_for_build(context, prompts, (), limit, where="artifact.answers")
    answered = sampled_answers_of(context, drawn, recipe.answers, weights=recipe.weights, step=f"answers: {name}")
    if harmful:
        answered = not_refused(answered, context.tokenizer)
    kept = with_tokens(answered, context)
    states = _states(context, recipe, given_own(kept, context), recipe.weights, f"states: own {name}")
    return CostClass(name=f"own {name}", states=states, harmful=(harmful,) * len(kept), groups=kept.prompts.ids)


def calibration_states(context: BuildContext, recipe: CostModelRecipe, prompts: PromptSet) -> PrefixStates:
    """Return the states of the model's own answers to benign prompts that thresholds come from; none is begun by force."""
    plain = recipe.answers.model_copy(update={"begin": (), "begin_share": 0.0})
    weights = recipe.calibration_weights
    answered = sampled_answers_of(context, prompts, plain, weights=weights, step="answers: calibration")
    given = given_own(with_tokens(answered, context), context)
    return _states(context, recipe, given, weights, "states: calibration")


def calibration_prompts(prompts: PromptSet, settings: OwnAnswers) -> PromptSet:
    """Return at most as many prompts as the recipe asks for, spread evenly over the file."""
    limit = settings.max_calibration_prompts
    if limit is None or limit >= len(prompts):
        return prompts
    return prompts.chosen([place * len(prompts) // limit for place in range(limit)])


def with_tokens(answered: AnsweredPrompts, context: BuildContext) -> AnsweredPrompts:
    """Return the prompts whose answer has a token before the end of the turn."""
    lengths = answered.lengths(context.tokenizer)
    return answered.chosen([index for index, length in enumerate(lengths) if length > 0])


def given_own(answered: AnsweredPrompts, context: BuildContext) -> GivenAnswers:
    """Return own answers as answers to be read, without the end of their turn."""
    end = end_of_turn(context.tokenizer)
    return GivenAnswers(
        conversations=answered.prompts.conversations,
        begins=answered.begins,
        answers=tuple(tuple(row[(row >= 0) & (row != end)].tolist()) for row in answered.ids),
    )


def _states(
    context: BuildContext, recipe: CostModelRecipe, given: GivenAnswers, weights: str, step: str
) -> PrefixStates:
    prefixes: Sequence[int] = recipe.prefixes
    return prefix_states_of(context, given, recipe.read_blocks(), prefixes, weights=weights, step=step)
