"""What guidance adds to one decode step inside transformers' own loops: beams, streams, and beside another thread.

Every loop runs in a thread of its own, and all of them but one wait: a loop stops at its stopping criteria, which it
asks once per step, and goes on when it is its turn. So single steps of whole loops alternate A B B A as `overhead.py`
says, with everything in them that a loop does between two questions, and no two threads ever run at once. A loop takes
the time of its step itself; handing over is not part of it. When a loop has written `TOKENS` tokens it begins again, at
the same step in A and in B; the prefill is not counted. Every loop has a model object of its own, so that the hooks of
one that waits are never met by another.

`closed beside an open thread`: before the steps begin, a request of another thread on the same wrapped model has opened
its gates and stopped between two of its steps, so that its hooks lie on every block of every counted step. It does not
run meanwhile: two threads on one core would measure the core.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from overhead_parts import (
    CLOSED,
    OPEN,
    WARM_UP,
    dispatch_bound_workplace,
    figure,
    policy,
    prompts,
    with_verdicts,
)
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from steerguard.testing import tiny_tokenizer

Limits = Mapping[tuple[str, str], float]
"""Bars by model and variant."""

MODEL = "dispatch-bound"
TOKENS = 64
"""New tokens of one run of a loop; all but the first, which the prefill gives, come from counted steps."""
ROWS = 4
BLOCKS = 32


class Quiet(BaseStreamer):  # type: ignore[misc]  # transformers' classes are untyped
    """A streamer that takes tokens and does nothing with them."""

    def put(self, value: torch.Tensor) -> None:
        """Take tokens."""

    def end(self) -> None:
        """Take the end."""


class Over(Exception):  # noqa: N818 - it ends a loop and is no error
    """Raised inside a loop that is not needed any more."""


class Loop(StoppingCriteria):  # type: ignore[misc]  # transformers' classes are untyped
    """A decoding loop in a thread of its own that goes one step at a time.

    Args:
        model: wrapped or not.
        inputs: the batch.
        streams: whether a streamer takes the tokens.
        named: settings of `generate` beside the length.
    """

    def __init__(self, model: Any, inputs: dict[str, torch.Tensor], *, streams: bool = False, **named: Any) -> None:
        self._model, self._inputs, self._streams, self._named = model, inputs, streams, named
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._started = self._measured = self._asked = 0
        self._over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def step(self) -> int:
        """Run one decode step, after a prefill where a run begins; return the nanoseconds of the step."""
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._measured

    def stop(self) -> None:
        """End the loop where it is."""
        self._over = True
        self._go.release()
        self._thread.join()

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        """Take the time of the step that ends here, and wait for the next turn."""
        now = time.perf_counter_ns()
        self._asked += 1
        # The first question comes behind the prefill.
        if self._asked > 1:
            self._measured = now - self._started
            self._done.release()
            self._wait()
        goes_on = torch.zeros(input_ids.shape[0], dtype=torch.bool)
        self._started = time.perf_counter_ns()
        return goes_on

    def _wait(self) -> None:
        self._go.acquire()
        if self._over:
            raise Over

    def _run(self) -> None:
        torch.set_num_threads(1)
        try:
            self._wait()
            while True:
                self._asked = 0
                streamer = {"streamer": Quiet()} if self._streams else {}
                self._model.generate(
                    **self._inputs,
                    **self._named,
                    **streamer,
                    max_new_tokens=TOKENS,
                    do_sample=False,
                    eos_token_id=None,
                    stopping_criteria=StoppingCriteriaList([self]),
                )
        except Over:
            return
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._error = error
            self._done.release()


def loops(quads: int, limits: Limits) -> list[dict[str, Any]]:
    """Return the figures of beams, streams and a closed request beside another thread, each beside an A/A of its own."""
    inputs = prompts(tiny_tokenizer(), ROWS)
    with tempfile.TemporaryDirectory() as folder:
        place = dispatch_bound_workplace(Path(folder))

        def beside(model: Any, **named: Any) -> tuple[Loop, Loop]:
            return Loop(place.model, inputs, **named), Loop(model, inputs, **named)

        shared = place.guarded(CLOSED)
        other = _opened_elsewhere(shared, inputs)
        pairs = {
            "beams A/A": beside(place.model, num_beams=4),
            "beams open": beside(place.guarded(OPEN), num_beams=4),
            "beams closed": beside(place.guarded(CLOSED), num_beams=4),
            "stream A/A": beside(place.model, streams=True),
            "stream buffer open": beside(place.guarded(OPEN), streams=True),
            "stream buffer closed": beside(place.guarded(CLOSED), streams=True),
            "stream window open": beside(place.guarded(OPEN, streaming="window"), streams=True),
            "stream window closed": beside(place.guarded(CLOSED, streaming="window"), streams=True),
            "loop A/A": beside(place.model),
            "closed beside an open thread": beside(shared),
        }
        try:
            ratios = _alternated(pairs, quads)
            _require_hooks(shared)
        finally:
            for pair in pairs.values():
                for loop in pair:
                    loop.stop()
            other.stop()
    found = {name: figure(MODEL, name, of, limits.get((MODEL, name))) for name, of in ratios.items()}
    return [
        entry
        for way in (("beams",), ("stream",), ("loop", "closed"))
        for entry in with_verdicts(
            [one for name, one in found.items() if name.split()[0] in way], beside=f"{way[0]} A/A"
        )
    ]


def _opened_elsewhere(model: Any, inputs: dict[str, torch.Tensor]) -> Loop:
    """Return a loop on a wrapped model whose request opened every gate and waits between two steps."""
    loop = Loop(model, inputs, policy=policy(OPEN))
    loop.step()
    _require_hooks(model)
    return loop


def _require_hooks(model: Any) -> None:
    if model.guard.hooked_blocks != tuple(range(BLOCKS)):
        raise RuntimeError(f"expected the hooks of an open request on every block, found {model.guard.hooked_blocks}")


def _alternated(pairs: Mapping[str, tuple[Loop, Loop]], quads: int) -> dict[str, list[float]]:
    """Return, per pair of loops, one ratio per A B B A quad; the pairs take turns."""
    ratios: dict[str, list[float]] = {name: [] for name in pairs}
    for turn in range(-WARM_UP, quads):
        for name, (plain, variant) in pairs.items():
            before, first, second, after = (loop.step() for loop in (plain, variant, variant, plain))
            if turn >= 0:
                ratios[name].append((first + second) / (before + after))
    return ratios
