"""A registry of random artifacts for one model: the real format, made in milliseconds."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from steerguard.artifacts.calibration import calibration_from_scores
from steerguard.artifacts.codec import write_artifact
from steerguard.artifacts.cost_params import COST_FEATURE, COST_FILE, COST_METHOD
from steerguard.artifacts.fingerprint import PROMPTS
from steerguard.artifacts.probe_params import (
    ANSWER_FEATURE,
    COSINE_FEATURE,
    COSINE_METHOD,
    PROMPT_MEAN_FEATURE,
    AnswerReading,
    Over,
    Similarity,
    probe_params,
)
from steerguard.detect.probe import PROBE_FILE
from steerguard.models.capture import measure_fingerprint
from steerguard.models.inspect import inspect_model
from steerguard.registry.local import LocalDirectory, create_registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

VARIANT = "tiny"
VECTORS_FILE = "weights/vectors.safetensors"
FINGERPRINT_FILE = "weights/fingerprint.safetensors"
CALIBRATION_SCORES = 99
ANSWER_READING = AnswerReading(tokens=16, first=2, every=3, in_a_row=1)
"""How the family `harmful-answer` says that its calibration read answers."""


def tiny_registry(
    root: Path,
    model: PreTrainedModel,
    tokenizer: Any,
    *,
    probe_blocks: Sequence[int] = (0, 1),
    probe_over: Sequence[Over] | None = None,
    steered_blocks: Sequence[int] = (1, 2),
    strength: str = "1.0",
    schedule: Literal["constant", "by_phase", "by_step"] = "constant",
    steps: int = 3,
    similarity: Similarity = "tanh_projection",
    seed: int = 0,
) -> LocalDirectory:
    """Make a registry with a random probe and random vectors for a model.

    The families are `harmful-intent`, a linear probe, `condition`, a cosine probe of the same parts, `harmful-answer`, a
    linear probe of answers with these parts too, `harm-cost`, a cost model that reads the same blocks, and steering
    vectors of each method: `inferaligner`, `refusal-vectors` (`fitted_refusal`) and `refusal-direction`, always constant.

    Args:
        root: a folder that does not exist yet.
        model: any decoder-only model that is not wrapped.
        tokenizer: its tokenizer, with a chat template.
        probe_blocks: blocks that the probe reads; one may stand twice when `probe_over` differs.
        probe_over: what it reads there, one entry per block; None is the end of the generation prompt everywhere.
        steered_blocks: blocks that the vectors steer.
        strength: what coefficient 1.0 multiplies the unit vectors by.
        schedule: when which vector is added.
        steps: how many generated tokens have a vector of their own; `by_step` only.
        similarity: what the cosine probe compares hidden states with.
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
    over: list[Over] = ["end" for _ in probe_blocks] if probe_over is None else list(probe_over)
    parts = tuple(zip(probe_blocks, over, strict=True))
    more = [PROMPT_MEAN_FEATURE] if any(over == "prompt_mean" for _, over in parts) else []
    _add(
        registry,
        {
            **fields,
            "family": "harmful-intent",
            "type": "probe",
            "method": "linear_probe",
            "requires": {"sdk": ">=0.1", "features": ["probe.linear", "calibration.split_conformal", *more]},
            "params": probe_params(parts),
        },
        {
            PROBE_FILE: {"weight": weight, "bias": torch.zeros(len(probe_blocks))},
            FINGERPRINT_FILE: {"directions": fingerprint},
        },
        torch.randn(CALIBRATION_SCORES, generator=generator),
    )
    steering = {
        **fields,
        "type": "steering_vectors",
        "requires": {"sdk": ">=0.1", "features": [f"schedule.{schedule}", "operator.add"]},
        "params": {"blocks": list(steered_blocks), "strength": strength, **_timing(schedule, steps)},
    }
    for family, method, beside in (
        ("inferaligner", "inferaligner", {"srv": srv, "gate_bias": torch.zeros(shape[0])}),
        ("refusal-vectors", "fitted_refusal", {}),
    ):
        theta = _vectors(vectors, schedule, steps, generator)
        tensors = {VECTORS_FILE: {**theta, **beside}, FINGERPRINT_FILE: {"directions": fingerprint}}
        _add(registry, {**steering, "family": family, "method": method}, tensors, None)
    _add(
        registry,
        {
            **fields,
            "type": "steering_vectors",
            "family": "refusal-direction",
            "method": "refusal_direction",
            "requires": {"sdk": ">=0.1", "features": ["operator.ablate", "operator.add", "schedule.constant"]},
            "params": {
                "ablated_blocks": list(range(facts.num_blocks)),
                "blocks": list(steered_blocks),
                "positions": "all",
                "source_block": steered_blocks[0],
                "strength": strength,
            },
        },
        {VECTORS_FILE: {"theta": vectors}, FINGERPRINT_FILE: {"directions": fingerprint}},
        None,
    )
    _add(
        registry,
        {
            **fields,
            "family": "condition",
            "type": "probe",
            "method": COSINE_METHOD,
            "requires": {"sdk": ">=0.1", "features": [COSINE_FEATURE, "calibration.split_conformal", *more]},
            "params": {**probe_params(parts), "similarity": similarity},
        },
        {
            PROBE_FILE: {"direction": torch.randn(weight.shape, generator=generator)},
            FINGERPRINT_FILE: {"directions": fingerprint},
        },
        torch.rand(CALIBRATION_SCORES, generator=generator),
    )
    _add(
        registry,
        {
            **fields,
            "family": "harmful-answer",
            "type": "probe",
            "method": "linear_probe",
            "requires": {
                "sdk": ">=0.1",
                "features": [ANSWER_FEATURE, "calibration.split_conformal", "probe.linear", *more],
            },
            "params": probe_params(parts, ANSWER_READING),
        },
        {
            PROBE_FILE: {
                "weight": torch.randn(weight.shape, generator=generator),
                "bias": torch.zeros(len(probe_blocks)),
            },
            FINGERPRINT_FILE: {"directions": fingerprint},
        },
        torch.randn(CALIBRATION_SCORES, generator=generator),
    )
    cost_weight = torch.randn(weight.shape, generator=generator)
    _add(
        registry,
        {
            **fields,
            "family": "harm-cost",
            "type": "cost_model",
            "method": COST_METHOD,
            "requires": {"sdk": ">=0.1", "features": [COST_FEATURE, "calibration.split_conformal"]},
            "params": {
                "blocks": list(probe_blocks),
                "layers": 1,
                "read": "answer",
                "reduce": "mean",
                "threshold": "0.0",
                "unit": "log-odds",
            },
            "sign": "positive means harmful",
        },
        {
            COST_FILE: {"weight": cost_weight, "bias": torch.zeros(1)},
            FINGERPRINT_FILE: {"directions": fingerprint},
        },
        torch.randn(CALIBRATION_SCORES, generator=generator),
    )
    return registry


def _timing(schedule: str, steps: int) -> dict[str, Any]:
    """Return what `params` say of a schedule."""
    if schedule == "constant":
        return {"positions": "all"}
    return {"schedule": schedule, "steps": steps} if schedule == "by_step" else {"schedule": schedule}


def _vectors(constant: Tensor, schedule: str, steps: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the tensors of a schedule, unit vectors; each draw gives others but for a constant."""
    if schedule == "constant":
        return {"theta": constant}

    def drawn(*shape: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)

    parts = {"theta_prompt": drawn(*constant.shape), "theta_last": drawn(*constant.shape)}
    if schedule == "by_phase":
        return {**parts, "theta_decode": drawn(*constant.shape)}
    return {**parts, "theta_steps": drawn(steps, *constant.shape)}


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
