"""A cost model that is a Hugging Face sequence classification or score model.

Score models of the Beaver kind (Safe RLHF, arXiv 2310.12773) render prompt and answer with a template of their own and
put a linear head on the last token of the text; the released cost models are signed, with harm above 0.

- Decoders are read at the last real token of each row, found by the mask. (Their own forward looks for the padding id
  instead, and misses the end of a text that ends in it.)
- Encoders are read through their own pooled head.
- Padding is on the right, with positions that start at 0; a row does not depend on its neighbours but for rounding.
- The head is computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steerguard.critics.cost import CostInputs
from steerguard.critics.judged_texts import worst_of_windows
from steerguard.critics.template_reader import TemplateReader
from steerguard.critics.text_limits import check_limits, does_not_fit
from steerguard.models.chat import pad_batch

if TYPE_CHECKING:
    from steerguard.critics.text_models import SequenceClassifierSettings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SequenceClassifierCost:
    """Cost = the chosen output of a classifier, with its sign turned where a higher output means harmless.

    Args:
        name: for messages and records.
        settings: what is rendered and which output is read.
        model: a sequence classification model; with a head of one's own, a model without head. In eval mode.
        tokenizer: its tokenizer.
        head: weight `[1, width]` and bias `[1]` of a score head, for a model without one.

    Raises:
        ArtifactFormatError: model, tokenizer and settings do not fit.
    """

    name: str
    settings: SequenceClassifierSettings
    model: Any
    tokenizer: Any
    head: tuple[Tensor, Tensor] | None = None
    _reader: TemplateReader = field(init=False, repr=False)
    _labels: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_limits(self.model, self.tokenizer, self.settings, name=self.name)
        object.__setattr__(self, "_reader", TemplateReader.of(self.tokenizer, self.settings, name=self.name))
        if (self.head is None) != (self.settings.score_head is None):
            raise does_not_fit(
                self.name, "a head exactly when `score_head` names one", "one without the other", "score_head"
            )
        width = self.model.config.get_text_config().hidden_size
        if self.head is not None and (self.head[0].shape != (1, width) or self.head[1].shape != (1,)):
            shapes = " and ".join(str(list(tensor.shape)) for tensor in self.head)
            raise does_not_fit(self.name, f"weight [1, {width}] and bias [1]", shapes, "score_head")
        object.__setattr__(self, "_labels", self._chosen_labels())

    @property
    def blocks(self) -> tuple[int, ...]:
        """Empty: it reads texts."""
        return ()

    def cost(self, inputs: CostInputs) -> Tensor:
        """Return the cost of each answer.

        Returns:
            float32 `[rows]` on the CPU; `nan` for an empty answer.

        Raises:
            CostModelError: a text is too long, or the model failed or gave a number that is not finite.
        """
        return worst_of_windows(
            inputs, name=self.name, windows=self._reader.windows, cost=self._costs, batch_rows=self.settings.batch_rows
        )

    def _costs(self, rows: Sequence[Sequence[int]]) -> Tensor:
        batch = pad_batch(rows, self.tokenizer, padding_side="right", device=self.model.device)
        logits = self._logits(batch)
        if self.settings.output == "log_odds":
            others = [index for index in range(logits.shape[1]) if index not in self._labels]
            output = logits[:, list(self._labels)].logsumexp(dim=1) - logits[:, others].logsumexp(dim=1)
        else:
            output = logits[:, self._labels[0]]
        return output if self.settings.higher == "harmful" else -output

    def _logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Return float32 `[rows, labels]`."""
        backbone, bias = self.model, None
        if self.head is not None:
            weight, bias = self.head
        elif isinstance(score := getattr(self.model, "score", None), nn.Linear):
            backbone, weight, bias = self.model.base_model, score.weight, getattr(score, "bias", None)
        else:
            logits: Tensor = self.model(**batch).logits
            return logits.float()
        states = backbone(**batch, use_cache=False).last_hidden_state
        last = batch["attention_mask"].sum(dim=1) - 1
        ends = states[torch.arange(len(last), device=states.device), last.to(states.device)].float()
        output = nn.functional.linear(ends, weight.float().to(ends.device))
        return output if bias is None else output + bias.float().to(ends.device)

    def _chosen_labels(self) -> tuple[int, ...]:
        if self.head is not None:
            return (0,)
        names = {str(label): int(index) for index, label in self.model.config.id2label.items()}
        if self.settings.output == "score":
            if len(names) != 1:
                raise does_not_fit(self.name, "a model with one output", f"{len(names)} labels", "output")
            return (0,)
        unknown = sorted(set(self.settings.labels) - set(names))
        if unknown:
            raise does_not_fit(self.name, f"labels among {', '.join(names)}", ", ".join(unknown), "labels")
        if self.settings.output == "log_odds" and len(self.settings.labels) == len(names):
            raise does_not_fit(
                self.name, "at least one label that is not harmful", "every label of the model", "labels"
            )
        return tuple(names[label] for label in self.settings.labels)
