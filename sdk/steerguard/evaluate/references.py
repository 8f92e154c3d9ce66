"""Reference refusals: sentences that an answer is compared with, word by word."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from steerguard.errors import PromptFileError


def read_references(path: Path) -> tuple[str, ...]:
    """Read reference refusals, one per line; empty lines do not count.

    Raises:
        PromptFileError: the file cannot be read or has no line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PromptFileError(
            "The file of reference refusals cannot be read.",
            where=path,
            expected="UTF-8 text, one sentence per line",
            found=type(error).__name__,
        ) from error
    references = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not references:
        raise PromptFileError("The file of reference refusals is empty.", where=path, expected="one sentence per line")
    return references


def contains_reference(text: str, references: Sequence[str]) -> bool:
    """Tell whether one of the sentences stands anywhere in the answer.

    Case, runs of white space, the shape of apostrophes and a last full stop do not count.

    Args:
        text: the decoded answer without special tokens.
        references: refusal sentences, for example those that vectors were fitted on.
    """
    plain = _comparable(text)
    return any(_comparable(reference).rstrip(".! ") in plain for reference in references)


def _comparable(text: str) -> str:
    normal = unicodedata.normalize("NFKC", text).replace("’", "'").replace("‘", "'")  # noqa: RUF001 - both curly quotes occur in answers
    return " ".join(normal.lower().split())
