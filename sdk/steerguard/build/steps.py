"""What build steps report and what they share: the model, the prompts, the cache, the seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from steerguard.artifacts.fingerprint import PROMPTS
from steerguard.artifacts.probe_params import Part
from steerguard.build.contrast import ContrastData, PromptSet
from steerguard.build.recipe import Recipe
from steerguard.build.step_cache import StepCache
from steerguard.build.weight_types import in_weight_type
from steerguard.canonical import digest
from steerguard.models.capture import capture_residuals, measure_fingerprint
from steerguard.models.facts import ModelFacts
from steerguard.models.prompt_mean import SKIPPED_TOKENS


class Progress(Protocol):
    """Where a build says how far it is."""

    def step(self, name: str, total: int) -> Callable[[int], None]:
        """Begin a step of `total` units and return a function that is called with the units done so far."""


class SilentProgress:
    """Says nothing."""

    def step(self, name: str, total: int) -> Callable[[int], None]:
        """Accept the step and ignore what is reported."""
        del name, total
        return lambda _done: None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildContext:
    """Everything that the steps of one build share."""

    recipe: Recipe
    model: Any
    """The target with float32 parameters."""
    tokenizer: Any
    facts: ModelFacts
    data: ContrastData
    cache: StepCache
    progress: Progress
    model_digest: str
    data_folder: Path | None = None
    """Where files lie that are not part of the project; None where the build was given none."""

    def identity(self) -> dict[str, Any]:
        """Return what every cached step depends on: the weights, the tokenizer, the template and the kind of device.

        The CPU is not named, so that what was computed there before devices were told apart stays valid.
        """
        device = self.model.device.type
        return {
            "weights": self.model_digest,
            "tokenizer": self.facts.tokenizer_sha256,
            "template": self.facts.chat_template_sha256,
            **({} if device == "cpu" else {"device": device}),
        }

    def batched_identity(self) -> dict[str, Any]:
        """Return the identity of steps that rest on forwards in batches of the recipe: `batch_size` too.

        Padding changes the last bits of a state, and so what is computed from it.
        """
        return {**self.identity(), "forward_batch_size": self.recipe.document.batch_size}


def residuals_of(context: BuildContext, prompts: PromptSet, *, weights: str, step: str) -> Tensor:
    """Return the target's residuals after every block, float32 `[n, num_blocks, width]`, from the cache if there.

    Args:
        context: the build.
        prompts: conversations.
        weights: weight type that the target runs in.
        step: what the progress bar shows.
    """
    depends_on = {**context.batched_identity(), "prompts": prompts.content_digest, "run_in": weights}

    def compute() -> dict[str, Tensor]:
        return {"residuals": read_residuals(context, in_weight_type(context.model, weights), prompts, step=step)}

    return context.cache.run("residuals", depends_on, compute)["residuals"]


def part_states_of(
    context: BuildContext, prompts: PromptSet, parts: Sequence[Part], *, weights: str, step: str
) -> Tensor:
    """Return what a probe's parts read, float32 `[n, parts, width]`, from the cache if there.

    Args:
        context: the build.
        prompts: conversations.
        parts: blocks, and what is read there; one forward pass reads them all.
        weights: weight type that the target runs in.
        step: what the progress bar shows.
    """
    blocks, over = [block for block, _ in parts], [over for _, over in parts]
    if set(over) <= {"end"}:
        # The same step as that of a build of vectors, so that both share its result.
        return residuals_of(context, prompts, weights=weights, step=step)[:, blocks]
    depends_on = {
        **context.batched_identity(),
        "prompts": prompts.content_digest,
        "run_in": weights,
        "parts": [list(part) for part in parts],
        "skipped_tokens": SKIPPED_TOKENS,
    }

    def compute() -> dict[str, Tensor]:
        report = context.progress.step(step, len(prompts))
        states = capture_residuals(
            in_weight_type(context.model, weights),
            context.tokenizer,
            prompts.conversations,
            blocks,
            over=over,
            batch_size=context.recipe.document.batch_size,
            progress=lambda done, _total: report(done),
        )
        return {"states": states}

    return context.cache.run("part-states", depends_on, compute)["states"]


def read_residuals(
    context: BuildContext, model: Any, prompts: PromptSet, *, step: str, tokenizer: Any = None
) -> Tensor:
    """Return the residuals of any model after every block, float32 `[n, num_blocks, width]`.

    Args:
        context: the build.
        model: a model of the target's depth and width.
        prompts: conversations.
        step: what the progress bar shows.
        tokenizer: the model's own; None is the target's.
    """
    report = context.progress.step(step, len(prompts))
    return capture_residuals(
        model,
        tokenizer or context.tokenizer,
        prompts.conversations,
        range(context.facts.num_blocks),
        batch_size=context.recipe.document.batch_size,
        progress=lambda done, _total: report(done),
    )


def fingerprints_of(context: BuildContext) -> dict[str, Tensor]:
    """Return the unit residual directions of the fixed prompts per weight type, float32 `[prompts, blocks, width]`."""
    settings = context.recipe.document.fingerprint
    report = context.progress.step("fingerprint", len(settings.weights))
    measured: dict[str, Tensor] = {}
    for done, weights in enumerate(settings.weights, start=1):
        measured[weights] = _fingerprint(context, weights)
        report(done)
    return measured


def _fingerprint(context: BuildContext, weights: str) -> Tensor:
    blocks = context.recipe.document.fingerprint.blocks
    depends_on = {
        **context.identity(),
        "run_in": weights,
        "blocks": list(blocks),
        "prompts": digest([[dict(message) for message in chat] for chat in PROMPTS]),
    }

    def compute() -> dict[str, Tensor]:
        model = in_weight_type(context.model, weights)
        return {"directions": measure_fingerprint(model, context.tokenizer, blocks, PROMPTS)}

    return context.cache.run("fingerprint", depends_on, compute)["directions"]
