"""What guidance adds to one decode step: alternating single steps, A/A beside A/B.

    python benchmarks/overhead.py --out benchmarks/results/overhead.json

Protocol (one thread): the steps of two variants alternate A B B A at the same cache length; each quad gives one ratio
(B + B) / (A + A), and the figure is the median over all quads with a bootstrap interval. A/A runs the same way with the
unguided model twice; where it is outside 1 +- 0.003 the machine was too noisy and every figure beside it is marked
undecided. A guided step includes the callbacks that transformers' loop makes. `bare adding hook` is the least that
torch charges for any hook that adds a tensor.

Beams, streams and a closed request beside an open one of another thread are compared step by step too, inside
transformers' own loops: see `overhead_loops.py`. `open` and `closed` there have the bars of the single steps.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from overhead_loops import Limits, loops
from overhead_parts import (
    CLOSED,
    OPEN,
    WARM_UP,
    Workplace,
    dispatch_bound_workplace,
    figure,
    prompts,
    twin_of,
    with_verdicts,
)
from steering_vectors import SteeringVector
from transformers import LogitsProcessorList, StoppingCriteriaList

from steerguard.engine.active import ACTIVE
from steerguard.engine.loop import GuidedLoop
from steerguard.engine.loop_settings import LoopSettings
from steerguard.engine.sampling import new_request
from steerguard.models.packaged import load_packaged_smollm2
from steerguard.testing import tiny_tokenizer

LIMITS: Limits = {
    ("dispatch-bound", "open"): 1.03,
    ("dispatch-bound", "closed"): 1.005,
    ("dispatch-bound", "beams open"): 1.03,
    ("dispatch-bound", "beams closed"): 1.005,
    ("dispatch-bound", "stream buffer open"): 1.03,
    ("dispatch-bound", "stream buffer closed"): 1.005,
    ("dispatch-bound", "stream window open"): 1.03,
    ("dispatch-bound", "stream window closed"): 1.005,
    ("dispatch-bound", "closed beside an open thread"): 1.05,
    ("SmolLM2", "open"): 1.02,
}


@dataclass(frozen=True)
class Variant:
    """One way to run a decode step."""

    step: Callable[[], None]
    state: Any = None
    """What the context variable holds while its steps run."""
    stop: Callable[[], Any] = lambda: None
    """Takes its hooks away."""


def main() -> None:
    """Measure, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quads", type=int, default=600, help="A B B A quads per comparison of the small model")
    parser.add_argument("--smollm2-quads", type=int, default=250, help="the same for SmolLM2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = [
        *dispatch_bound(options.quads),
        *loops(options.quads, LIMITS),
        *smollm2(options.smollm2_quads),
    ]
    report = {
        "command": "make benchmark-overhead",
        "machine": {"processor": platform.machine(), "threads": 1},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "figures": figures,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    for one in figures:
        limit = f"  bar {one['bar']}" if one["bar"] else ""
        print(
            f"{one['model']:15} {one['variant']:32} {one['ratio']:.4f}  "
            f"[{one['interval'][0]:.4f}, {one['interval'][1]:.4f}]  n={one['quads']}{limit}  {one['verdict']}"
        )


def dispatch_bound(quads: int) -> list[dict[str, Any]]:
    """32 blocks of width 64, batch 4."""
    with tempfile.TemporaryDirectory() as folder:
        place = dispatch_bound_workplace(Path(folder))
        return compare("dispatch-bound", place, prompts(tiny_tokenizer(), 4), tuple(range(32)), quads)


def smollm2(quads: int) -> list[dict[str, Any]]:
    """The demo model, batch 8, ten steered blocks."""
    model, tokenizer = load_packaged_smollm2()
    blocks = tuple(range(10, 20))
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(Path(folder), model, tokenizer, blocks)
        return compare("SmolLM2", place, prompts(tokenizer, 8), blocks, quads)


def compare(
    name: str, place: Workplace, inputs: dict[str, torch.Tensor], blocks: tuple[int, ...], quads: int
) -> list[dict[str, Any]]:
    """Compare guided, closed and steering-vectors decode steps with unguided ones, all in one run."""
    model = place.model
    plain = plain_step(model, inputs)
    variants = {"A/A": plain_step(model, inputs), "A/A other object": plain_step(twin_of(model), inputs)}
    for variant, threshold in (("open", OPEN), ("closed", CLOSED)):
        variants[variant] = guided_step(place.guarded(threshold), inputs)
    variants["bare adding hook"] = bare_hook_step(twin_of(model), inputs, blocks)
    variants["steering-vectors"] = peer_step(twin_of(model), inputs, blocks)
    figures = [
        figure(name, variant, measured, LIMITS.get((name, variant)))
        for variant, measured in interleaved(plain, variants, quads).items()
    ]
    for variant in variants.values():
        variant.stop()
    return with_verdicts(figures, beside="A/A")


def plain_step(model: Any, inputs: dict[str, torch.Tensor]) -> Variant:
    """Return one unguided decode step at a fixed cache length."""
    processors, criteria = LogitsProcessorList([]), StoppingCriteriaList([])
    cache = prefill(model, inputs)
    arguments = step_arguments(inputs, cache)

    def step() -> None:
        with torch.no_grad():
            logits = model(**arguments).logits[:, -1]
            processors(inputs["input_ids"], logits)
            criteria(inputs["input_ids"], None)
        cache.crop(-1)

    return Variant(step)


def guided_step(model: Any, inputs: dict[str, torch.Tensor]) -> Variant:
    """Return one decode step inside a guided request, with the callbacks of the loop, and what ends the request."""
    engine = model.guard.engine
    request = new_request(engine, inputs["input_ids"], inputs["attention_mask"].bool(), cached=True)
    width = inputs["input_ids"].shape[1]
    settings = LoopSettings(
        prompt_width=width,
        limit=1 << 20,
        samples=False,
        beams=False,
        copies=1,
        answers=1,
        pad=0,
        end_ids=(),
        records_states=False,
    )
    loop = GuidedLoop(engine, request, settings)
    processors, criteria = loop.processors([]), loop.criteria([])
    loop.start()
    token = ACTIVE.set(request)
    cache, logits = prefill(model, inputs, with_logits=True)
    with torch.no_grad():
        processors(inputs["input_ids"], logits)
    ACTIVE.reset(token)
    arguments = step_arguments(inputs, cache)

    def step() -> None:
        with torch.no_grad():
            logits = model(**arguments).logits[:, -1]
            processors(inputs["input_ids"], logits)
            criteria(inputs["input_ids"], None)
        cache.crop(-1)

    return Variant(step, state=request, stop=loop.stop)


def bare_hook_step(model: Any, inputs: dict[str, torch.Tensor], blocks: tuple[int, ...]) -> Variant:
    """Return one decode step with hooks that add a tensor and do nothing else: what torch itself charges."""
    rows = inputs["input_ids"].shape[0]
    layers = model.get_decoder().layers
    handles = [
        layers[block].register_forward_hook(adder(torch.zeros(rows, 1, model.config.hidden_size, dtype=model.dtype)))
        for block in blocks
    ]
    return replace(plain_step(model, inputs), stop=lambda: [handle.remove() for handle in handles])


def adder(delta: torch.Tensor) -> Callable[[Any, Any, torch.Tensor], torch.Tensor]:
    """Return a hook that adds."""
    return lambda _module, _arguments, output: output + delta


def peer_step(model: Any, inputs: dict[str, torch.Tensor], blocks: tuple[int, ...]) -> Variant:
    """Return one decode step with the peer library's additive hooks on the same blocks."""
    width = model.config.hidden_size
    vectors = {block: torch.randn(width, dtype=model.dtype) * 0.01 for block in blocks}
    handle = SteeringVector(vectors, "decoder_block").patch_activations(model)
    return replace(plain_step(model, inputs), stop=handle.remove)


def prefill(model: Any, inputs: dict[str, torch.Tensor], *, with_logits: bool = False) -> Any:
    """Return the cache after the prompt, and the last logits if asked for."""
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        output = model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
    return (output.past_key_values, output.logits[:, -1].float()) if with_logits else output.past_key_values


def step_arguments(inputs: dict[str, torch.Tensor], cache: Any) -> dict[str, Any]:
    """Return the arguments of one decode step."""
    mask = inputs["attention_mask"]
    rows = mask.shape[0]
    return {
        "input_ids": torch.full((rows, 1), 5),
        "attention_mask": torch.cat([mask, torch.ones(rows, 1, dtype=mask.dtype)], dim=1),
        "position_ids": mask.sum(dim=1, keepdim=True),
        "past_key_values": cache,
        "use_cache": True,
    }


def interleaved(plain: Variant, variants: dict[str, Variant], quads: int) -> dict[str, list[float]]:
    """Return, per variant, one ratio per A B B A quad; the variants take turns."""
    ratios: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(-WARM_UP, quads):
        for name, variant in variants.items():
            # A request sets its state once for all its steps.
            token = ACTIVE.set(variant.state)
            before, first, second, after = (timed(one) for one in (plain.step, variant.step, variant.step, plain.step))
            ACTIVE.reset(token)
            if turn >= 0:
                ratios[name].append((first + second) / (before + after))
    return ratios


def timed(step: Callable[[], None]) -> int:
    """Return the nanoseconds of one step."""
    start = time.perf_counter_ns()
    step()
    return time.perf_counter_ns() - start


if __name__ == "__main__":
    main()
