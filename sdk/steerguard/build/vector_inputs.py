"""What vector estimators read: residuals of target and donor, from the cache or from the models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from steerguard.build.contrast import PromptSet
from steerguard.build.donor_kinds import donor_of, donor_prompts, own_first_ids, same_tokens
from steerguard.build.estimators import AnswerResiduals, Residuals
from steerguard.build.recipe_vectors import AnyDonor
from steerguard.build.steps import BuildContext, read_residuals, residuals_of
from steerguard.models.answer_means import AnswerMeans, capture_answer_means


class VectorInputs:
    """Residuals of the target and of one donor on the recipe's prompts.

    Args:
        context: the build.
        settings: the donor part of the recipe.

    Raises:
        RecipeError: no benign prompts are left, or the donor does not fit the target.
    """

    def __init__(self, context: BuildContext, settings: AnyDonor) -> None:
        self._context = context
        self._settings = settings
        self.harmful, self.benign = donor_prompts(context, settings)
        self.donor = donor_of(context, settings)
        self._read: dict[bool, AnswerResiduals] = {}

    def residuals(self) -> Residuals:
        """Return both models' residuals at the end of the generation prompt."""
        context = self._context
        shown = self.donor.shown(self.harmful), self.donor.shown(self.benign)

        def compute() -> dict[str, Tensor]:
            model, tokenizer = self.donor.open()
            return {
                name: read_residuals(context, model, prompts, step=f"donor on {name}", tokenizer=tokenizer)
                for name, prompts in zip(("harmful", "benign"), shown, strict=True)
            }

        donor = context.cache.run("donor-residuals", self._depends_on(shown), compute)
        return Residuals(
            target_harmful=residuals_of(context, self.harmful, weights="float32", step="target on harmful"),
            target_benign=residuals_of(context, self.benign, weights="float32", step="target on benign"),
            donor_harmful=donor["harmful"],
            donor_benign=donor["benign"],
        )

    def answers(self, *, with_benign: bool) -> AnswerResiduals:
        """Return both models' means while answers are forced.

        Args:
            with_benign: also read the target's own answers to benign prompts.

        Raises:
            BuildError: the donor has another tokenizer.
        """
        if with_benign not in self._read:
            self._read[with_benign] = self._answers(with_benign=with_benign)
        return self._read[with_benign]

    def contrast(self, wordings: Sequence[str], positions: int | None) -> tuple[AnswerMeans, AnswerMeans]:
        """Return the donor's means while it refuses and the target's while it gives its own answers, harmful prompts.

        Args:
            wordings: refusals that are forced on the donor in turn.
            positions: how many tokens of the target's own answers are read; None is the length of the longest refusal.

        Raises:
            BuildError: the donor has another tokenizer.
        """
        context = self._context
        refusals = [tuple(context.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in wordings]
        forced = [refusals[number % len(refusals)] for number in range(len(self.harmful))]
        own = own_first_ids(context, self.harmful, positions or max(len(refusal) for refusal in refusals))
        return self._read_donor(self.harmful, forced, "refusing"), self._read_target(self.harmful, own, "complying")

    def _answers(self, *, with_benign: bool) -> AnswerResiduals:
        settings = self._settings
        assert settings.refusal is not None, "the recipe checks that these estimators have a refusal"
        refusal = tuple(self._context.tokenizer(settings.refusal, add_special_tokens=False)["input_ids"])
        target, donor = self._answering(self.harmful, [refusal] * len(self.harmful), "refusing")
        if not with_benign:
            return AnswerResiduals(target_harmful=target, donor_harmful=donor)
        own = own_first_ids(self._context, self.benign, settings.benign_answer_tokens)
        target_benign, donor_benign = self._answering(self.benign, own, "answering")
        return AnswerResiduals(
            target_harmful=target, donor_harmful=donor, target_benign=target_benign, donor_benign=donor_benign
        )

    def _answering(
        self, prompts: PromptSet, answers: Sequence[Sequence[int]], step: str
    ) -> tuple[AnswerMeans, AnswerMeans]:
        return self._read_target(prompts, answers, step), self._read_donor(prompts, answers, step)

    def _read_target(self, prompts: PromptSet, answers: Sequence[Sequence[int]], step: str) -> AnswerMeans:
        return answer_means_of(self._context, prompts, answers, step=f"target {step}")

    def _read_donor(self, prompts: PromptSet, answers: Sequence[Sequence[int]], step: str) -> AnswerMeans:
        context = self._context
        shown = self.donor.shown(prompts)

        def compute() -> dict[str, Tensor]:
            model, tokenizer = self.donor.open()
            same_tokens(context, tokenizer)
            return _read(context, model, tokenizer, shown, answers, f"donor {step}")

        return AnswerMeans(
            **context.cache.run("donor-answer-means", {**self._depends_on((shown,)), **_said(answers)}, compute)
        )

    def _depends_on(self, shown: Sequence[PromptSet]) -> dict[str, Any]:
        # An identity of its own does not say in which batches this donor is read.
        return {
            "donor": dict(self.donor.identity),
            "target": self._context.batched_identity(),
            "prompts": [prompts.content_digest for prompts in shown],
        }


def answer_means_of(
    context: BuildContext, prompts: PromptSet, answers: Sequence[Sequence[int]], *, step: str
) -> AnswerMeans:
    """Return the target's means while answers are forced on it, from the cache if there.

    Args:
        context: the build.
        prompts: conversations.
        answers: ids that follow each of them.
        step: what the progress bar shows.
    """
    depends_on = {**context.batched_identity(), "prompts": prompts.content_digest, **_said(answers)}

    def compute() -> dict[str, Tensor]:
        return _read(context, context.model, context.tokenizer, prompts, answers, step)

    return AnswerMeans(**context.cache.run("answer-means", depends_on, compute))


def _said(answers: Sequence[Sequence[int]]) -> dict[str, Any]:
    return {"answers": [list(answer) for answer in answers]}


def _read(
    context: BuildContext,
    model: Any,
    tokenizer: Any,
    prompts: PromptSet,
    answers: Sequence[Sequence[int]],
    step: str,
) -> dict[str, Tensor]:
    report = context.progress.step(step, len(prompts))
    means = capture_answer_means(
        model,
        tokenizer,
        prompts.conversations,
        answers,
        range(context.facts.num_blocks),
        batch_size=context.recipe.document.batch_size,
        progress=lambda done, _total: report(done),
    )
    return {"prompt": means.prompt, "last": means.last, "steps": means.steps}
