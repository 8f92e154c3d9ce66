"""Build steps of a probe of answers: the model's own answers, reads of them, fit, calibration per answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from steerguard.artifacts.calibration import Calibration, calibration_from_scores
from steerguard.artifacts.probe_params import ANSWER_FEATURE, PROMPT_MEAN_FEATURE, AnswerReading, probe_params
from steerguard.build.answer_fit import answer_scores, fit_answer_probe, out_of_fold_answers
from steerguard.build.answer_reads import AnswerReads, reads_of
from steerguard.build.answers import AnsweredPrompts, answers_of, not_refused
from steerguard.build.contrast import PromptSet
from steerguard.build.donor_kinds import drawn_for_build
from steerguard.build.left_out_kinds import kinds_by_group
from steerguard.build.parts import ArtifactParts
from steerguard.build.probe_figures import ScoredSet, gate_rates
from steerguard.build.probe_measures import BenignSplits, benign_splits, group_id, without
from steerguard.build.recipe_answers import AnswerSettings
from steerguard.build.recipe_probe import AnswerProbeRecipe
from steerguard.build.steps import BuildContext
from steerguard.detect.linear_probe import LinearProbe
from steerguard.detect.probe import PROBE_FILE
from steerguard.errors import CalibrationError
from steerguard.evaluate.proportions import auroc


def build_answer_probe(context: BuildContext, recipe: AnswerProbeRecipe) -> ArtifactParts:
    """Return the tensors, settings and calibration of a probe of answers.

    The model answers the prompts itself, some answers begun by force; harmful prompts whose answer states a refusal are
    left out. The probe is fitted on reads of the `build` split; a calibration score is that of one whole answer.

    Args:
        context: the build.
        recipe: the probe part of the recipe.

    Raises:
        BuildError: scikit-learn is missing, or a class has fewer answers than folds.
        CalibrationError: no benign prompts of the split `calibration`, or none of their answers is read often enough.
        RecipeError: a kind that the calibration leaves out does not exist.
    """
    measured = benign_splits(context, recipe)
    groups = kinds_by_group(context.data.benign, recipe.calibration_kinds_left_out)
    limits = recipe.answers.max_harmful_prompts, recipe.answers.max_benign_prompts
    build = tuple(
        drawn_for_build(context, prompts, (), limit, where="artifact.answers")
        for prompts, limit in zip((context.data.harmful, context.data.benign), limits, strict=True)
    )
    harmful = not_refused(_answered(context, recipe, build[0], recipe.weights, "harmful"), context.tokenizer)
    benign = _answered(context, recipe, build[1], recipe.weights, "benign")
    reads = (
        _read(context, recipe, harmful, recipe.weights, "harmful"),
        _read(context, recipe, benign, recipe.weights, "benign"),
    )
    seed, penalty, in_a_row = context.recipe.document.seed, recipe.inverse_penalty, recipe.answers.in_a_row
    probe = fit_answer_probe(*reads, inverse_penalty=penalty, seed=seed)
    out_of_fold = out_of_fold_answers(*reads, in_a_row=in_a_row, inverse_penalty=penalty, folds=recipe.folds, seed=seed)
    calibration = _calibrated(context, recipe, probe, measured)
    means = bool(recipe.mean_blocks)
    reading = AnswerReading(
        tokens=recipe.answers.tokens, first=recipe.answers.first, every=recipe.answers.every, in_a_row=in_a_row
    )
    return ArtifactParts(
        method="linear_probe",
        features=(
            "calibration.split_conformal",
            "hook.resid_post",
            ANSWER_FEATURE,
            "probe.linear",
            *((PROMPT_MEAN_FEATURE,) if means else ()),
        ),
        tensors={PROBE_FILE: {"weight": probe.weight, "bias": probe.bias}},
        params=probe_params(probe.parts, reading),
        how_made=_how_made(recipe, (len(harmful), len(build[0])), reads, calibration),
        limits=_limits(recipe, measured),
        figures=_figures(recipe, out_of_fold, benign.prompts.kinds, calibration, groups),
        calibration=calibration,
        manifest_extra={"sign": "positive means harmful"},
    )


def meaning(settings: AnswerSettings) -> str:
    """Return what the score of an answer is, for people; the calibration records it."""
    one = "weight . h + bias, mean over parts, at the newest token"
    begun = "at the end of a forced beginning, " if settings.begin else ""
    when = (
        f"{begun}after {settings.first} generated tokens and every {settings.every} from there, of at most "
        f"{settings.tokens}"
    )
    if settings.in_a_row == 1:
        return f"highest over an answer's reads of {one}; reads {when}"
    return f"highest over an answer's reads of the lowest of {settings.in_a_row} in a row of {one}; reads {when}"


def _answered(
    context: BuildContext, recipe: AnswerProbeRecipe, prompts: PromptSet, weights: str, name: str
) -> AnsweredPrompts:
    return answers_of(context, prompts, recipe.answers, weights=weights, step=f"answers: {name}")


def _read(
    context: BuildContext, recipe: AnswerProbeRecipe, answered: AnsweredPrompts, weights: str, name: str
) -> AnswerReads:
    return reads_of(context, answered, recipe.parts, recipe.answers, weights=weights, step=f"reads: {name}")


def _scores(
    context: BuildContext, recipe: AnswerProbeRecipe, probe: LinearProbe, answered: AnsweredPrompts, name: str
) -> list[float]:
    reads = _read(context, recipe, answered, recipe.calibration_weights, name)
    return answer_scores(probe, reads, recipe.answers.in_a_row)


def _calibrated(
    context: BuildContext, recipe: AnswerProbeRecipe, probe: LinearProbe, measured: BenignSplits
) -> Calibration:
    answered = _answered(context, recipe, measured.calibration, recipe.calibration_weights, "calibration")
    scores = _scores(context, recipe, probe, answered, "calibration")
    begun = sum(begin is not None for begin in answered.begins)
    return calibration_from_scores(
        finite_scores(scores),
        score=meaning(recipe.answers),
        source=(
            f"own answers to {len(answered)} benign prompts of the project's own contrast set, split calibration"
            f"{without(recipe)}, {begun} of them begun by force, {recipe.calibration_weights} weights"
        ),
    )


def finite_scores(scores: list[float]) -> list[float]:
    """Return the scores with the lowest finite one in place of minus infinity, which no calibration can hold.

    An answer with too few reads reaches no threshold. Counting it as the lowest of the others never lowers a threshold.

    Raises:
        CalibrationError: no score is finite.
    """
    finite = [score for score in scores if score != -math.inf]
    if not finite:
        raise CalibrationError(
            "No calibration answer is read often enough to have a score.",
            where="artifact.answers",
            expected="an answer with at least `in_a_row` reads",
            found=f"none of {len(scores)}",
            next_step="lower artifact.answers.in_a_row or every, or raise tokens",
        )
    lowest = min(finite)
    return [max(score, lowest) for score in scores]


def _figures(
    recipe: AnswerProbeRecipe,
    out_of_fold: tuple[list[float], list[float]],
    kinds: Sequence[str],
    calibration: Calibration,
    groups: Mapping[str, Sequence[str]],
) -> tuple[Mapping[str, Any], ...]:
    """Return AUROC and rates of answers to `build` prompts, each scored by a probe that was fitted without it."""
    how = f"split build, {recipe.folds}-fold out-of-fold by prompt"
    hard = {kind for members in groups.values() for kind in members}
    benign = list(zip(out_of_fold[1], kinds, strict=True))
    sets = (
        ScoredSet(id="harmful", name=f"own answers to harmful prompts, {how}", scores=out_of_fold[0]),
        ScoredSet(
            id="benign",
            name=f"own answers to benign prompts, {how}{without(recipe)}",
            scores=[score for score, kind in benign if kind not in hard],
        ),
        *(
            ScoredSet(
                id=group_id(group),
                name=f"own answers to benign prompts of the kinds {group}, {how}",
                scores=[score for score, kind in benign if kind in members],
            )
            for group, members in groups.items()
        ),
    )
    return (
        {
            "id": "build_out_of_fold_auroc",
            "title": "AUROC",
            "set": f"own answers, {how}",
            "value": f"{auroc(*out_of_fold):.4f}",
            "n": len(out_of_fold[0]) + len(benign),
            "n_harmful": len(out_of_fold[0]),
            "n_benign": len(benign),
            "weights": recipe.weights,
        },
        *gate_rates(
            [one for one in sets if one.scores],
            calibration,
            recipe.weights,
            prefix="build",
            event="answer reaches the threshold",
        ),
    )


def _how_made(
    recipe: AnswerProbeRecipe,
    kept: tuple[int, int],
    reads: tuple[AnswerReads, AnswerReads],
    calibration: Calibration,
) -> tuple[str, ...]:
    settings = recipe.answers
    means = f", and on the prompt mean of blocks {_listed(recipe.mean_blocks)}" if recipe.mean_blocks else ""
    begun = (
        f"{settings.begin_share:.0%} of the answers, of both classes alike, are begun by force with one of "
        f"{len(settings.begin)} neutral beginnings."
        if settings.begin
        else "No answer is begun by force."
    )
    return (
        (
            f"The model's own greedy answers of at most {settings.tokens} tokens to the project's own contrast set, split "
            f"`build`: {kept[0]} harmful prompts ({kept[1] - kept[0]} more were left out, whose answer states a refusal) and "
            f"{len(reads[1].counts)} benign ones."
        ),
        begun,
        (
            f"One linear classifier (logistic regression, C {recipe.inverse_penalty:g}) on the residual at the newest token, "
            f"blocks {_listed(recipe.blocks)}{means}, over {sum(reads[0].counts)} reads of harmful and "
            f"{sum(reads[1].counts)} of benign answers; classes and answers count alike."
        ),
        (
            f"Calibrated on {calibration.n} other benign answers, split `calibration`{without(recipe)}, with "
            f"{recipe.calibration_weights} weights. One score is that of a whole answer: {calibration.score}. "
            f"The smallest false-positive rate that a policy may ask for is {calibration.smallest_fpr}."
        ),
    )


def _limits(recipe: AnswerProbeRecipe, measured: BenignSplits) -> tuple[str, ...]:
    settings = recipe.answers
    return (
        (
            "A rate is the share of benign answers that are cut, and holds only for answers read as in the calibration: "
            f"`first: {settings.first}`, `every: {settings.every}`, `in_a_row: {settings.in_a_row}`, at most "
            f"{settings.tokens} generated tokens. A longer answer is read more often, and is cut more often."
        ),
        "A harmful answer is the model's own answer to a harmful prompt; whether its text does harm was not judged.",
        "It is a probe of answers: at the end of a prompt its score means nothing, and no detector may name it.",
        *(
            (f"Answers to benign prompts of the kinds {', '.join(measured.left_out)} did not enter the calibration.",)
            if measured.left_out
            else ()
        ),
    )


def _listed(blocks: tuple[int, ...]) -> str:
    return ", ".join(str(block) for block in blocks)
