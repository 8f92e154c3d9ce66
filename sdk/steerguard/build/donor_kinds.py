"""The three kinds of donor: the target fine-tuned, the target under a safety system prompt, an existing sibling.

A donor is opened only when something must be read from it, so that a build with a full cache trains and loads nothing.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerguard.build.contrast import Conversation, PromptSet
from steerguard.build.donor import donor_from, lessons, own_answers, refusal_ids, train_donor
from steerguard.build.recipe_vectors import AnyDonor, ExistingDonor, FineTunedDonor, SystemPromptDonor
from steerguard.build.steps import BuildContext
from steerguard.errors import BuildError, RecipeError, UnsupportedArchitectureError
from steerguard.models.digests import tokenizer_sha256
from steerguard.models.inspect import inspect_model

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Donor:
    """An aligned sibling that can be opened."""

    identity: Mapping[str, Any]
    """JSON data that its residuals are a function of, for cache keys."""
    open: Callable[[], tuple[Any, Any]]
    """Returns model and tokenizer; may train or load."""
    shown: Callable[[PromptSet], PromptSet]
    """Prompts as this donor is asked them."""


def donor_of(context: BuildContext, settings: AnyDonor) -> Donor:
    """Return the donor of a recipe; nothing is trained or loaded yet.

    Raises:
        RecipeError: no benign prompts are left, or an existing sibling has no folder, another depth or another width.
    """
    match settings:
        case FineTunedDonor():
            return _fine_tuned(context, settings)
        case SystemPromptDonor():
            return _system_prompt(context, settings)
        case ExistingDonor():
            return _existing(context, settings)


def donor_prompts(context: BuildContext, settings: AnyDonor) -> tuple[PromptSet, PromptSet]:
    """Return the harmful and benign prompts that vectors and donor are made from.

    Raises:
        RecipeError: no prompts of a class are left.
    """
    classes = (
        (context.data.harmful, settings.harmful_kinds_left_out, "harmful_kinds_left_out"),
        (context.data.benign, settings.benign_kinds_left_out, "benign_kinds_left_out"),
    )
    harmful, benign = (
        drawn_for_build(context, prompts, left_out, settings.max_prompts, where=f"artifact.donor.{field}")
        for prompts, left_out, field in classes
    )
    return harmful, benign


def drawn_for_build(
    context: BuildContext, prompts: PromptSet, left_out: tuple[str, ...], max_prompts: int | None, *, where: str
) -> PromptSet:
    """Return `build` prompts of one class without some kinds, at most so many of them, drawn by the recipe's seed.

    Args:
        context: the build.
        prompts: the class, every split.
        left_out: kinds.
        max_prompts: None takes all.
        where: field of the kinds, for messages.

    Raises:
        RecipeError: no prompts are left.
    """
    kept = prompts.split("build").without_kinds(left_out)
    if len(kept) == 0:
        name = "harmful" if prompts is context.data.harmful else "benign"
        raise RecipeError(f"No {name} prompts are left.", where=where, found=list(left_out))
    if max_prompts is None or len(kept) <= max_prompts:
        return kept
    # Not security: a draw that is the same for the same seed.
    draw = random.Random(context.recipe.document.seed)  # noqa: S311 - see the line above
    return kept.chosen(sorted(draw.sample(range(len(kept)), max_prompts)))


def own_first_ids(context: BuildContext, prompts: PromptSet, tokens: int) -> list[tuple[int, ...]]:
    """Return the first ids of the target's own greedy answers, from the cache if there.

    Args:
        context: the build.
        prompts: what is answered.
        tokens: ids to keep of each answer.
    """
    answers = context.cache.run(
        "own-answers",
        {**context.batched_identity(), "prompts": prompts.content_digest, "tokens": tokens},
        lambda: {
            "answers": own_answers(
                context.model,
                context.tokenizer,
                prompts.conversations,
                tokens=tokens,
                batch_size=context.recipe.document.batch_size,
                progress=context.progress.step("target answers by itself", len(prompts)),
            )
        },
    )["answers"]
    return [tuple(row[row >= 0].tolist()) for row in answers]


def _fine_tuned(context: BuildContext, settings: FineTunedDonor) -> Donor:
    harmful, benign = donor_prompts(context, settings)
    seed = context.recipe.document.seed
    identity = {
        **context.batched_identity(),
        "harmful": harmful.content_digest,
        "benign": benign.content_digest,
        "settings": {
            **settings.model_dump(mode="json", exclude={"kind"}),
            "learning_rate": str(settings.learning_rate),
        },
        "seed": seed,
        "torch": torch.__version__,
    }

    def train() -> dict[str, Tensor]:
        refusal = refusal_ids(context.tokenizer, settings.refusal)
        answers = own_first_ids(context, benign, settings.benign_answer_tokens)
        return train_donor(
            context.model,
            lessons(context.tokenizer, harmful.conversations, [refusal] * len(harmful)),
            lessons(context.tokenizer, benign.conversations, answers),
            settings,
            seed=seed,
            progress=context.progress.step("donor learns to refuse", settings.steps),
        )

    # Without a cache folder, a second opening must not train again.
    moved = functools.cache(lambda: context.cache.run("donor", identity, train))

    def opened() -> tuple[Any, Any]:
        return donor_from(context.model, moved()), context.tokenizer

    return Donor(identity=identity, open=opened, shown=lambda prompts: prompts)


def _system_prompt(context: BuildContext, settings: SystemPromptDonor) -> Donor:
    def shown(prompts: PromptSet) -> PromptSet:
        return replace(prompts, conversations=tuple(_instructed(chat, settings) for chat in prompts.conversations))

    return Donor(
        identity={**context.identity(), "kind": settings.kind},
        open=lambda: (context.model, context.tokenizer),
        shown=shown,
    )


def _instructed(conversation: Conversation, settings: SystemPromptDonor) -> Conversation:
    """Return the conversation behind the system prompt and the examples; its own system message follows the prompt."""
    own = conversation[0]["content"] if conversation[0]["role"] == "system" else None
    system = settings.system if own is None else f"{settings.system}\n\n{own}"
    examples = tuple(
        {"role": role, "content": text}
        for pair in settings.examples
        for role, text in zip(("user", "assistant"), pair, strict=True)
    )
    return ({"role": "system", "content": system}, *examples, *conversation[0 if own is None else 1 :])


def _existing(context: BuildContext, settings: ExistingDonor) -> Donor:
    folder = context.recipe.folder / settings.path
    if not (folder / "config.json").is_file():
        raise RecipeError(
            "The donor's folder holds no model.",
            where="artifact.donor.path",
            expected="a folder with config.json, absolute or relative to the recipe",
            found=settings.path,
        )
    _check_sibling(context, folder)
    return Donor(
        identity={"kind": settings.kind, "files": _folder_digest(folder), "target": context.identity()},
        open=lambda: _load(context, folder),
        shown=lambda prompts: prompts,
    )


def _check_sibling(context: BuildContext, folder: Path) -> None:
    """Compare depth and width before any weights are loaded."""
    from transformers import AutoConfig  # noqa: PLC0415 - only this kind of donor reads a configuration

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config(decoder=True)
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(
            "The donor's configuration cannot be read.", where="artifact.donor.path", found=type(error).__name__
        ) from error
    facts = context.facts
    found = (getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None))
    if found != (facts.num_blocks, facts.hidden_size):
        raise RecipeError(
            "The donor is not a sibling of the target.",
            where="artifact.donor.path",
            expected=f"{facts.num_blocks} blocks of width {facts.hidden_size}",
            found=f"{found[0]} blocks of width {found[1]}",
            next_step="name a model of the same ancestor, or use the donor kind system_prompt or fine_tuned",
        )


def _load(context: BuildContext, folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - as above

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
        inspect_model(model, tokenizer)
    except (OSError, ValueError, UnsupportedArchitectureError) as error:
        raise BuildError("The donor cannot be loaded.", where=folder, found=type(error).__name__) from error
    return model.to(context.model.device), tokenizer


def same_tokens(context: BuildContext, tokenizer: Any) -> None:
    """Check that a donor cuts texts into the target's tokens, so that answer positions can be compared.

    Raises:
        BuildError: it has another tokenizer.
    """
    if tokenizer is not context.tokenizer and tokenizer_sha256(tokenizer) != context.facts.tokenizer_sha256:
        raise BuildError(
            "The donor has another tokenizer than the target, so positions of an answer do not correspond.",
            where="artifact.estimator",
            expected="an estimator that reads the end of the prompt only, or a donor with the target's tokenizer",
            found="another tokenizer",
        )


def _folder_digest(folder: Path) -> str:
    """Return a digest of the names and bytes of the files that make a model: configuration, tokenizer, weights."""
    content = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in {".json", ".safetensors", ".bin", ".jinja", ".model", ".txt"}:
            continue
        content.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                content.update(chunk)
    return f"sha256:{content.hexdigest()}"
