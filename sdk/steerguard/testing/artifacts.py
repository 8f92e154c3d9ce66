"""A registry of random artifacts for one model: the real format, made in milliseconds."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steerguard.artifacts.calibration import calibration_from_scores
from steerguard.artifacts.codec import write_artifact
from steerguard.artifacts.fingerprint import PROMPTS
from steerguard.models.capture import measure_fingerprint
from steerguard.models.inspect import inspect_model
from steerguard.registry.local import LocalDirectory, create_registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

VARIANT = "tiny"
FINGERPRINT_FILE = "weights/fingerprint.safetensors"
CALIBRATION_SCORES = 99


def tiny_registry(
    root: Path,
    model: PreTrainedModel,
    tokenizer: Any,
    *,
    probe_blocks: Sequence[int] = (0, 1),
    steered_blocks: Sequence[int] = (1, 2),
    strength: str = "1.0",
    seed: int = 0,
) -> LocalDirectory:
    """Make a registry with a random probe `harmful-intent` and random vectors `inferaligner` for a model.

    Args:
        root: a folder that does not exist yet.
        model: any decoder-only model that is not wrapped.
        tokenizer: its tokenizer, with a chat template.
        probe_blocks: blocks that the probe reads.
        steered_blocks: blocks that the vectors steer.
        strength: what coefficient 1.0 multiplies the unit vectors by.
        seed: of all random numbers; the global generator is left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    facts = inspect_model(model, tokenizer)
    shape = (facts.num_blocks, facts.hidden_size)
    vectors = torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)
    srv = torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)
    weight = torch.randn((len(probe_blocks), facts.hidden_size), generator=generator)
    fingerprint_blocks = tuple(range(facts.num_blocks // 3, facts.num_blocks))
    fingerprint = measure_fingerprint(model, tokenizer, fingerprint_blocks, PROMPTS)
    base = {
        "architecture": facts.architecture,
        "chat_template_sha256": facts.chat_template_sha256,
        "decoder": facts.decoder,
        "hidden_size": facts.hidden_size,
        "num_blocks": facts.num_blocks,
        "repo": "random weights",
        "source": "steerguard.testing",
        "tokenizer_sha256": facts.tokenizer_sha256,
        "vocab_size": facts.vocab_size,
    }
    fields: dict[str, Any] = {
        "apiVersion": "steerguard/v1alpha1",
        "kind": "ArtifactManifest",
        "variant": VARIANT,
        "version": "1.0.0",
        "method_version": 1,
        "base": base,
        "fingerprints": [
            {
                "weights": facts.dtype,
                "blocks": list(fingerprint_blocks),
                "prompts": len(PROMPTS),
                "file": FINGERPRINT_FILE,
                "max_one_minus_cos": "0.001",
            }
        ],
        "hook_point": "resid_post",
        "license": "apache-2.0",
        "created": "2026-01-01T00:00:00Z",
    }
    registry = create_registry(root)
    _add(
        registry,
        {
            **fields,
            "family": "inferaligner",
            "type": "steering_vectors",
            "method": "inferaligner",
            "requires": {"sdk": ">=0.1", "features": ["schedule.constant", "operator.add"]},
            "params": {"blocks": list(steered_blocks), "strength": strength, "positions": "all"},
        },
        {
            "weights/vectors.safetensors": {"theta": vectors, "srv": srv, "gate_bias": torch.zeros(shape[0])},
            FINGERPRINT_FILE: {"directions": fingerprint},
        },
        None,
    )
    _add(
        registry,
        {
            **fields,
            "family": "harmful-intent",
            "type": "probe",
            "method": "linear_probe",
            "requires": {"sdk": ">=0.1", "features": ["probe.linear", "calibration.split_conformal"]},
            "params": {"blocks": list(probe_blocks), "read": "generation_prompt_end", "reduce": "mean"},
        },
        {
            "weights/probe.safetensors": {"weight": weight, "bias": torch.zeros(len(probe_blocks))},
            FINGERPRINT_FILE: {"directions": fingerprint},
        },
        torch.randn(CALIBRATION_SCORES, generator=generator),
    )
    return registry


def _add(
    registry: LocalDirectory,
    fields: dict[str, Any],
    tensors: dict[str, dict[str, Tensor]],
    benign_scores: Tensor | None,
) -> None:
    calibration = (
        None
        if benign_scores is None
        else calibration_from_scores(benign_scores.tolist(), score="random", source="steerguard.testing")
    )
    with tempfile.TemporaryDirectory() as staging:
        folder = Path(staging) / "artifact"
        write_artifact(folder, fields, tensors, calibration, None, "# Random artifact for tests\n", None)
        registry.add(folder)
