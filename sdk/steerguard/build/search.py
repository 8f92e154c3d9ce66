"""Search over estimator, window, positions and strength of steering vectors, on build prompts only.

Every setting answers the same harmful and benign build prompts, all of them steered; each answer set is a cached
step, so a killed search continues where it stopped. What is stored are token ids; scores are computed from them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steerguard.build.contrast import PromptSet
from steerguard.build.parts import ComparedSettings
from steerguard.build.recipe_vectors import SCHEDULES, Estimator, Positions, SteeringVectorsRecipe, VectorSearch
from steerguard.build.search_scores import Limits, Setting, Trial, best, pareto_front, scored
from steerguard.build.steps import BuildContext
from steerguard.build.trials import Steering, plain_losses, steered_answers, steering_of
from steerguard.build.weight_types import in_weight_type
from steerguard.errors import BuildError, RecipeError

_COLUMNS = {
    "estimator": "estimator",
    "blocks": "blocks",
    "positions": "positions",
    "strength": "strength",
    "strict": "strict refusal",
    "opens": "opens as refusal",
    "distinct_refusals": "distinct refusals",
    "repetition": "repetition",
    "perplexity": "perplexity",
    "benign_not_refused": "benign not refused",
    "benign_equal": "benign unchanged",
    "within_limits": "within limits",
    "pareto": "Pareto",
    "chosen": "chosen",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenVectors:
    """Which vectors an artifact holds and how they are added."""

    estimator: Estimator
    blocks: tuple[int, ...]
    strength: str
    positions: Positions | None
    """None for a schedule, which has its own."""
    compared: ComparedSettings | None = None
    """The table that they were chosen from."""


def search_vectors(
    context: BuildContext,
    recipe: SteeringVectorsRecipe,
    search: VectorSearch,
    vectors: Mapping[Estimator, Mapping[str, Tensor]],
) -> ChosenVectors:
    """Try every listed setting and return the one that refuses most and disturbs least, within the limits.

    Args:
        context: the build.
        recipe: the steering part of the recipe.
        search: its lists and limits.
        vectors: tensors of each estimator at every block, by name.

    Raises:
        RecipeError: more prompts are asked for than the build split has.
        BuildError: no setting is within the limits.
    """
    harmful = _drawn(context, context.data.harmful, search.prompts_harmful, "harmful")
    benign = _drawn(context, context.data.benign, search.prompts_benign, "benign")
    listed = list(settings_of(recipe, search))
    bench = _Bench(context, search, harmful, benign, context.progress.step("search", _units(listed, harmful, benign)))
    unguided = bench.texts(bench.answered(None)["benign"])
    trials = []
    for setting in listed:
        steering = steering_of(vectors[setting.estimator], setting.blocks, float(setting.strength), setting.positions)
        said = bench.answered(steering)
        trials.append(
            scored(
                setting, bench.texts(said["harmful"]), said["losses"].tolist(), bench.texts(said["benign"]), unguided
            )
        )
    limits = Limits(
        max_repetition=search.max_repetition,
        max_perplexity=search.max_perplexity,
        min_strict=search.min_strict,
        strict_tolerance=search.strict_tolerance,
    )
    chosen = best(trials, limits)
    if chosen is None:
        closest = max(trials, key=lambda trial: (trial.strict.rate, -trial.repetition))
        raise BuildError(
            "No setting of the search is within its limits.",
            where="artifact.search",
            expected=(
                f"strict refusals from {search.min_strict}, repetition up to {search.max_repetition}, "
                f"perplexity up to {search.max_perplexity}"
            ),
            found=(
                f"where most is refused {closest.strict.rate:.4f}, {closest.repetition:.4f} and "
                f"{closest.perplexity:.2f} ({_described(closest.setting)})"
            ),
            next_step="try other strengths or blocks, or change the limits; answers that were computed are reused",
        )
    return ChosenVectors(
        estimator=chosen.setting.estimator,
        blocks=chosen.setting.blocks,
        strength=chosen.setting.strength,
        positions=chosen.setting.positions,
        compared=_table(trials, chosen, limits, search, (len(harmful), len(benign))),
    )


def settings_of(recipe: SteeringVectorsRecipe, search: VectorSearch) -> Iterator[Setting]:
    """Yield every combination that the recipe lists; a schedule has one entry whatever the positions are."""
    windows = [tuple(range(first, last + 1)) for first, last in search.windows or ()] or [recipe.blocks or ()]
    strengths = search.strengths or ((recipe.strength,) if recipe.strength is not None else ())
    constant: Sequence[Positions | None] = search.positions or (recipe.positions or "all",)
    for estimator in recipe.tried_estimators:
        for blocks in windows:
            for positions in (None,) if estimator in SCHEDULES else constant:
                for strength in strengths:
                    yield Setting(estimator=estimator, blocks=blocks, positions=positions, strength=strength)


class _Bench:
    """Answers the prompts of a search under one steering after another."""

    def __init__(
        self,
        context: BuildContext,
        search: VectorSearch,
        harmful: PromptSet,
        benign: PromptSet,
        report: Callable[[int], None],
    ) -> None:
        self._context, self._search = context, search
        self._prompts = {"harmful": harmful, "benign": benign}
        self._report, self._done = report, 0
        self._model: Any = None

    def answered(self, steering: Steering | None) -> dict[str, Tensor]:
        """Return answer ids (`harmful`, `benign`) and the `losses` of the harmful ones under the plain model."""
        search, context = self._search, self._context
        depends_on = {
            **context.identity(),
            "steering": None if steering is None else steering.content_digest,
            **{name: prompts.content_digest for name, prompts in self._prompts.items()},
            "max_new_tokens": search.max_new_tokens,
            # Batches and threads change the last bits of half precision, and so some tokens.
            "batch_size": search.batch_size,
            "run_in": search.weights,
            "torch": torch.__version__,
        }
        result = context.cache.run("trial", depends_on, lambda: self._answer(steering))
        self._done += sum(len(prompts) for prompts in self._prompts.values())
        self._report(self._done)
        return result

    def texts(self, answers: Tensor) -> list[str]:
        """Return decoded answers without special tokens."""
        decode = self._context.tokenizer.decode
        return [decode(row[row >= 0].tolist(), skip_special_tokens=True) for row in answers]

    def _counting_from(self, done: int) -> Callable[[int], None]:
        return lambda count: self._report(done + count)

    def _answer(self, steering: Steering | None) -> dict[str, Tensor]:
        search, tokenizer = self._search, self._context.tokenizer
        if self._model is None:
            self._model = in_weight_type(self._context.model, search.weights)
        answers, done = {}, self._done
        for name, prompts in self._prompts.items():
            answers[name] = steered_answers(
                self._model,
                tokenizer,
                prompts.conversations,
                steering,
                tokens=search.max_new_tokens,
                batch_size=search.batch_size,
                progress=self._counting_from(done),
            )
            done += len(prompts)
        losses = plain_losses(
            self._model,
            tokenizer,
            self._prompts["harmful"].conversations,
            answers["harmful"],
            batch_size=search.batch_size,
        )
        return {**answers, "losses": losses}


def _units(settings: Sequence[Setting], harmful: PromptSet, benign: PromptSet) -> int:
    """Return how many answers the search asks for, the unguided ones included."""
    return (len(settings) + 1) * (len(harmful) + len(benign))


def _drawn(context: BuildContext, prompts: PromptSet, count: int, name: str) -> PromptSet:
    build = prompts.split("build")
    if count > len(build):
        raise RecipeError(
            "The search asks for more prompts than there are.",
            where=f"artifact.search.prompts_{name}",
            expected=f"at most {len(build)}",
            found=count,
        )
    # Not security: the same seed draws the same prompts.
    draw = random.Random(context.recipe.document.seed)  # noqa: S311 - see the line above
    return build.chosen(sorted(draw.sample(range(len(build)), count)))


def _described(setting: Setting) -> str:
    where = setting.positions or "schedule"
    return f"{setting.estimator}, blocks {_window(setting.blocks)}, {where}, strength {setting.strength}"


def _window(blocks: tuple[int, ...]) -> str:
    if len(blocks) > 1 and blocks == tuple(range(blocks[0], blocks[-1] + 1)):
        return f"{blocks[0]} to {blocks[-1]}"
    return ", ".join(str(block) for block in blocks)


def _table(
    trials: Sequence[Trial], chosen: Trial, limits: Limits, search: VectorSearch, counts: tuple[int, int]
) -> ComparedSettings:
    rows = tuple(
        {
            "estimator": trial.setting.estimator,
            "blocks": _window(trial.setting.blocks),
            "positions": trial.setting.positions,
            "strength": trial.setting.strength,
            "strict": f"{trial.strict.rate:.4f}",
            "opens": f"{trial.opens.rate:.4f}",
            "distinct_refusals": trial.distinct_refusals,
            "repetition": f"{trial.repetition:.4f}",
            "perplexity": f"{trial.perplexity:.2f}",
            "benign_not_refused": f"{trial.benign_not_refused.rate:.4f}",
            "benign_equal": f"{trial.benign_equal.rate:.4f}",
            "within_limits": limits.admit(trial),
            "pareto": on_front,
            "chosen": trial is chosen,
        }
        for trial, on_front in zip(trials, pareto_front(trials), strict=True)
    )
    return ComparedSettings(
        id="vector_search",
        title="What was tried",
        text=(
            f"{len(rows)} settings answered {counts[0]} harmful and {counts[1]} benign prompts of the split `build`, every "
            f"one steered ({search.weights} weights, greedy, {search.max_new_tokens} new tokens, no gate). Admitted are "
            f"settings with a share of strict refusals from {limits.min_strict}, mean repetition up to "
            f"{limits.max_repetition} and median perplexity under the plain model up to {limits.max_perplexity}. Chosen: "
            f"among those within {limits.strict_tolerance} of the most strict refusals, the lowest sum of repetition, "
            "sameness (1 less the different refusals per harmful prompt) and benign answers that open as a refusal; ties by more strict "
            "refusals, then lower strength. The Pareto front counts strict refusal, repetition, perplexity and benign "
            "answers that do not open as a refusal. A gate decides whether a "
            "benign prompt is steered at all; without one these shares are the worst case. Since the setting was chosen "
            "by them, its own figures in this table flatter."
        ),
        columns=_COLUMNS,
        rows=rows,
    )
