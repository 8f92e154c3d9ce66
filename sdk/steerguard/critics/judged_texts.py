"""What every cost model over texts does around its model: count rows, batch windows, check numbers, keep errors ours.

- An empty answer costs `nan`: there is nothing to judge. No other answer ever does.
- A number that is not finite, and any failure of the model, raises `CostModelError`, whose message has no text in it.
- Running out of memory is passed on as it is. A search refuses the row then, as for any failure of its judge.
- Costs are float32 on the CPU, where the texts are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from steerguard.critics.cost import CostInputs
from steerguard.errors import CostModelError


def judged_rows(inputs: CostInputs, *, name: str) -> list[int]:
    """Return the indices of the answers that are not empty.

    Raises:
        CostModelError: there is not one prompt and, beside states, one answer per row, or one of them is not text.
    """
    prompts, answers = inputs.prompts, inputs.answers
    if len(prompts) != len(answers):
        raise CostModelError(
            "A cost model over texts needs one prompt per answer.",
            expected=f"{len(answers)} prompts",
            found=len(prompts),
            where=f"cost model `{name}`",
            next_step="Pass the text of each prompt beside the text of its answer.",
        )
    if inputs.means is not None and len(inputs.means) != len(answers):
        raise CostModelError(
            "A cost model over texts needs the text of every answer.",
            expected=f"{len(inputs.means)} answers, one per row of states",
            found=len(answers),
            where=f"cost model `{name}`",
            next_step="Pass prompts and answers as text beside the states.",
        )
    kinds = {type(text).__name__ for text in (*prompts, *answers)} - {"str"}
    if kinds:
        raise CostModelError(
            "A cost model over texts reads text.",
            expected="str",
            found=", ".join(sorted(kinds)),
            where=f"cost model `{name}`",
            next_step="Decode token ids before they are judged.",
        )
    return [row for row, answer in enumerate(answers) if answer]


def worst_of_windows(
    inputs: CostInputs,
    *,
    name: str,
    windows: Callable[[str, str], list[list[int]]],
    cost: Callable[[Sequence[Sequence[int]]], Tensor],
    batch_rows: int,
) -> Tensor:
    """Return the cost of each answer: the highest over its windows.

    Args:
        inputs: prompts and answers.
        name: of the cost model, for messages.
        windows: token ids of each window of one prompt and answer.
        cost: from unpadded token ids to the cost of each sequence, `[rows]`.
        batch_rows: sequences per forward pass.

    Returns:
        float32 `[rows]` on the CPU; `nan` for an empty answer.

    Raises:
        CostModelError: rows do not match, or the model failed or gave a number that is not finite.
    """
    rows = judged_rows(inputs, name=name)
    costs = torch.full((len(inputs.answers),), torch.nan, dtype=torch.float32, device="cpu")
    if not rows:
        return costs
    pieces: list[list[int]] = []
    owner: list[int] = []
    with translated(name), torch.no_grad():
        for place, row in enumerate(rows):
            found = windows(inputs.prompts[row], inputs.answers[row])
            pieces.extend(found)
            owner.extend([place] * len(found))
        batches = [cost(pieces[start : start + batch_rows]) for start in range(0, len(pieces), batch_rows)]
        scores = torch.cat([batch.float().cpu() for batch in batches])
    check_finite(scores, name=name)
    worst = torch.full((len(rows),), -torch.inf, dtype=torch.float32, device="cpu")
    worst = worst.scatter_reduce(0, torch.tensor(owner, device="cpu"), scores, reduce="amax")
    costs[torch.tensor(rows, device="cpu")] = worst
    return costs


def check_finite(scores: Tensor, *, name: str) -> None:
    """Refuse scores that are not finite in float32.

    Raises:
        CostModelError: at least one is not.
    """
    finite = torch.isfinite(scores)
    if not bool(finite.all()):
        raise CostModelError(
            "A cost model gave a number that is not finite.",
            expected="a finite float32 number per answer",
            found=f"{int((~finite).sum())} of {scores.numel()} are not finite",
            where=f"cost model `{name}`",
            next_step="Run the cost model in float32, or replace it; the answer was not judged.",
        )


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn any other exception into `CostModelError`, with the cause kept and none of its text in the message.

    Out of memory passes as it is.
    """
    try:
        yield
    except (CostModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise CostModelError(
            "A cost model failed.",
            expected="a number per answer",
            found=type(error).__name__,
            where=f"cost model `{name}`",
            next_step="The cause is attached as `__cause__`; repair the cost model. The answer was not judged.",
        ) from error
