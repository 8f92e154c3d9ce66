"""Build steps of a critic: roll-outs, states, costs, samples, fit, figures. The artifact carries its cost model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from steerguard.artifacts.calibration import Calibration, to_float32
from steerguard.artifacts.cost_params import COST_FEATURE, CRITIC_METHOD
from steerguard.artifacts.critic_params import CRITIC_FEATURE, CriticParams, critic_entry
from steerguard.artifacts.manifest import ArtifactManifest
from steerguard.build.critic_cost import calibration_of, copied_tensors, labelling_artifact
from steerguard.build.critic_data import CostedRollouts, costed_rollouts, together
from steerguard.build.critic_figures import foreseen_out_of_fold, ranking_figures, rankings
from steerguard.build.critic_fit import CriticSamples, fit_critic
from steerguard.build.donor_kinds import drawn_for_build
from steerguard.build.parts import ArtifactParts
from steerguard.build.recipe_critic import CriticRecipe
from steerguard.build.recipe_rollouts import RolloutSettings
from steerguard.build.steps import BuildContext
from steerguard.critics.cost import CostModel
from steerguard.critics.response_states import bind_cost
from steerguard.critics.safety_value import CRITIC_FILE
from steerguard.errors import BuildError


def build_critic(context: BuildContext, recipe: CriticRecipe) -> ArtifactParts:
    """Return the tensors and settings of a critic, with a copy of the cost model that it foresees.

    The model answers prompts of the split `build` several times; every unfinished answer at the end of a block is a
    sample, labelled by how that answer ended by the cost model.

    Args:
        context: the build.
        recipe: the critic's part of the recipe.

    Raises:
        ArtifactError: the registry or the cost model cannot be read or is malformed.
        BuildError: no answer is longer than a block, or all answers end alike.
        CalibrationError: the cost model's calibration cannot bound one of the rates.
        IncompatibleModelError: the cost model was made for another model.
        RecipeError: the registry does not hold the cost model that the recipe pins, or it is not calibrated.
    """
    artifact = labelling_artifact(context, recipe.cost_model, weights=recipe.weights)
    cost, calibration = bind_cost(artifact), calibration_of(artifact)
    classes = [_costed(context, recipe, cost, name=name) for name in ("harmful", "benign")]
    budgets, discount = budgets_of(recipe, calibration), to_float32(float(recipe.discount))
    samples = together([one.samples(recipe.rollouts, budgets, discount) for one in classes])
    if not len(samples):
        raise BuildError(
            "No answer goes on behind a block.",
            where="artifact.rollouts",
            expected="answers longer than `block_tokens`",
            found=f"{sum(len(one.rollouts) for one in classes)} shorter ones",
            next_step="lower artifact.rollouts.block_tokens, or look whether the model ends every answer at once",
        )
    params = CriticParams(
        tokens=recipe.rollouts.tokens,
        block_tokens=recipe.rollouts.block_tokens,
        discount=discount,
        hidden=recipe.fit.hidden,
        lowest_z=float(samples.z.min()),
        highest_z=float(samples.z.max()),
    )
    seed = context.recipe.document.seed
    critic = fit_critic(samples, params, recipe.fit, seed=seed)
    ends_safe = foreseen_out_of_fold(samples, critic, recipe.fit, folds=recipe.folds, seed=seed)
    manifest = artifact.manifest
    return ArtifactParts(
        method=CRITIC_METHOD,
        features=("calibration.split_conformal", "hook.resid_post", COST_FEATURE, CRITIC_FEATURE),
        tensors={**copied_tensors(artifact), CRITIC_FILE: critic.tensors()},
        params={
            **manifest.params,
            "critic": {
                **critic_entry(params),
                "cost_model": {"reference": manifest.reference, "digest": artifact.digest},
            },
        },
        how_made=_how_made(recipe, classes, samples, artifact.digest),
        limits=_limits(recipe),
        figures=tuple(
            figure
            for ranking in rankings(samples, ends_safe, budget=0, block_tokens=params.block_tokens)
            for figure in ranking_figures(ranking, how=_measured_on(recipe), weights=recipe.weights)
        ),
        calibration=calibration,
        manifest_extra={
            "sign": manifest.sign or "positive means harmful",
            **_made_from(context, manifest),
        },
    )


def _made_from(context: BuildContext, cost_model: ArtifactManifest) -> dict[str, Any]:
    """Return what the critic was made from: the prompts of this build, and all that its cost model was made from."""
    stated = cost_model.model_extra or {}
    own = {"prompts": dict(context.data.file_digests), "seed": context.recipe.document.seed}
    carried = {"cost_model": stated["training"]} if "training" in stated else {}
    answers = {"labelled_answers": stated["labelled_answers"]} if "labelled_answers" in stated else {}
    return {"training": {**own, **carried}, **answers}


def budgets_of(recipe: CriticRecipe, calibration: Calibration) -> torch.Tensor:
    """Return the budgets d of a recipe, float32 `[budgets]`, in its order.

    Raises:
        CalibrationError: the calibration has too few costs for one of the rates.
    """
    return torch.tensor([calibration.threshold(rate) for rate in recipe.budgets], dtype=torch.float32)


def _costed(context: BuildContext, recipe: CriticRecipe, cost: CostModel, *, name: str) -> CostedRollouts:
    harmful = name == "harmful"
    limit = recipe.rollouts.max_harmful_prompts if harmful else recipe.rollouts.max_benign_prompts
    prompts = context.data.harmful if harmful else context.data.benign
    drawn = drawn_for_build(context, prompts, (), limit, where="artifact.rollouts")
    return costed_rollouts(context, drawn, recipe.rollouts, cost, weights=recipe.weights, name=name)


def _measured_on(recipe: CriticRecipe) -> str:
    return f"split build, {recipe.folds}-fold out-of-fold by prompt, budget exceeded by {recipe.budgets[0]} of benign answers"


def _how_made(
    recipe: CriticRecipe, classes: Sequence[CostedRollouts], samples: CriticSamples, cost_digest: str
) -> tuple[str, ...]:
    settings, fit = recipe.rollouts, recipe.fit
    answered = [
        f"{len(one.rollouts)} to {len(one.rollouts.prompts)} {name}"
        for one, name in zip(classes, ("harmful", "benign"), strict=True)
    ]
    return (
        (
            f"The model's own sampled answers of at most {settings.tokens} tokens to the project's own contrast set, split "
            f"`build`: {answered[0]} prompts and {answered[1]} ones, temperature {settings.temperature:g}, top-p "
            f"{settings.top_p:g}."
            + (
                f" Prompts of more than {settings.max_prompt_tokens} tokens were left out."
                if settings.max_prompt_tokens
                else ""
            )
        ),
        (
            f"{settings.begin_share:.0%} of the prompts, of both classes alike, have their answers begun by force with one of "
            f"{len(settings.begin)} neutral beginnings."
            if settings.begin
            else "No answer is begun by force."
        ),
        *_begun_hotter(settings),
        (
            f"Labels are the costs of the cost model `{recipe.cost_model.artifact}` (digest {cost_digest[:19]}…), a copy of "
            f"which lies in the artifact: the safety state is rolled forward every {settings.block_tokens} tokens with "
            f"discount {recipe.discount}, for budgets that {', '.join(recipe.budgets)} of benign answers exceed."
        ),
        (
            f"{len(samples)} unfinished answers at the ends of blocks; a ridge regression of the cost-to-go (penalty "
            f"{fit.penalty:g}) is the start of a network with one hidden layer of {fit.hidden} and two heads, trained for "
            f"{fit.epochs} epochs (AdamW, learning rate {fit.learning_rate:g}, weight decay {fit.weight_decay:g})."
        ),
    )


def _begun_hotter(settings: RolloutSettings) -> tuple[str, ...]:
    hot = settings.off_policy
    if hot is None:
        return ()
    sentence = (
        f"Of every {settings.answers_per_prompt} answers {hot.per_prompt} begin with {hot.tokens} tokens at temperature "
        f"{hot.temperature:g}; nothing is learned inside these."
    )
    return (sentence,)


def _limits(recipe: CriticRecipe) -> tuple[str, ...]:
    settings = recipe.rollouts
    return (
        (
            f"It foresees the end of answers of at most {settings.tokens} tokens that go on as the model samples at "
            f"temperature {settings.temperature:g}; under other sampling, longer answers or guidance that changes the states "
            "its chances are off."
        ),
        "It foresees what its cost model will say, not harm; the running cost shares its terms with that.",
        "A safety state outside the range of the training counts as the nearest one within.",
    )
