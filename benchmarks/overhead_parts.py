"""What the overhead benchmarks share: two models on one set of weights, policies whose gates stay open or closed, ratios."""

from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import steerguard
from steerguard.models.chat import render
from steerguard.policy.load import parse_policy
from steerguard.testing import VOCAB_SIZE, tiny_registry, tiny_tokenizer

WARM_UP = 10
"""Quads that are not counted."""
QUIET = 0.003
"""Largest deviation of A/A from 1 at which a figure counts."""
OPEN, CLOSED = -1e5, 1e5
"""Thresholds that every score reaches, and none."""
TEXTS = ("one", "tell me a story", "what is it", "go on", "why", "list three", "and then", "how so")


def dispatch_bound_model() -> Any:
    """Return a model of 32 blocks of width 64: nearly all time goes into dispatch, the worst case for hooks."""
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=32,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=VOCAB_SIZE,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def prompts(tokenizer: Any, rows: int) -> dict[str, torch.Tensor]:
    """Return a padded batch of short prompts."""
    return render(tokenizer, [[{"role": "user", "content": text}] for text in TEXTS[:rows]])


class Workplace:
    """Models on the same weights, with a registry of random artifacts, in one folder.

    Args:
        folder: where registry and audit logs go.
        model: the unguided one.
        tokenizer: its tokenizer.
        blocks: the steered blocks; the first is read too.
    """

    def __init__(self, folder: Path, model: Any, tokenizer: Any, blocks: tuple[int, ...]) -> None:
        self._folder, self.model, self._tokenizer = folder, model, tokenizer
        self._registry = tiny_registry(
            folder / "registry", model, tokenizer, probe_blocks=blocks[:1], steered_blocks=blocks, strength="0.01"
        )

    def guarded(self, threshold: float, *, streaming: str = "buffer") -> Any:
        """Return another model object on the same weights, wrapped with a policy of this threshold."""
        return steerguard.wrap(
            twin_of(self.model),
            policy(threshold, streaming=streaming),
            tokenizer=self._tokenizer,
            registry=self._registry,
            audit=self._folder / "audit",
        )


def dispatch_bound_workplace(folder: Path) -> Workplace:
    """Return the dispatch-bound model with all its blocks steered."""
    return Workplace(folder, dispatch_bound_model(), tiny_tokenizer(), tuple(range(32)))


def twin_of(model: Any) -> Any:
    """Return another model object on the same weight tensors."""
    copy = type(model)(model.config).to(model.dtype).eval()
    copy.load_state_dict(model.state_dict(), assign=True)
    copy.tie_weights()
    return copy


def policy(threshold: float, *, streaming: str = "buffer") -> Any:
    """Return a policy that guides every row at or above a raw threshold."""
    return parse_policy(
        f"""
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {{name: overhead, version: 1.0.0, description: Guides every row above a raw threshold., owner: benchmarks}}
target: {{modalities: [text]}}
detectors:
  - {{id: intent, type: linear_probe, artifact: harmful-intent@^1, read: generation_prompt_end}}
guidance:
  - {{id: steer, method: inferaligner, artifact: inferaligner@^1}}
rules:
  - id: guide
    when: {{detector: intent, score: {{at_least: {{value: {threshold}}}}}}}
    then: {{action: guide, use: [steer]}}
default: {{action: allow}}
refusal: {{template: No.}}
streaming: {{strategy: {streaming}}}
""",
        file="overhead.yaml",
    )


def figure(model: str, variant: str, ratios: list[float], bar: float | None) -> dict[str, Any]:
    """Return the median ratio with a bootstrap interval."""
    chooser = random.Random(0)
    medians = sorted(statistics.median(chooser.choices(ratios, k=len(ratios))) for _ in range(500))
    return {
        "model": model,
        "variant": variant,
        "ratio": round(statistics.median(ratios), 5),
        "interval": [round(medians[12], 5), round(medians[487], 5)],
        "quads": len(ratios),
        "bar": bar,
    }


def with_verdicts(figures: list[dict[str, Any]], *, beside: str) -> list[dict[str, Any]]:
    """Return figures with what each means: undecided where the A/A of that name is not quiet.

    Args:
        figures: of one way of running, A/A among them.
        beside: name of the A/A variant.
    """
    (same,) = (one for one in figures if one["variant"] == beside)
    quiet = abs(same["ratio"] - 1) <= QUIET
    for one in figures:
        met = one["bar"] is None or one["ratio"] <= one["bar"]
        one["verdict"] = "undecided: A/A is not quiet" if not quiet else ("ok" if met else "over the bar")
    return figures
