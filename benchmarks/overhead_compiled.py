"""What guidance adds to one compiled decode step: alternating single steps, A/A beside A/B.

    python benchmarks/overhead_compiled.py --out benchmarks/results/overhead_compiled.json

Protocol as in `overhead.py` (one thread, A B B A, median of the ratios of the quads), but the variants take turns by
stretches of quads: each is code of its own, and what ran more often would be warmer in the caches of the processor.
Each variant is a model object, a class and a code object of its own: torch keeps what it compiled by code object, and
would compare the conditions of all variants before every step. `A/A` times the unguided model against itself, `A/A other
code` against one that was compiled a second time, which shows what two compilations of the same code differ by.
A guided step includes the callbacks of the loop and taking the lock. Compiling takes minutes.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from overhead_parts import policy
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessorList, StoppingCriteriaList

import steerguard
from steerguard.engine.active import ACTIVE
from steerguard.engine.loop import GuidedLoop
from steerguard.engine.loop_settings import LoopSettings
from steerguard.engine.sampling import new_request
from steerguard.models.chat import render
from steerguard.models.packaged import load_packaged_smollm2
from steerguard.testing import VOCAB_SIZE, tiny_registry, tiny_tokenizer

WARM_UP = 20
"""Quads of each variant that are not counted."""
STRETCH, SETTLING = 25, 2
"""Quads until another variant has its turn, and quads behind that change that are not counted."""
QUIET = 0.003
"""Largest deviation of A/A from 1 at which a figure counts."""
BAR = 1.03
TEXTS = ("one", "tell me a story", "what is it", "go on", "why", "list three", "and then", "how so")


@dataclass(frozen=True)
class Variant:
    """One way to run a decode step."""

    step: Callable[[], None]
    state: Any = None
    """What the context variable holds while its steps run."""
    stop: Callable[[], Any] = lambda: None
    """Ends its request."""


def main() -> None:
    """Measure, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quads", type=int, default=600, help="A B B A quads per comparison of the small model")
    parser.add_argument("--smollm2-quads", type=int, default=150, help="the same for SmolLM2; 0 leaves it out")
    parser.add_argument("--blocks", type=int, default=32, help="of the small model")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = dispatch_bound(options.blocks, options.quads, options.backend)
    if options.smollm2_quads:
        figures += smollm2(options.smollm2_quads, options.backend)
    report = {
        "command": f"python benchmarks/overhead_compiled.py --quads {options.quads} "
        f"--smollm2-quads {options.smollm2_quads} --blocks {options.blocks} --backend {options.backend}",
        "backend": options.backend,
        "machine": {"processor": platform.machine(), "threads": 1},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "figures": figures,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    for entry in figures:
        print(
            f"{entry['model']:15} {entry['variant']:15} {entry['ratio']:.4f}  "
            f"[{entry['interval'][0]:.4f}, {entry['interval'][1]:.4f}]  n={entry['quads']}  "
            f"step {entry['unguided_microseconds']} us  {entry['verdict']}"
        )


def dispatch_bound(blocks: int, quads: int, backend: str) -> list[dict[str, Any]]:
    """Blocks of width 64, batch 4: nearly all time goes into dispatch, the worst case."""
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=blocks,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=VOCAB_SIZE,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    steered = tuple(range(blocks))
    return compare("dispatch-bound", model, tiny_tokenizer(), batch=4, blocks=steered, quads=quads, backend=backend)


def smollm2(quads: int, backend: str) -> list[dict[str, Any]]:
    """The demo model, batch 8, ten steered blocks."""
    model, tokenizer = load_packaged_smollm2()
    steered = tuple(range(10, 20))
    return compare("SmolLM2", model, tokenizer, batch=8, blocks=steered, quads=quads, backend=backend)


def compare(
    name: str, model: Any, tokenizer: Any, *, batch: int, blocks: tuple[int, ...], quads: int, backend: str
) -> list[dict[str, Any]]:
    """Compare open and closed compiled decode steps with unguided ones, all in one run."""
    inputs = render(tokenizer, [[{"role": "user", "content": text}] for text in TEXTS[:batch]])
    plain = compiled_step(own_class(model), inputs, backend)
    variants = {"A/A": plain, "A/A other code": compiled_step(own_class(model), inputs, backend)}
    with tempfile.TemporaryDirectory() as folder:
        registry = tiny_registry(
            Path(folder) / "registry",
            model,
            tokenizer,
            probe_blocks=(blocks[0],),
            steered_blocks=blocks,
            strength="0.01",
        )
        for variant, threshold in (("open", -1e5), ("closed", 1e5)):
            wrapped = steerguard.wrap(
                own_class(model),
                policy(threshold),
                tokenizer=tokenizer,
                registry=registry,
                audit=Path(folder) / variant,
                executor="compiled",
            )
            wrapped.forward = torch.compile(own_code(wrapped.forward), backend=backend, fullgraph=True)
            variants[variant] = guided_step(wrapped, inputs)
        measured, microseconds = interleaved(plain, variants, quads)
        figures = [figure(name, variant, ratios, microseconds) for variant, ratios in measured.items()]
        for one in variants.values():
            one.stop()
    quiet = all(abs(entry["ratio"] - 1) <= QUIET for entry in figures[:1])
    for entry in figures:
        entry["bar"] = BAR if entry["variant"] == "open" else None
        met = entry["bar"] is None or entry["ratio"] <= entry["bar"]
        entry["verdict"] = "undecided: A/A is not quiet" if not quiet else ("ok" if met else "over the bar")
    return figures


def own_class(model: Any) -> Any:
    """Return another model object on the same weight tensors, of a class of its own: torch keeps code by class."""
    cls = type(type(model).__name__, (type(model),), {"__module__": type(model).__module__})
    copy = cls(model.config).to(model.dtype).eval()
    copy.load_state_dict(model.state_dict(), assign=True)
    copy.tie_weights()
    return copy


def own_code(function: Any) -> Any:
    """Return a function that calls this one from a code object of its own."""

    def forward(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    forward.__code__ = forward.__code__.replace()
    return forward


def compiled_step(model: Any, inputs: dict[str, torch.Tensor], backend: str) -> Variant:
    """Return one unguided compiled decode step at a fixed cache length; its prefill runs uncompiled."""
    processors, criteria = LogitsProcessorList([]), StoppingCriteriaList([])
    cache, _ = prefill(model, inputs)
    model.forward = torch.compile(own_code(model.forward), backend=backend, fullgraph=True)
    return Variant(stepper(model, inputs, cache, processors, criteria))


def guided_step(model: Any, inputs: dict[str, torch.Tensor]) -> Variant:
    """Return one compiled decode step inside a guided request, with the callbacks of the loop."""
    engine = model.guard.engine
    request = new_request(engine, inputs["input_ids"], inputs["attention_mask"].bool(), cached=True)
    settings = LoopSettings(
        prompt_width=inputs["input_ids"].shape[1],
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
    with model.guard.uncompiled(model):
        cache, logits = prefill(model, inputs)
    with torch.no_grad():
        processors(inputs["input_ids"], logits)
    ACTIVE.reset(token)
    return Variant(stepper(model, inputs, cache, processors, criteria), state=request, stop=loop.stop)


def stepper(
    model: Any, inputs: dict[str, torch.Tensor], cache: Any, processors: Any, criteria: Any
) -> Callable[[], None]:
    """Return a function that runs one decode step and takes its token out of the cache again."""
    mask = inputs["attention_mask"]
    rows = mask.shape[0]
    arguments = {
        "input_ids": torch.full((rows, 1), 5),
        "attention_mask": torch.cat([mask, torch.ones(rows, 1, dtype=mask.dtype)], dim=1),
        "position_ids": mask.sum(dim=1, keepdim=True),
        "past_key_values": cache,
        "use_cache": True,
    }

    def step() -> None:
        with torch.no_grad():
            logits = model(**arguments).logits[:, -1]
            processors(inputs["input_ids"], logits)
            criteria(inputs["input_ids"], None)
        cache.crop(-1)

    return step


def prefill(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[Any, torch.Tensor]:
    """Return the cache after the prompt, and the last logits."""
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        output = model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
    return output.past_key_values, output.logits[:, -1].float()


def interleaved(plain: Variant, variants: dict[str, Variant], quads: int) -> tuple[dict[str, list[float]], list[float]]:
    """Return, per variant, one ratio per A B B A quad, and the times of A in microseconds; stretches take turns."""
    ratios: dict[str, list[float]] = {name: [] for name in variants}
    microseconds: list[float] = []
    for start in range(0, quads, STRETCH):
        for name, variant in variants.items():
            token = ACTIVE.set(variant.state)
            skipped = SETTLING if start else WARM_UP
            for turn in range(-skipped, min(STRETCH, quads - start)):
                steps = plain.step, variant.step, variant.step, plain.step
                before, first, second, after = (timed(step) for step in steps)
                if turn >= 0:
                    ratios[name].append((first + second) / (before + after))
                    microseconds.append((before + after) / 2000)
            ACTIVE.reset(token)
    return ratios, microseconds


def timed(step: Callable[[], None]) -> int:
    """Return the nanoseconds of one step."""
    start = time.perf_counter_ns()
    step()
    return time.perf_counter_ns() - start


def figure(model: str, variant: str, ratios: list[float], microseconds: list[float]) -> dict[str, Any]:
    """Return the median ratio with a bootstrap interval."""
    chooser = random.Random(0)
    medians = sorted(statistics.median(chooser.choices(ratios, k=len(ratios))) for _ in range(500))
    return {
        "model": model,
        "variant": variant,
        "ratio": round(statistics.median(ratios), 5),
        "interval": [round(medians[12], 5), round(medians[487], 5)],
        "quads": len(ratios),
        "unguided_microseconds": round(statistics.median(microseconds)),
    }


if __name__ == "__main__":
    main()
