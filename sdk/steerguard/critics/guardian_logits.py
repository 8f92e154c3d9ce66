"""A cost model that is a guardian: a language model that says of a conversation in one word whether it is harmful.

Llama Guard (arXiv 2312.06674) and its relatives are trained to begin with `safe` or `unsafe`. The difference of the two
logits where that word would begin is a score at the price of one prefill, without generating (as the process reward of
arXiv 2506.06444 is, with the opposite sign).

- The guardian's own chat template renders `[user, assistant]`, or `[user]` alone to judge a request.
- What a conversation spells of control tokens is broken up first: see `control_tokens`.
- Rows are padded on the left, with positions that start at 0 behind the padding; one position of logits is kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerguard.critics.answer_windows import answer_windows
from steerguard.critics.control_tokens import ControlTokens
from steerguard.critics.cost import CostInputs
from steerguard.critics.judged_texts import worst_of_windows
from steerguard.critics.text_limits import check_limits, does_not_fit
from steerguard.errors import CostModelError
from steerguard.models.chat import encode_prompts, pad_batch

if TYPE_CHECKING:
    from steerguard.critics.text_models import GuardianSettings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GuardianCost:
    """Cost = logit of the harmful word minus logit of the harmless one; their log-odds against each other.

    Args:
        name: for messages and records.
        settings: words and limits.
        model: a causal language model in eval mode.
        tokenizer: its tokenizer, or a processor, with the guardian's chat template.

    Raises:
        ArtifactFormatError: model, tokenizer and settings do not fit: a word is not one token, both words are the same
            token, or the chat template does not show request or answer.
        IncompatibleModelError: there is no chat template, or it does not render the conversation.
    """

    name: str
    settings: GuardianSettings
    model: Any
    tokenizer: Any
    _control: ControlTokens = field(init=False, repr=False)
    _words: tuple[int, int] = field(init=False, repr=False)
    """Token ids of the harmful and the harmless word."""
    _takes: frozenset[str] = field(init=False, repr=False)
    """Names of what the model's forward takes."""

    def __post_init__(self) -> None:
        check_limits(self.model, self._plain, self.settings, name=self.name)
        object.__setattr__(self, "_control", ControlTokens.of(self._plain))
        object.__setattr__(self, "_takes", frozenset(inspect.signature(self.model.forward).parameters))
        words = (self._word("harmful_word"), self._word("harmless_word"))
        if words[0] == words[1]:
            raise does_not_fit(self.name, "two words with different tokens", "the same token", "harmless_word")
        object.__setattr__(self, "_words", words)
        # A template that leaves a message out would judge something else without a word.
        seen = [tuple(self._encode(user, answer)) for user, answer in (("one", "two"), ("one", "six"), ("ten", "two"))]
        alone = [tuple(self._encode(user, None)) for user in ("one", "ten")]
        if len(set(seen)) != len(seen) or len(set(alone)) != len(alone):
            raise does_not_fit(self.name, "a chat template that shows request and answer", "one left out", "model")

    @property
    def blocks(self) -> tuple[int, ...]:
        """Empty: it reads texts."""
        return ()

    def cost(self, inputs: CostInputs) -> Tensor:
        """Return the cost of each answer, judged with its prompt as the user's message.

        Returns:
            float32 `[rows]` on the CPU; `nan` for an empty answer.

        Raises:
            CostModelError: a text is too long, the guardian failed, gave a number that is not finite, or did not
                answer in its format.
        """
        return worst_of_windows(
            inputs, name=self.name, windows=self._windows, cost=self._costs, batch_rows=self.settings.batch_rows
        )

    def prompt_cost(self, prompts: Sequence[str]) -> Tensor:
        """Return the cost of each request by itself, for a check of the input; otherwise as `cost`.

        Under `too_long: windows` a long request is read in windows, as an answer is.
        """
        alone = CostInputs(prompts=[""] * len(prompts), answers=prompts)
        return worst_of_windows(
            alone, name=self.name, windows=self._prompt_windows, cost=self._costs, batch_rows=self.settings.batch_rows
        )

    @property
    def _plain(self) -> Any:
        """The tokenizer, also of a processor."""
        return self.tokenizer if hasattr(self.tokenizer, "all_special_tokens") else self.tokenizer.tokenizer

    def _windows(self, prompt: str, answer: str) -> list[list[int]]:
        return self._read(self._control.broken_up(prompt), self._control.broken_up(answer), self._encode)

    def _prompt_windows(self, _: str, request: str) -> list[list[int]]:
        return self._read("", self._control.broken_up(request), lambda _, text: self._encode(text, None))

    def _read(self, prompt: str, text: str, encode: Any) -> list[list[int]]:
        return answer_windows(
            prompt,
            text,
            encode=encode,
            tokenizer=self._plain,
            max_tokens=self.settings.max_tokens,
            too_long=self.settings.too_long,
            name=self.name,
        )

    def _encode(self, user: str, answer: str | None) -> list[int]:
        """Return the conversation up to where the verdict begins; `answer` None judges the request alone."""
        messages = [{"role": "user", "content": user}]
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        prefix = self.settings.verdict_prefix or None
        return list(encode_prompts(self.tokenizer, [messages], [prefix])[0].ids)

    def _costs(self, rows: Sequence[Sequence[int]]) -> Tensor:
        batch = pad_batch(rows, self._plain, padding_side="left", device=self.model.device)
        if "position_ids" in self._takes:
            batch["position_ids"] = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in self._takes else {}
        logits: Tensor = self.model(**batch, use_cache=False, **options).logits[:, -1].float()
        harmful, harmless = self._words
        if self.settings.least_mass is not None:
            self._check_format(logits)
        return logits[:, harmful] - logits[:, harmless]

    def _check_format(self, logits: Tensor) -> None:
        mass = torch.softmax(logits, dim=1)[:, list(self._words)].sum(dim=1)
        least = float(self.settings.least_mass or "0")
        outside = int((mass < least).sum())
        if outside:
            raise CostModelError(
                "A guardian did not answer in its format.",
                expected=f"its two words with a probability of {least} or more together",
                found=f"less for {outside} of {len(mass)} texts",
                where=f"cost model `{self.name}`",
                next_step="Check `verdict_prefix` and the words against what the guardian generates.",
            )

    def _word(self, setting: str) -> int:
        word = getattr(self.settings, setting)
        ids = list(self._plain(word, add_special_tokens=False)["input_ids"])
        if len(ids) != 1:
            raise does_not_fit(self.name, "a word that is one token", f"{len(ids)} tokens", setting)
        return int(ids[0])
