"""What the card of a steering artifact says about its donor and its estimator, generated from the recipe."""

from __future__ import annotations

from collections.abc import Mapping

from steerguard.build.donor_kinds import donor_prompts
from steerguard.build.recipe_vectors import AnyDonor, Estimator, ExistingDonor, FineTunedDonor, SystemPromptDonor
from steerguard.build.steps import BuildContext

_ESTIMATORS: Mapping[Estimator, str] = {
    "ssv": "theta is the donor's harmful-minus-benign mean difference at the end of the generation prompt (SSV).",
    "ssv_minus_srv": (
        "theta is the donor's harmful-minus-benign mean difference at the end of the generation prompt minus "
        "the model's own. The paper adds the donor's difference (SSV); here the model's own (SRV) is subtracted."
    ),
    "cross": "theta is the mean over harmful prompts of donor minus model at the end of the generation prompt.",
    "cross_centred": (
        "theta is the mean over harmful prompts of donor minus model at the end of the generation prompt, without its "
        "part along the same mean over benign prompts."
    ),
    "response_mean": (
        "theta is donor minus model with the refusal forced, averaged over the last prompt token and the first answer "
        "positions, minus the same on the model's own answers to benign prompts."
    ),
    "answer_contrast": (
        "theta is the donor while it refuses minus the model while it gives its own answer, both after harmful prompts and "
        "averaged over answer positions. The paper reads both at the end of the prompt."
    ),
    "by_phase": (
        "three vectors are donor minus model on harmful prompts with the refusal forced: at prompt positions, at the last "
        "token of the generation prompt, and averaged over the refusal, added at every generated token."
    ),
    "by_step": (
        "the vectors are donor minus model on harmful prompts with the refusal forced: at prompt positions, at the last "
        "token of the generation prompt, and one per token of the refusal, added in this order and then none."
    ),
}


def how_donor_was_made(context: BuildContext, donor: AnyDonor) -> tuple[str, ...]:
    """Return sentences about the prompts and the donor."""
    harmful, benign = donor_prompts(context, donor)
    left_out = f", kinds {', '.join(donor.benign_kinds_left_out)} left out" if donor.benign_kinds_left_out else ""
    prompts = f"{len(harmful)} harmful and {len(benign)} benign prompts of the project's own contrast set, split `build`{left_out}."
    match donor:
        case FineTunedDonor():
            made = (
                f"A donor (a copy of the model) was fine-tuned in float32 on blocks {donor.train_blocks[0]} to "
                f"{donor.train_blocks[-1]}: {donor.steps} steps of {donor.batch_size}, learning rate "
                f"{donor.learning_rate}, one refusal sentence for harmful prompts, the first "
                f"{donor.benign_answer_tokens} tokens of the model's own greedy answer for benign ones. It was discarded."
            )
        case SystemPromptDonor():
            made = (
                "The donor is the model itself under a safety system prompt"
                + (f" and {len(donor.examples)} examples of refusals" if donor.examples else "")
                + "; nothing was trained."
            )
        case ExistingDonor():
            made = "The donor is an existing model of the same depth and width; it was only read."
    return prompts, made


def how_estimated(estimator: Estimator) -> str:
    """Return one sentence that says what the vectors are."""
    return f"Per block, {_ESTIMATORS[estimator]}"
