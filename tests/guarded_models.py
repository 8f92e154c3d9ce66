"""Tiny models under a guard, and ways to watch what a run does: builders for tests, with defaults."""

from __future__ import annotations

import functools
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

import steerguard
from steerguard.audit.log import AuditLog
from steerguard.models.blocks import decoder_blocks
from steerguard.models.chat import render
from steerguard.policy.load import parse_policy
from steerguard.testing import MemorySink, model_state, tiny_model, tiny_registry, tiny_tokenizer

ARCHITECTURES = ("llama", "qwen2", "gemma", "gpt2", "mistral", "phi", "mixtral", "llava")
EXPERT_MODELS = ("mixtral", "olmoe")
FAMILIES = {
    "inferaligner": "inferaligner",
    "fitted_refusal": "refusal-vectors",
    "refusal_direction": "refusal-direction",
}
"""Family of each method's vectors in the registries of tests."""
PROBE_FAMILIES = {"rolling_guard": "harmful-answer"}
"""Family of the probe of each method that has no vectors."""
SCHEDULES = ("constant", "by_phase", "by_step")
TEMPLATE = "I cannot help with that."
CONTENTS = (
    "hello there",
    "how to cook",
    "tell me a very long story about it",
    "x",
    "what is it",
    "zzzz",
    "abc def",
    "go",
)
_HOME = tempfile.TemporaryDirectory(prefix="steerguard-tests-")


@functools.cache
def tokenizer():
    return tiny_tokenizer()


def fresh_model(architecture="llama", dtype=torch.float32, **sizes):
    model = tiny_model(architecture, dtype=dtype, **sizes)
    if architecture in EXPERT_MODELS:
        # The default kernel groups the tokens of all rows by expert, so a row's bits depend on its neighbours.
        model.set_experts_implementation("batched_mm")
    return model


@functools.cache
def shared_model(architecture="llama", dtype=torch.float32):
    """One model per architecture for the whole run; tests unwrap it and leave it as it was."""
    return fresh_model(architecture, dtype)


_REGISTRIES: dict[Any, Any] = {}


def registry_for(model, **settings):
    """The random artifacts of a model with these weights; made once."""
    key = (
        type(model).__name__,
        model.dtype,
        float(model.get_input_embeddings().weight.detach().float().sum()),
        *settings.items(),
    )
    if key not in _REGISTRIES:
        root = Path(_HOME.name) / str(len(_REGISTRIES))
        _REGISTRIES[key] = tiny_registry(root, model, tokenizer(), **settings)
    return _REGISTRIES[key]


def policy(
    threshold: float | str = 0.0,
    action: str = "guide",
    *,
    settings: str = "coefficient: 4.0",
    mode: str = "enforce",
    modalities: str = "text, image",
    rules: str | None = None,
    more: str = "",
    detector: bool = True,
    method: str = "inferaligner",
    version: str = "^1",
):
    """A policy with one detector `d`, one step `steer` and one rule `r`; a text threshold is a bound as written."""
    bound = threshold if isinstance(threshold, str) else f"{{value: {float(threshold):.9f}}}"
    use = ", use: [steer]" if action == "guide" else ""
    written = (
        rules
        or f"""
rules:
  - id: r
    when: {{detector: d, score: {{at_least: {bound}}}}}
    then: {{action: {action}{use}}}
default: {{action: allow}}"""
    )
    detectors = (
        "detectors:\n  - {id: d, type: linear_probe, artifact: harmful-intent@"
        + version
        + ", read: generation_prompt_end}\n"
        if detector
        else ""
    )
    family = PROBE_FAMILIES.get(method) or FAMILIES[method]
    artifact = f"{family}@{version}"
    guidance = f"guidance:\n  - {{id: steer, method: {method}, artifact: {artifact}, {settings}}}\n"
    return parse_policy(
        f"""
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {{name: test, version: 1.0.0, description: for tests, owner: tests}}
mode: {mode}
target: {{modalities: [{modalities}]}}
{detectors}{guidance if "steer" in written else ""}{written}
refusal: {{template: "{TEMPLATE}"}}
{more}
""",
        file="test.yaml",
    )


