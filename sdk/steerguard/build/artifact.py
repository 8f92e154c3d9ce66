"""From a recipe and a loaded model to an artifact folder: the straight line of a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from steerguard.artifacts.codec import write_artifact
from steerguard.build.answer_artifact import build_answer_probe
from steerguard.build.card import render_card
from steerguard.build.condition_artifact import build_condition
from steerguard.build.contrast import load_contrast
from steerguard.build.cost_artifact import build_cost_model
from steerguard.build.critic_artifact import build_critic
from steerguard.build.fitted_refusal import build_fitted_refusal
from steerguard.build.parts import ArtifactParts
from steerguard.build.probe_artifact import build_probe
from steerguard.build.recipe import Recipe
from steerguard.build.recipe_cost import CostModelRecipe
from steerguard.build.recipe_critic import CriticRecipe
from steerguard.build.recipe_probe import AnswerProbeRecipe, ConditionRecipe, ProbeRecipe
from steerguard.build.recipe_refusal_direction import RefusalDirectionRecipe
from steerguard.build.recipe_vectors import FittedRefusalRecipe, SteeringVectorsRecipe
from steerguard.build.refusal_direction import build_refusal_direction
from steerguard.build.steering_vectors import build_steering_vectors
from steerguard.build.step_cache import StepCache
from steerguard.build.steps import BuildContext, Progress, SilentProgress, fingerprints_of
from steerguard.build.weight_types import in_weight_type, weights_digest
from steerguard.errors import RecipeError
from steerguard.models.facts import ModelFacts
from steerguard.models.inspect import inspect_model


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltArtifact:
    """Where the artifact lies, and what was done for it."""

    folder: Path
    digest: str
    reused_steps: tuple[str, ...]
    """Steps that were read from the cache."""
    figures: tuple[Mapping[str, Any], ...]
    """What the build measured."""


def build_artifact(
    recipe: Recipe,
    model: Any,
    tokenizer: Any,
    *,
    out: Path,
    cache: Path | None = None,
    data_folder: Path | None = None,
    effect: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> BuiltArtifact:
    """Carry out a recipe on a model and write the artifact folder.

    The model is never changed. The same recipe, seed, weights and thread count give the same bytes.

    Args:
        recipe: what to build.
        model: the loaded target; parameters are converted to float32 copies where a step needs them.
        tokenizer: its tokenizer, with a chat template.
        out: a folder that does not exist yet.
        cache: folder for step results; None keeps none.
        data_folder: folder of the files that a recipe names beside the project's own; None where it names none.
        effect: figures measured through the guarded model, for card and `benchmarks.json`.
        progress: told about steps; silent when None.

    Raises:
        RecipeError: prompts are missing, or the recipe names blocks that the model does not have.
        BuildError: a step failed.
    """
    facts = inspect_model(model, tokenizer)
    _check_blocks(recipe, facts)
    data = load_contrast(recipe)
    target = in_weight_type(model, "float32")
    context = BuildContext(
        recipe=recipe,
        model=target,
        tokenizer=tokenizer,
        facts=facts,
        data=data,
        cache=StepCache(cache),
        progress=progress or SilentProgress(),
        model_digest=weights_digest(target),
        data_folder=data_folder,
    )
    parts = _built(context)
    directions = fingerprints_of(context)
    benchmarks: dict[str, Any] = {"build": [dict(figure) for figure in parts.figures]}
    if parts.compared:
        benchmarks["compared"] = {table.id: [dict(row) for row in table.rows] for table in parts.compared}
    if effect is not None:
        benchmarks["effect"] = dict(effect)
    digest = write_artifact(
        out,
        _manifest_fields(context, parts, directions),
        {**parts.tensors, **{_fingerprint_file(name): {"directions": rows} for name, rows in directions.items()}},
        parts.calibration,
        benchmarks,
        render_card(recipe.document, parts, effect),
        recipe.text,
    )
    return BuiltArtifact(
        folder=out, digest=digest, reused_steps=tuple(context.cache.reused), figures=tuple(parts.figures)
    )


def _built(context: BuildContext) -> ArtifactParts:
    artifact = context.recipe.document.artifact
    match artifact:
        case SteeringVectorsRecipe():
            return build_steering_vectors(context, artifact)
        case FittedRefusalRecipe():
            return build_fitted_refusal(context, artifact)
        case RefusalDirectionRecipe():
            return build_refusal_direction(context, artifact)
        case ProbeRecipe():
            return build_probe(context, artifact)
        case AnswerProbeRecipe():
            return build_answer_probe(context, artifact)
        case ConditionRecipe():
            return build_condition(context, artifact)
        case CostModelRecipe():
            return build_cost_model(context, artifact)
        case CriticRecipe():
            return build_critic(context, artifact)


def _check_blocks(recipe: Recipe, facts: ModelFacts) -> None:
    recorded = recipe.document.base.num_blocks
    if recorded is not None and recorded != facts.num_blocks:
        raise RecipeError(
            "The recipe is for a model of another depth.",
            where="base.num_blocks",
            expected=f"{facts.num_blocks} decoder blocks",
            found=recorded,
            next_step="build with --scale-blocks and a --variant of your own",
        )
    field, highest = recipe.document.highest_block()
    if highest >= facts.num_blocks:
        raise RecipeError(
            "The recipe names a block that the model does not have.",
            where=field,
            expected=f"blocks 0 to {facts.num_blocks - 1}",
            found=highest,
            next_step="write a recipe for this model: blocks scale with its depth",
        )


def _fingerprint_file(weights: str) -> str:
    return f"weights/fingerprint.{weights}.safetensors"


def _manifest_fields(context: BuildContext, parts: ArtifactParts, directions: Mapping[str, Tensor]) -> dict[str, Any]:
    document, facts = context.recipe.document, context.facts
    settings = document.fingerprint
    return {
        "apiVersion": "steerguard/v1alpha1",
        "kind": "ArtifactManifest",
        "family": document.metadata.family,
        "variant": document.metadata.variant,
        "version": document.metadata.version,
        "type": document.artifact.type,
        "method": parts.method,
        "method_version": 1,
        "requires": {"sdk": ">=0.1", "features": sorted(parts.features)},
        "base": {
            "repo": document.base.repo,
            "source": document.base.source,
            "architecture": facts.architecture,
            "decoder": facts.decoder,
            "num_blocks": facts.num_blocks,
            "hidden_size": facts.hidden_size,
            "vocab_size": facts.vocab_size,
            "tokenizer_sha256": facts.tokenizer_sha256,
            "chat_template_sha256": facts.chat_template_sha256,
        },
        "fingerprints": [
            {
                "weights": weights,
                "blocks": list(settings.blocks),
                "prompts": int(rows.shape[0]),
                "file": _fingerprint_file(weights),
                "max_one_minus_cos": settings.max_one_minus_cos,
            }
            for weights, rows in directions.items()
        ],
        "hook_point": "resid_post",
        "params": dict(parts.params),
        "training": {"prompts": dict(context.data.file_digests), "seed": document.seed},
        "license": document.metadata.license,
        "created": document.metadata.created,
        **parts.manifest_extra,
    }
