"""Two independent accounts of which positions are changed agree."""

from __future__ import annotations

import pytest
import torch

from steerguard.engine.positions import changes_decode, expected_in_rule, position_mask, stops_early
from steerguard.guidance.intervention import FirstSteps

POSITIONS = ("all", "last_prompt_token_and_decode", "decode", "prefill", FirstSteps(2), FirstSteps(9))


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("attention", [[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0]], ids=str)
@pytest.mark.parametrize("fed_back", [0, 1, 5])
def test_the_mask_and_the_count_agree_at_every_end(positions, attention, fed_back):
    for end in [column for column, counts in enumerate(attention) if counts]:
        mask = position_mask(
            positions,
            prompt_mask=torch.tensor([attention], dtype=torch.bool),
            ends=torch.tensor([end]),
            width=len(attention) + fed_back,
        )
        assert mask.sum().item() == expected_in_rule(positions, attention=attention, end=end, fed_back=fed_back)
        assert not mask[0, : len(attention)][~torch.tensor(attention, dtype=torch.bool)].any()
        steps = positions.steps if isinstance(positions, FirstSteps) else fed_back
        assert mask[0, len(attention) : len(attention) + steps].all().item() == (
            changes_decode(positions) or fed_back == 0
        )
        assert stops_early(positions) == isinstance(positions, FirstSteps)
