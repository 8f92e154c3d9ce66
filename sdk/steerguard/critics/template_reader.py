"""From a prompt and an answer to the token ids that a judge with a template reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerguard.critics.answer_windows import answer_windows
from steerguard.critics.control_tokens import ControlTokens
from steerguard.critics.text_template import TextTemplate, parse_template

if TYPE_CHECKING:
    from steerguard.critics.text_models import EmbeddingHeadSettings, SequenceClassifierSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateReader:
    """Fills a template, breaks up spelt control tokens of prompt and answer (the template may have its own), encodes."""

    name: str
    """Of the cost model, for messages."""
    settings: SequenceClassifierSettings | EmbeddingHeadSettings
    tokenizer: Any
    template: TextTemplate
    control: ControlTokens

    @classmethod
    def of(
        cls, tokenizer: Any, settings: SequenceClassifierSettings | EmbeddingHeadSettings, *, name: str
    ) -> TemplateReader:
        """Return the reader of a tokenizer with these settings."""
        return cls(
            name=name,
            settings=settings,
            tokenizer=tokenizer,
            template=parse_template(settings.template),
            control=ControlTokens.of(tokenizer),
        )

    def windows(self, prompt: str, answer: str) -> list[list[int]]:
        """Return the token ids of each window; one, where the text fits.

        Raises:
            CostModelError: the text is too long, or no token is left of it.
        """
        return answer_windows(
            self.control.broken_up(prompt),
            self.control.broken_up(answer),
            encode=self._encode,
            tokenizer=self.tokenizer,
            max_tokens=self.settings.max_tokens,
            too_long=self.settings.too_long,
            name=self.name,
        )

    def _encode(self, prompt: str, answer: str) -> list[int]:
        text = self.template.filled(prompt, answer)
        added = self.settings.adds_special_tokens
        return list(self.tokenizer(text, add_special_tokens=added, verbose=False)["input_ids"])
