"""The text that a cost model reads: a plain format with the places `{prompt}` and `{answer}`, and nothing else.

No code, no attribute, no conversion: a template comes with an artifact and is not run.
A brace that is meant is written twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter

PLACES = ("prompt", "answer")
"""What a template may name."""


@dataclass(frozen=True, slots=True)
class TextTemplate:
    """A parsed template."""

    pieces: tuple[tuple[str, str | None], ...]
    """Literal text, and the place behind it or None."""

    @property
    def reads_prompt(self) -> bool:
        """Whether the prompt stands in the text."""
        return any(place == "prompt" for _, place in self.pieces)

    def filled(self, prompt: str, answer: str) -> str:
        """Return the text; braces in prompt and answer mean nothing."""
        values = {"prompt": prompt, "answer": answer}
        return "".join(text + (values[place] if place is not None else "") for text, place in self.pieces)


def parse_template(text: str) -> TextTemplate:
    """Parse a template.

    Raises:
        ValueError: braces do not match, another place is named, a place has a format, `{answer}` does not stand in it
            exactly once, or `{prompt}` stands in it more than once. Inside a pydantic model this becomes an error of
            its field.
    """
    pieces = []
    for literal, place, form, conversion in Formatter().parse(text):
        if place is not None and (place not in PLACES or form or conversion):
            msg = f"the place {{{place[:40]}}} is not one of {{prompt}} and {{answer}}, written plainly"
            raise ValueError(msg)
        pieces.append((literal, place))
    places = [place for _, place in pieces]
    if places.count("answer") != 1 or places.count("prompt") > 1:
        msg = "a template has {answer} exactly once, and {prompt} once or not at all"
        raise ValueError(msg)
    return TextTemplate(tuple(pieces))
