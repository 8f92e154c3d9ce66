"""A cost model that is a sentence embedding with a linear head of one's own.

Embedding: the mean of the encoder's last hidden states over the tokens that are no padding, scaled to length 1 where
the settings say so (Sentence-BERT, arXiv 1908.10084, section 3). Cost = `weight . embedding + bias`, in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from steerguard.critics.cost import CostInputs
from steerguard.critics.judged_texts import worst_of_windows
from steerguard.critics.template_reader import TemplateReader
from steerguard.critics.text_limits import check_limits, does_not_fit
from steerguard.models.chat import pad_batch

if TYPE_CHECKING:
    from steerguard.critics.text_models import EmbeddingHeadSettings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbeddingHeadCost:
    """Cost = a linear head on the mean-pooled embedding of prompt and answer; positive is harmful.

    Args:
        name: for messages and records.
        settings: what is rendered and how it is pooled.
        model: an encoder without head, in eval mode.
        tokenizer: its tokenizer.
        weight: float32 `[width]`.
        bias: float32 `[1]`.

    Raises:
        ArtifactFormatError: model, tokenizer, head and settings do not fit.
    """

    name: str
    settings: EmbeddingHeadSettings
    model: Any
    tokenizer: Any
    weight: Tensor
    bias: Tensor
    _reader: TemplateReader = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_limits(self.model, self.tokenizer, self.settings, name=self.name)
        width = self.model.config.get_text_config().hidden_size
        # Checked here, because a weight of width 1 would broadcast to a wrong cost without an error.
        if self.weight.shape != (width,) or self.bias.shape != (1,):
            found = f"{list(self.weight.shape)} and {list(self.bias.shape)}"
            raise does_not_fit(self.name, f"weight [{width}] and bias [1]", found, "head")
        object.__setattr__(self, "_reader", TemplateReader.of(self.tokenizer, self.settings, name=self.name))

    @property
    def blocks(self) -> tuple[int, ...]:
        """Empty: it reads texts."""
        return ()

    def cost(self, inputs: CostInputs) -> Tensor:
        """Return the cost of each answer.

        Returns:
            float32 `[rows]` on the CPU; `nan` for an empty answer.

        Raises:
            CostModelError: a text is too long, or the encoder failed or gave a number that is not finite.
        """
        return worst_of_windows(
            inputs, name=self.name, windows=self._reader.windows, cost=self._costs, batch_rows=self.settings.batch_rows
        )

    def _costs(self, rows: Sequence[Sequence[int]]) -> Tensor:
        embedding = self._embedded(pad_batch(rows, self.tokenizer, padding_side="right", device=self.model.device))
        weight, bias = self.weight.float().to(embedding.device), self.bias.float().to(embedding.device)
        return (embedding * weight).sum(dim=1) + bias

    def _embedded(self, batch: dict[str, Tensor]) -> Tensor:
        """Return float32 `[rows, width]`."""
        states = self.model(**batch).last_hidden_state.float()
        counts = batch["attention_mask"].to(states.device).float().unsqueeze(dim=2)
        mean = (states * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)
        return nn.functional.normalize(mean, dim=1) if self.settings.normalise else mean
