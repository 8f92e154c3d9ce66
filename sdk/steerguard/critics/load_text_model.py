"""From a description and pinned files to a cost model over texts: checked, then loaded, never with code of the model.

transformers fills in weights that a checkpoint lacks with random ones; a judge with a random head is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor

from steerguard.critics.embedding_head import EmbeddingHeadCost
from steerguard.critics.guardian_logits import GuardianCost
from steerguard.critics.pinned_files import checked_folder
from steerguard.critics.sequence_classifier import SequenceClassifierCost
from steerguard.critics.text_limits import does_not_fit
from steerguard.critics.text_models import (
    HEAD_FILE,
    EmbeddingHeadSettings,
    GuardianSettings,
    Locate,
    PinnedModel,
    SequenceClassifierSettings,
    TextSettings,
)
from steerguard.errors import ArtifactFormatError, SteerguardError
from steerguard.models.loading import WEIGHT_TYPES

if TYPE_CHECKING:
    from steerguard.critics.cost import CostModel

_NO_HEAD: Mapping[str, Tensor] = {}
_POOLER = "pooler."
"""A layer behind the states that are read; checkpoints of encoders often lack it."""


def load_text_cost(
    settings: TextSettings,
    pinned: PinnedModel,
    *,
    name: str,
    locate: Locate,
    device: torch.device | str = "cpu",
    head: Mapping[str, Tensor] = _NO_HEAD,
) -> CostModel:
    """Check the files of a model, load it and return the cost model.

    Args:
        settings: of one of the three kinds.
        pinned: the model and the digests of its files.
        name: for messages and records.
        locate: says where the files lie.
        device: where the model goes.
        head: for `EmbeddingHeadSettings`, float32 `weight` `[width]` and `bias` `[1]`.

    Raises:
        ArtifactFormatError: the files are no such model, weights are missing, or they do not fit the settings.
        ArtifactNotFoundError: a file is not there.
        ArtifactIntegrityError: a file differs from its pin.
    """
    with checked_folder(pinned, locate) as folder:
        if isinstance(settings, SequenceClassifierSettings):
            own = settings.score_head
            model, tokenizer = _loaded(
                "AutoModelForSequenceClassification" if own is None else "AutoModel", folder, pinned, name=name
            )
            score_head = None if own is None else _score_head(folder, own, name=name)
            return SequenceClassifierCost(
                name=name, settings=settings, model=model.to(device), tokenizer=tokenizer, head=score_head
            )
        if isinstance(settings, GuardianSettings):
            model, tokenizer = _loaded("AutoModelForCausalLM", folder, pinned, name=name)
            return GuardianCost(name=name, settings=settings, model=model.to(device), tokenizer=tokenizer)
        if isinstance(settings, EmbeddingHeadSettings):
            if set(head) != {"weight", "bias"}:
                found = ", ".join(sorted(head)) or "none"
                raise does_not_fit(name, f"the tensors weight and bias in {HEAD_FILE}", found, "head")
            model, tokenizer = _loaded("AutoModel", folder, pinned, name=name)
            return EmbeddingHeadCost(
                name=name,
                settings=settings,
                model=model.to(device),
                tokenizer=tokenizer,
                weight=head["weight"],
                bias=head["bias"],
            )
    raise does_not_fit(name, "settings of a kind that is known", type(settings).__name__, "settings")


def _loaded(kind: str, folder: Path, pinned: PinnedModel, *, name: str) -> tuple[Any, Any]:
    """Return the model in eval mode on the CPU and its tokenizer."""
    import transformers  # noqa: PLC0415  a second that a wrong digest need not pay

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        _refuse_attention_from_elsewhere(config, name=name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, report = getattr(transformers, kind).from_pretrained(
            folder,
            config=config,
            dtype=WEIGHT_TYPES[pinned.weights],
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (SteerguardError, MemoryError):
        raise
    except Exception as error:
        raise ArtifactFormatError(
            "The pinned files are not a model that can be loaded.",
            expected=f"files that transformers loads as {kind}, without code of the model",
            found=type(error).__name__,
            where=f"cost model `{name}`: {pinned.where}",
            next_step="Pin every file of the model: configuration, tokenizer, and all .safetensors files.",
        ) from error
    absent = sorted(str(key) for key in report["missing_keys"] if not (kind == "AutoModel" and _POOLER in str(key)))
    odd = sorted(str(key) for key in report.get("mismatched_keys", ()))
    if absent or odd:
        found = ", ".join([*absent, *odd][:4])
        raise does_not_fit(name, "weights for every layer that is read", f"none, or misshapen, for {found}", "model")
    return model.eval(), tokenizer


def _refuse_attention_from_elsewhere(config: Any, *, name: str) -> None:
    """Refuse an attention that is named like a repository: it is code from the Hub."""
    if "/" in str(getattr(config, "_attn_implementation", None) or ""):
        raise does_not_fit(name, "an attention of transformers itself", "one from a repository", "model")


def _score_head(folder: Path, head: str, *, name: str) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a linear head in the weight files; a head without bias gets zero."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            wanted = {f"{head}.weight", f"{head}.bias"} & set(tensors.keys())
            found.update({key.rpartition(".")[2]: tensors.get_tensor(key) for key in wanted})
    if "weight" not in found:
        raise does_not_fit(name, f"{head}.weight in the weight files", "absent", "score_head")
    weight = found["weight"].float()
    return weight, found["bias"].float() if "bias" in found else torch.zeros(weight.shape[0])
