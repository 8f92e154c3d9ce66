"""What `params.critic` of an artifact may state."""

from __future__ import annotations

import pytest

from steerguard.artifacts.critic_params import CriticParams, critic_entry, critic_params
from steerguard.errors import ArtifactFormatError

STATED = {
    "tokens": 64,
    "block_tokens": 8,
    "discount": "1",
    "hidden": 32,
    "lowest_z": "-2.5",
    "highest_z": "3.25",
}


def test_what_is_written_is_what_is_read():
    params = critic_params({"critic": STATED})
    assert params == CriticParams(tokens=64, block_tokens=8, discount=1.0, hidden=32, lowest_z=-2.5, highest_z=3.25)
    assert critic_entry(params) == STATED


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens", 0),
        ("tokens", "64"),
        ("hidden", True),
        ("block_tokens", 65),
        ("discount", "0"),
        ("discount", "1.01"),
        ("discount", 1.0),
        ("lowest_z", "nan"),
        ("lowest_z", "3.25"),
        ("highest_z", "1e99"),
        ("highest_z", None),
    ],
)
def test_a_value_that_no_critic_may_state_is_refused_by_name(name, value):
    with pytest.raises(ArtifactFormatError) as caught:
        critic_params({"critic": {**STATED, name: value}})
    assert "params.critic." in str(caught.value)


@pytest.mark.parametrize("params", [{}, {"critic": None}, {"critic": [1]}])
def test_an_artifact_without_settings_of_a_critic_is_refused(params):
    with pytest.raises(ArtifactFormatError):
        critic_params(params)


def test_without_a_discount_the_length_of_blocks_does_not_matter():
    free = critic_params({"critic": STATED})
    assert free.same_clock(block_tokens=16, discount=1.0)
    assert not free.same_clock(block_tokens=8, discount=0.9)
    bound = critic_params({"critic": {**STATED, "discount": "0.9"}})
    assert bound.same_clock(block_tokens=8, discount=0.9)
    assert not bound.same_clock(block_tokens=16, discount=0.9)
    assert not bound.same_clock(block_tokens=None, discount=0.9)
