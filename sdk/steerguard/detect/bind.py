"""From a planned detector and its verified artifact to the probe that the engine reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerguard.detect.cosine import bind_cosine
from steerguard.detect.linear_probe import bind_linear_probe
from steerguard.errors import ArtifactFormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.detect.probe import Probe
    from steerguard.plan.plan import PlannedDetector

_BINDERS: Mapping[str, Callable[[PlannedDetector, VerifiedArtifact], Probe]] = {
    "linear_probe": bind_linear_probe,
    "cosine": bind_cosine,
}


def bind_probe(detector: PlannedDetector, artifact: VerifiedArtifact) -> Probe:
    """Return the probe of a planned detector.

    Raises:
        ArtifactFormatError: the artifact is of another method than the detector, or its tensors do not fit.
    """
    method = artifact.manifest.method
    # The tensors of one method mean something else to another, whatever their names and shapes.
    if method != detector.type or detector.type not in _BINDERS:
        raise ArtifactFormatError(
            f"Detector `{detector.id}` is of another type than its artifact.",
            expected=f"an artifact of method `{detector.type}`, one of {', '.join(_BINDERS)}",
            found=f"{artifact.manifest.reference} of method `{method}`",
            where=f"detector `{detector.id}`",
            next_step="Write the artifact's method as the `type` of the detector.",
        )
    return _BINDERS[detector.type](detector, artifact)
