"""The table of docs/models.md, from the models themselves and from the exceptions that the tests state."""

from __future__ import annotations

from typing import get_args

from tests.guarded_models import EXPERT_MODELS, shared_model

from steerguard.models.blocks import decoder_blocks
from steerguard.models.inspect import inspect_model
from steerguard.testing import Architecture

MODEL_CLASSES = get_args(Architecture)

KINDS = {
    "full_attention": "full attention",
    "sliding_attention": "sliding window",
    "linear_attention": "linear attention",
    "conv": "short convolution",
}
KINDS_OF_CLASS = {"falcon_mamba": "Mamba"}
"""Classes whose configuration does not say what kind their blocks are of; all others have full attention."""

EXACT = "bit by bit"
EXACT_WITH_EXPERTS = "bit by bit with `batched_mm` experts, else within 1e-4"


def row(architecture):
    """One line of the table."""
    model = shared_model(architecture)
    facts = inspect_model(model)
    cells = [
        f"`{facts.architecture}`",
        f"`{facts.decoder}`",
        f"`{type(decoder_blocks(model)[0]).__name__}`",
        ", ".join(_kinds(architecture, model)),
        ", ".join(["text", *(name for name in facts.modalities if name != "text")]),
        EXACT_WITH_EXPERTS if architecture in EXPERT_MODELS else EXACT,
    ]
    return f"| {' | '.join(cells)} |"


def _kinds(architecture, model):
    if architecture in KINDS_OF_CLASS:
        return [KINDS_OF_CLASS[architecture]]
    declared = getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ["full_attention"]
    return [KINDS[kind] for kind in dict.fromkeys(declared)]


def table():
    """The lines below the head of the table, in the order of `Architecture`."""
    return [row(architecture) for architecture in MODEL_CLASSES]