ALWAYS = """
rules:
  - {id: r, when: {always: true}, then: {action: guide, use: [steer]}}
default: {action: allow}"""


class FailingSink(MemorySink):
    """Fails at chosen records, counted from when `at` is set."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.at: int | None = None
        self._error = error

    def write(self, line: bytes) -> None:
        if self.at is not None:
            self.at -= 1
            if self.at < 0:
                self.at = None
                raise self._error
        super().write(line)


def memory_log(sink=None):
    return AuditLog.open(sink=sink or MemorySink(), content="none")


@contextmanager
def guarded(model, document=None, *, audit=None, registry=None, **named):
    """The model under a guard; unwrapped afterwards."""
    log = audit or memory_log()
    chosen = registry or registry_for(model)
    wrapped = steerguard.wrap(model, document or policy(), tokenizer=tokenizer(), registry=chosen, audit=log, **named)
    try:
        yield wrapped
    finally:
        steerguard.unwrap(wrapped)
        if audit is None:
            log.close()


def conversation(text):
    return [{"role": "user", "content": text}]


def prompts(rows=8, side="left", prefills=None):
    texts = [CONTENTS[row % len(CONTENTS)] + "!" * (row // len(CONTENTS)) for row in range(rows)]
    return render(tokenizer(), [conversation(text) for text in texts], padding_side=side, prefills=prefills)


@functools.cache
def splitting_threshold(architecture="llama", dtype=torch.float32, rows=8, side="left"):
    """A threshold between two scores of `prompts`, so that some gates open and some stay closed."""
    return split_of(shared_model(architecture, dtype), rows, side)


def split_of(model, rows=8, side="left"):
    scores = sorted(scores_of(model, prompts(rows, side)))
    middle = max(len(scores) // 2, 1)
    return scores[0] - 1.0 if len(scores) == 1 else (scores[middle - 1] + scores[middle]) / 2


def scores_of(model, batch):
    with guarded(model, policy(0.0), mode="monitor") as wrapped, wrapped.guard.collect() as reports:
        wrapped.generate(**batch, max_new_tokens=1, do_sample=False)
    return [report.readings[0].score for report in reports]


class Capture(LogitsProcessor):
    """Keeps the logits of every step as they reach the processors."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, _input_ids, scores):
        self.steps.append(scores.clone())
        return scores


class Watch(StoppingCriteria):
    """Calls a function after each step and never stops; step 0 follows the prefill."""

    def __init__(self, act) -> None:
        self._act = act
        self.step = 0

    def __call__(self, input_ids, _scores, **_):
        self._act(self.step)
        self.step += 1
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def run(model, batch, *, act=None, seed=7, **settings):
    """Generate; return (tokens, logits per step). Twelve greedy tokens unless told otherwise."""
    capture = Capture()
    settings = {"max_new_tokens": 12, "do_sample": False, **settings}
    if act is not None:
        settings["stopping_criteria"] = StoppingCriteriaList([Watch(act)])
    torch.manual_seed(seed)
    tokens = model.generate(**batch, logits_processor=LogitsProcessorList([capture]), **settings)
    return tokens, capture.steps


def same_rows(rows, first, second, width):
    """Whether the given rows agree: answers up to padding, and logits bit by bit while both runs have them."""
    tokens = zip(answers(first[0], width), answers(second[0], width), strict=True)
    texts = [one == other for one, other in tokens]
    chosen = torch.tensor(rows)
    logits = all(
        torch.equal(one[chosen].view(torch.int32), other[chosen].view(torch.int32))
        for one, other in zip(first[1], second[1], strict=False)
    )
    return logits and all(texts[row] for row in rows)


def answers(tokens, width):
    """Generated ids per row without trailing padding."""
    rows = []
    for ids in tokens[:, width:].tolist():
        while ids and ids[-1] == 0:
            ids.pop()
        rows.append(ids)
    return rows


state_of = model_state.state_of
"""Everything that a call must leave as it was: hooks, buffers, parameters, class, attributes."""


def blocks_of(model):
    return decoder_blocks(model)
