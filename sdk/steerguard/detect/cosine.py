"""The condition of CAST: a score that is the cosine of a hidden state with a condition direction, or its projection.

Reference: conditional activation steering (CAST), arXiv 2409.05907, the similarity of a hidden state and a condition
vector; the tanh is the authors' code (METHODS G2):

    sim(h) = cos(h, tanh(P_c h)),    P_c = c c^T / (c . c)

`P_c h` is `((c . h) / (c . c)) c`, so no matrix is held. Three things follow that are easy to miss:

- The length and the sign of `c` do not matter: the projection and its tanh turn with it, and `sim` is never negative.
  A state that lies along `-c` scores as high as one along `c`; which side a threshold keeps is found by calibration.
- Because of the tanh, the score depends on the length of `h`, not on its direction alone.
- The authors fit directions on the output of a block and compare at its input. Here both are the block's output.

`direction` leaves the projection out: `cos(h, c)`, in [-1, 1], with the sign that the artifact gave `c`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from steerguard.artifacts.probe_params import similarity_of
from steerguard.detect.probe import PROBE_FILE, Probe
from steerguard.errors import ArtifactFormatError

if TYPE_CHECKING:
    from torch import Tensor

    from steerguard.artifacts.probe_params import Similarity
    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.plan.plan import PlannedDetector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CosineProbe(Probe):
    """Score = mean over parts of `cos(h_i, tanh(P_i h_i))`, or of `cos(h_i, c_i)`."""

    direction: Tensor
    """float32 `[parts, width]`, no row zero."""
    similarity: Similarity
    _placed: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)
    """Directions by device; a device that is read on gets its copy once."""

    @property
    def meaning(self) -> str:
        """What the score is, for people; a calibration records it."""
        with_what = "tanh of its projection on the condition direction"
        if self.similarity == "direction":
            with_what = "the condition direction"
        return f"mean over parts of the cosine of h with {with_what}"

    def partial(self, index: int, states: Tensor) -> Tensor:
        """Return `sim(h) / parts`, float32 `[rows]`; see `Probe.partial`."""
        direction = self._on(states.device)[index]
        return cosine(states, compared_with(states, direction, self.similarity)) / len(self.blocks)

    def place(self, device: torch.device) -> None:
        """Copy the directions to a device that is read on later; see `Probe.place`."""
        self._on(device)

    def _on(self, device: torch.device) -> Tensor:
        if device not in self._placed:
            self._placed[device] = self.direction.to(device)
        return self._placed[device]


def compared_with(states: Tensor, direction: Tensor, similarity: Similarity) -> Tensor:
    """Return what each state is compared with: `tanh(P_c h)`, or `c` itself.

    Args:
        states: float32 `[rows, width]`.
        direction: c, float32 `[width]`, not zero.
        similarity: which of the two.

    Returns:
        float32 `[rows, width]`.
    """
    if similarity == "direction":
        return direction.expand_as(states)
    along = (states * direction).sum(dim=-1, keepdim=True) / (direction * direction).sum()
    return torch.tanh(along * direction)


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Return the cosine of each pair of rows, float32 `[rows]`.

    It is 0 where a row is zero, because nothing lies along it, and not a number where a row is not finite.
    """
    lengths = (one * one).sum(dim=-1).sqrt() * (other * other).sum(dim=-1).sqrt()
    dot = (one * other).sum(dim=-1)
    # A comparison with NaN is false, so a row that is not finite keeps a NaN of its dot product.
    return torch.where(lengths > 0, dot / lengths, dot * 0)


def bind_cosine(detector: PlannedDetector, artifact: VerifiedArtifact) -> CosineProbe:
    """Return the cosine probe of a planned detector.

    Raises:
        ArtifactFormatError: the directions are missing, of another shape, zero or not finite, or the manifest states
            no known similarity.
    """
    tensors = artifact.tensors.get(PROBE_FILE, {})
    direction = tensors.get("direction")
    count, width = len(detector.blocks), artifact.manifest.base.hidden_size
    if direction is None or direction.shape != (count, width):
        raise ArtifactFormatError(
            "A cosine condition needs one direction per part.",
            expected=f"direction [{count}, {width}]",
            found={name: tuple(tensor.shape) for name, tensor in tensors.items()},
            where=PROBE_FILE,
            next_step="Rebuild the artifact with `steerguard build`.",
        )
    lengths = direction.double().norm(dim=-1)
    # float32 squares of a tiny row would vanish, so such a row is as good as none.
    if not bool((torch.isfinite(lengths) & (lengths > SHORTEST)).all()):
        raise ArtifactFormatError(
            "A direction of a cosine condition is zero or not finite.",
            expected=f"lengths above {SHORTEST}",
            found=[f"{length:.3g}" for length in lengths.tolist()],
            where=PROBE_FILE,
            next_step="Rebuild the artifact with `steerguard build`.",
        )
    return CosineProbe(
        id=detector.id,
        blocks=detector.blocks,
        over=detector.over,
        direction=direction.float(),
        similarity=similarity_of(artifact.manifest),
    )


SHORTEST = 1e-6
"""Length that every direction exceeds; the score does not depend on it beyond that."""
