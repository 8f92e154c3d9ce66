"""Vector estimators: from the residuals of donor and target to what is added. Pure functions, no model here.

Constant estimators give one vector per block; `by_phase` and `by_step` give one per block and phase of the answer.
With h the residual stream after a block at the end of the generation prompt, and means over prompts,

    ssv            donor:  mean over harmful h - mean over benign h
    ssv_minus_srv  ssv minus the same difference in the target
    cross          mean over harmful of (donor h - target h)
    cross_centred  cross without its part along the mean over benign of (donor h - target h)
    response_mean  mean of (donor h - target h) over the last prompt token and the first answer positions, refusals
                   after harmful prompts minus the target's own answers after benign ones
    answer_contrast  mean over answer positions after harmful prompts: donor h while it refuses minus target h while it
                   gives its own answer

Without `_centred`, cross minus its benign counterpart would be ssv_minus_srv again: the four means are the same.
Sums are taken in float64, because residual streams have outlier dimensions; results are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerguard.guidance.inferaligner.formula import alignment_difference, mean_difference
from steerguard.models.answer_means import AnswerMeans


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """Residuals of both models at the end of the generation prompt, float32 `[n, num_blocks, width]`."""

    target_harmful: Tensor
    target_benign: Tensor
    donor_harmful: Tensor
    donor_benign: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerResiduals:
    """Means of both models while an answer is forced: the refusal after harmful prompts, own answers after benign."""

    target_harmful: AnswerMeans
    donor_harmful: AnswerMeans
    target_benign: AnswerMeans | None = None
    donor_benign: AnswerMeans | None = None


def ssv(residuals: Residuals) -> Tensor:
    """Return the donor's difference harmful minus benign, `[num_blocks, width]`: the paper's vector."""
    return mean_difference(residuals.donor_harmful, residuals.donor_benign)


def ssv_minus_srv(residuals: Residuals) -> Tensor:
    """Return the donor's difference minus the target's, `[num_blocks, width]`."""
    srv = mean_difference(residuals.target_harmful, residuals.target_benign)
    return alignment_difference(ssv(residuals), srv, tuple(range(srv.shape[0])))


def cross(residuals: Residuals) -> Tensor:
    """Return donor minus target on harmful prompts, `[num_blocks, width]`."""
    return mean_difference(residuals.donor_harmful, residuals.target_harmful)


def cross_centred(residuals: Residuals) -> Tensor:
    """Return `cross` with the direction of donor minus target on benign prompts projected out, per block."""
    harmful = cross(residuals).double()
    shared = mean_difference(residuals.donor_benign, residuals.target_benign).double()
    squared = (shared * shared).sum(dim=-1, keepdim=True)
    along = (harmful * shared).sum(dim=-1, keepdim=True) / squared.clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(squared > 0, harmful - along * shared, harmful).float()


def response_mean(answers: AnswerResiduals, positions: int | None = None) -> Tensor:
    """Return donor minus target, refusals minus benign answers, over the last prompt token and answer positions.

    Args:
        answers: means of both models, with the benign ones.
        positions: how many answer positions count; None is all that the refusal has.

    Returns:
        `[num_blocks, width]`.
    """
    assert answers.donor_benign is not None
    assert answers.target_benign is not None
    count = answers.donor_harmful.steps.shape[0] if positions is None else positions
    refusing = _answering(answers.donor_harmful, count) - _answering(answers.target_harmful, count)
    answering = _answering(answers.donor_benign, count) - _answering(answers.target_benign, count)
    return (refusing - answering).float()


def answer_contrast(refusing: AnswerMeans, complying: AnswerMeans, positions: int | None = None) -> Tensor:
    """Return the donor while it refuses minus the target while it gives its own answer, after harmful prompts.

    Both models are read on what they say, not at the end of the prompt, so that the difference holds for every position of
    an answer and one constant vector can carry it.

    Args:
        refusing: the donor's means with refusals forced.
        complying: the target's means with its own answers forced.
        positions: how many answer positions count; None is all that either answer has.

    Returns:
        `[num_blocks, width]`.
    """
    return (refusing.steps[:positions].double().mean(dim=0) - complying.steps[:positions].double().mean(dim=0)).float()


def by_phase(answers: AnswerResiduals, positions: int | None = None) -> dict[str, Tensor]:
    """Return donor minus target while the refusal is forced, one vector per phase: prompt, last token, answer.

    Args:
        answers: means of both models.
        positions: how many answer positions the mean of the answer phase has; None is all.
    """
    steps = (answers.donor_harmful.steps.double() - answers.target_harmful.steps.double())[:positions]
    return {**_prompt_phases(answers), "theta_decode": steps.mean(dim=0).float()}


def by_step(answers: AnswerResiduals, positions: int | None = None) -> dict[str, Tensor]:
    """Return donor minus target while the refusal is forced: prompt, last token, and one vector per answer token.

    Args:
        answers: means of both models.
        positions: how many answer tokens get a vector; None is all.
    """
    steps = (answers.donor_harmful.steps.double() - answers.target_harmful.steps.double())[:positions]
    return {**_prompt_phases(answers), "theta_steps": steps.float()}


def on_blocks(theta: Tensor, blocks: Sequence[int]) -> Tensor:
    """Return the vectors with zeros at every block but these.

    Args:
        theta: `[…, num_blocks, width]`.
        blocks: steered blocks.
    """
    kept = torch.zeros_like(theta)
    chosen = list(blocks)
    kept[..., chosen, :] = theta[..., chosen, :]
    return kept


def _prompt_phases(answers: AnswerResiduals) -> dict[str, Tensor]:
    donor, target = answers.donor_harmful, answers.target_harmful
    return {
        "theta_prompt": (donor.prompt.double() - target.prompt.double()).float(),
        "theta_last": (donor.last.double() - target.last.double()).float(),
    }


def _answering(means: AnswerMeans, positions: int) -> Tensor:
    """Return the mean over the last prompt token and the first answer positions, float64 `[num_blocks, width]`."""
    return torch.cat([means.last[None], means.steps[:positions]]).double().mean(dim=0)
