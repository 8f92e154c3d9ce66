"""Names of columns in messages. What a file calls a column may be a prompt: where a header is missing, or in JSON keys."""

from __future__ import annotations

import re
from collections.abc import Sequence

MOST_LISTED = 20
_IDENTIFIER = re.compile(r"[\w.:/-]{1,40}", re.ASCII)
"""ASCII only: a whole prompt in a script without spaces has no other mark."""
_SENTENCE_END = re.compile(r"[.!?…。！？؟।][\"'”’»)]*$")  # noqa: RUF001  the ends of sentences in other scripts
_LONGEST_NAME = 40
_MOST_WORDS, _MOST_WORDS_ALONE = 5, 2


def is_identifier(name: object) -> bool:
    """Tell whether a name looks like one that a program gave: at most 40 characters, no spaces."""
    return isinstance(name, str) and _IDENTIFIER.fullmatch(name) is not None


def listed(names: Sequence[object]) -> str:
    """Return the names, if all look like identifiers and are few, else how many there are.

    A column without a name, as data frames write their row numbers, is left out.
    """
    named = [name for name in names if name != ""]
    if len(named) <= MOST_LISTED and all(map(is_identifier, named)):
        return ", ".join(map(str, named)) or "none"
    return f"{len(named)} column{'' if len(named) == 1 else 's'}"


def looks_like_a_sentence(cell: str, *, alone: bool) -> bool:
    """Tell whether a cell of a header is rather a prompt.

    Args:
        cell: its text.
        alone: whether it is the only cell; then three words are a sentence already.
    """
    text = cell.strip()
    words = len(text.split())
    return (
        len(text) > _LONGEST_NAME
        or words > (_MOST_WORDS_ALONE if alone else _MOST_WORDS)
        or (_SENTENCE_END.search(text) is not None and (alone or words > 1))
    )
