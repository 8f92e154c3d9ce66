"""The cost model whose costs a critic foresees: read from a registry, pinned by the recipe, checked against the model."""

from __future__ import annotations

from torch import Tensor

from steerguard.artifacts.calibration import Calibration
from steerguard.artifacts.cost_params import COST_FILE
from steerguard.artifacts.fingerprint import PROMPTS, Fingerprint, check_fingerprint, recorded_fingerprint
from steerguard.artifacts.fit import check_fit, fingerprint_entry
from steerguard.artifacts.verify import VerifiedArtifact, verify_artifact
from steerguard.build.recipe_critic import LabellingCost
from steerguard.build.steps import BuildContext
from steerguard.build.weight_types import in_weight_type
from steerguard.errors import RecipeError
from steerguard.models.capture import measure_fingerprint
from steerguard.models.inspect import inspect_model
from steerguard.registry.local import LocalDirectory

_WHERE = "artifact.cost_model"


def labelling_artifact(context: BuildContext, settings: LabellingCost, *, weights: str) -> VerifiedArtifact:
    """Return the artifact of the cost model, whose bytes are those that the recipe or the registry's index pins.

    Args:
        context: the build.
        settings: reference, digest and registry.
        weights: weight type that the target runs in; the cost model must have been checked on it.

    Raises:
        RecipeError: the registry has no such artifact, or one with another digest, or it holds no calibration.
        ArtifactError: the registry or the artifact cannot be read or is malformed.
        IncompatibleModelError: the cost model was made for another model.
    """
    registry = LocalDirectory(context.recipe.folder / settings.registry)
    pins = {pin.reference: pin for pin in registry.pinned(settings.artifact.split("/")[0])}
    pin = pins.get(settings.artifact)
    if pin is None or settings.digest not in {None, pin.digest}:
        raise RecipeError(
            "The registry does not hold the cost model that the recipe pins.",
            where=_WHERE,
            expected=settings.artifact if settings.digest is None else f"{settings.artifact} with {settings.digest}",
            found="no such artifact" if pin is None else pin.digest,
            next_step="build the cost model first, add it to the registry, and write its digest into the recipe",
        )
    artifact = verify_artifact(registry.read(pin), pin.digest, where=pin.reference)
    model = in_weight_type(context.model, weights)
    facts = inspect_model(model, context.tokenizer)
    check_fit(artifact.manifest, facts)
    entry = fingerprint_entry(artifact.manifest, facts)
    directions = measure_fingerprint(model, context.tokenizer, entry.blocks, PROMPTS)
    measured = Fingerprint(blocks=entry.blocks, directions=directions)
    check_fingerprint(recorded_fingerprint(artifact, entry), measured, entry.max_one_minus_cos)
    return artifact


def calibration_of(artifact: VerifiedArtifact) -> Calibration:
    """Return the costs of benign answers that budgets are taken from.

    Raises:
        RecipeError: the cost model is not calibrated.
    """
    if artifact.calibration is None:
        raise RecipeError(
            "The cost model has no calibration, so a rate gives no budget.",
            where=_WHERE,
            expected="an artifact with calibration.json",
            found=artifact.manifest.reference,
            next_step="build the cost model with a calibration split",
        )
    return artifact.calibration


def copied_tensors(artifact: VerifiedArtifact) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of the cost model, by file and name: the critic's artifact carries a copy."""
    return {COST_FILE: dict(artifact.tensors[COST_FILE])}
