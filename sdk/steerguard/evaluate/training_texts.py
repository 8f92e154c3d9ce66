"""The training prompts that ship with the package, found by the digest that a manifest states."""

from __future__ import annotations

from steerguard.build.contrast import prompt_file
from steerguard.canonical import sha256_hex
from steerguard.content import registry_directory
from steerguard.errors import RecipeError

_LEARNED = ("build", "calibration")


def own_training_texts(sha256: str) -> tuple[str, ...] | None:
    """Return the last user message of every row of a shipped prompt file that artifacts learn or calibrate from.

    Args:
        sha256: of the bytes of the file, hexadecimal.

    Returns:
        The texts; None where no shipped prompt file has this digest.
    """
    for path in sorted((registry_directory() / "prompts").glob("*.jsonl")):
        if sha256_hex(path.read_bytes()) != sha256:
            continue
        try:
            rows = prompt_file(path)
        except RecipeError:
            return None  # a shipped file of another kind, such as refusals: it holds no prompts
        chosen = rows.chosen([index for index, split in enumerate(rows.splits) if split in _LEARNED])
        return tuple(chat[-1]["content"] for chat in chosen.conversations)
    return None
