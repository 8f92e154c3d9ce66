"""What `params.critic` of an artifact of the type `critic` states: the clock that it was trained on, and its inputs.

The blocks that it reads are those of its cost model, which lies in the same artifact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerguard.artifacts.calibration import float32_text, to_float32
from steerguard.errors import ArtifactFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

CRITIC_TYPE = "critic"
CRITIC_FEATURE = "critic.safety_value"
"""What an artifact with a critic requires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticParams:
    """The settings under which a critic was trained; its outputs mean what they say only under the same ones."""

    tokens: int
    """Tokens of the longest answer: the end that the critic foresees."""
    block_tokens: int
    """Tokens between two updates of the safety state."""
    discount: float
    """gamma of the safety state, in (0, 1], float32."""
    hidden: int
    """Units of the hidden layer."""
    lowest_z: float
    """Smallest safety state seen in training, float32; a lower one counts as this."""
    highest_z: float
    """Largest safety state seen in training, float32."""

    def same_clock(self, *, block_tokens: int | None, discount: float) -> bool:
        """Tell whether a search rolls the safety state as the training did; with a discount of 1 blocks do not matter."""
        if to_float32(discount) != self.discount:
            return False
        return self.discount == 1.0 or block_tokens == self.block_tokens


def critic_params(params: Mapping[str, Any]) -> CriticParams:
    """Return what `params.critic` of a manifest states.

    Args:
        params: of the manifest.

    Raises:
        ArtifactFormatError: it is missing, or an entry is not what a critic may state.
    """
    stated = params.get("critic")
    if not isinstance(stated, dict):
        raise _malformed("critic", "the settings of a critic", stated)
    found = CriticParams(
        tokens=_count(stated, "tokens"),
        block_tokens=_count(stated, "block_tokens"),
        discount=_number(stated, "discount"),
        hidden=_count(stated, "hidden"),
        lowest_z=_number(stated, "lowest_z"),
        highest_z=_number(stated, "highest_z"),
    )
    if not 0 < found.discount <= 1:
        raise _malformed("critic.discount", "above 0 and at most 1", stated["discount"])
    if found.block_tokens > found.tokens:
        raise _malformed("critic.block_tokens", f"at most `tokens`, which is {found.tokens}", found.block_tokens)
    if found.lowest_z >= found.highest_z:
        raise _malformed("critic.highest_z", f"above `lowest_z`, which is {stated['lowest_z']}", stated["highest_z"])
    return found


def critic_entry(params: CriticParams) -> dict[str, Any]:
    """Return the entry `critic` of a manifest's params: the inverse of `critic_params`."""
    return {
        "tokens": params.tokens,
        "block_tokens": params.block_tokens,
        "discount": float32_text(params.discount),
        "hidden": params.hidden,
        "lowest_z": float32_text(params.lowest_z),
        "highest_z": float32_text(params.highest_z),
    }


def _count(stated: Mapping[str, Any], name: str) -> int:
    value = stated.get(name)
    if type(value) is not int or value < 1:
        raise _malformed(f"critic.{name}", "a whole number from 1 on", value)
    return value


def _number(stated: Mapping[str, Any], name: str) -> float:
    value = stated.get(name)
    try:
        number = to_float32(float(value)) if isinstance(value, str) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _malformed(f"critic.{name}", "a decimal string of a finite number", value)
    return number


def _malformed(name: str, expected: str, found: object) -> ArtifactFormatError:
    return ArtifactFormatError(
        f"The artifact's parameter `{name}` is not what a critic may state.",
        expected=expected,
        found=repr(found)[:80],
        where=f"manifest.json: params.{name}",
        next_step="Upgrade steerguard, or use another version of the artifact.",
    )
