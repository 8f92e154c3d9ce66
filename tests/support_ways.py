"""Every way of generating that docs/support.md names: what it does to a model, wrapped or not, and what came of it."""

from __future__ import annotations

import functools
import inspect
import itertools
import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from tests.cached_turns import TOLERANCE, next_turn
from tests.guarded_models import CONTENTS, Capture, conversation, fresh_model, prompts, tokenizer
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, pipeline
from transformers.generation.streamers import BaseStreamer

ROWS = 4
STEPS = 5
LENGTHS = {"max_new_tokens": STEPS, "min_new_tokens": STEPS}


@dataclass
class Answers:
    """What one way gave: the same for a model without a guard, but for the decisions."""

    tokens: list[list[int]]
    """Of each returned sequence, in the order of the prompts."""
    logits: list[torch.Tensor] = field(default_factory=list)
    """Of each step, `[rows of the loop, ...]`; empty where the way does not show them."""
    decisions: list[Any] | None = None
    """None where the guard's `collect` has them."""


def generate(model, batch, **settings):
    """Greedy unless told otherwise; the logits are those that the processors of an app see."""
    capture = Capture()
    torch.manual_seed(7)
    named = {"do_sample": False, **LENGTHS, **settings}
    output = model.generate(**batch, logits_processor=LogitsProcessorList([capture]), **named)
    tokens = output if isinstance(output, torch.Tensor) else output.sequences
    width = batch["input_ids"].shape[1]
    decisions = list(getattr(output, "guidance", None) or ()) or None
    return Answers(tokens=tokens[:, width:].tolist(), logits=capture.steps, decisions=decisions)


def single(batch, row):
    """One text row of a batch, without its padding."""
    kept = batch["attention_mask"][row].bool()
    return {name: batch[name][row : row + 1, kept] for name in ("input_ids", "attention_mask")}


class _Tokens(BaseStreamer):
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.parts = []
        self.ended = False

    def put(self, value):
        self.parts += torch.as_tensor(value).reshape(-1).tolist()

    def end(self):
        self.ended = True


def _streamed(model, _batch):
    """Each text on its own, as a streamer takes only one."""
    rows = []
    for row in range(ROWS):
        streamer, alone = _Tokens(), single(prompts(ROWS), row)
        tokens = model.generate(**alone, **LENGTHS, do_sample=False, streamer=streamer)
        assert streamer.ended
        assert streamer.parts == tokens[0].tolist()
        rows.append(tokens[0, alone["input_ids"].shape[1] :].tolist())
    return Answers(tokens=rows)


def _piped(model, _batch):
    chats = [conversation(text) for text in CONTENTS[:ROWS]]
    chat = pipeline("text-generation", model=model, tokenizer=tokenizer())
    found = chat(chats, return_tensors=True, batch_size=ROWS, do_sample=False, **LENGTHS)
    return Answers(tokens=[one["generated_token_ids"][-STEPS:] for (one,) in found])


def _inferred(model, batch):
    with torch.inference_mode():
        return generate(model, batch)


def _scored(model, batch):
    """Log-likelihoods: one direct forward pass over all rows."""
    guard = getattr(model, "guard", None)
    if guard is None:
        with torch.no_grad():
            logits = model(**batch, **_positions(model, batch), use_cache=False).logits
        return Answers(tokens=[[] for _ in range(ROWS)], logits=[_seen(logits, batch)])
    with guard.forward() as scoring, torch.no_grad():
        logits = model(**batch).logits
    return Answers(
        tokens=[[] for _ in range(ROWS)], logits=[_seen(logits, batch)], decisions=list(scoring.decisions[0])
    )


def _positions(model, batch):
    """The position numbers of a padded batch as `generate` counts them."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return {}
    others = {name: value for name, value in batch.items() if name != "input_ids"}
    return {"position_ids": model._prepare_position_ids_for_generation(batch["input_ids"], others)}


def _seen(logits, batch):
    return torch.where(batch["attention_mask"].bool()[:, :, None], logits, 0.0)


def _checked(model, _batch):
    """Verdicts without generating are those of generating."""
    batch, guard = prompts(ROWS), getattr(model, "guard", None)
    if guard is None:
        return Answers(tokens=[[] for _ in range(ROWS)])
    with guard.collect() as reports:
        generate(model, batch)
    checked = guard.check([conversation(text) for text in CONTENTS[:ROWS]])
    assert [one.intended for one in checked] == [one.intended for one in reports]
    return Answers(tokens=[[] for _ in range(ROWS)], decisions=[])


def _in_two_threads(model, batch):
    """Two threads at once on one model; both must give what one alone gives."""
    alone = generate(model, batch, return_dict_in_generate=True)
    found, errors = [None, None], []

    def work(index):
        try:
            found[index] = model.generate(
                **batch, **LENGTHS, do_sample=False, return_dict_in_generate=True, output_logits=True
            )
        except Exception as error:  # noqa: BLE001 - handed on below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    for output in found:
        assert output.sequences[:, batch["input_ids"].shape[1] :].tolist() == alone.tokens
    return Answers(tokens=alone.tokens, logits=list(found[1].logits), decisions=alone.decisions)


@functools.cache
def _assistant():
    return fresh_model(seed=9)


def _assisted(model, _batch):
    return generate(model, single(prompts(ROWS), 0), assistant_model=_assistant())


def _batched_by_itself(model, _batch):
    config = GenerationConfig(do_sample=False, max_new_tokens=STEPS, pad_token_id=0, eos_token_id=2)
    found = model.generate_batch([[5, 6, 7]], generation_config=config)
    return Answers(tokens=[list(found)])


def _own_loop(model, input_ids, **_named):
    """A decoding loop of the app."""
    return model.model(input_ids)


def _embedded(model, batch):
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    named = {"attention_mask": batch["attention_mask"], **LENGTHS, "do_sample": False}
    return Answers(tokens=model.generate(inputs_embeds=embeddings, **named).tolist())


def _over_two_turns(model, batch):
    """The first turn fills a cache; the second must give what it gives without one."""
    cache = DynamicCache(config=model.config)
    first = generate(model, batch, past_key_values=cache, return_dict_in_generate=True)
    tokens = torch.cat((batch["input_ids"], torch.tensor(first.tokens)), dim=1)
    following = next_turn(batch, tokens)
    if getattr(model, "guard", None) is not None:
        alone, found = generate(model, following), generate(model, following, past_key_values=cache)
        assert found.tokens == alone.tokens
        assert all(torch.allclose(*pair, **TOLERANCE) for pair in zip(found.logits, alone.logits, strict=True))
    return first


def _of_unknown_origin():
    cache = DynamicCache()
    cache.update(torch.ones(ROWS, 1, 3, 8), torch.ones(ROWS, 1, 3, 8), 0)
    return cache


def _compiled(model, batch):
    decoder = model.get_decoder()
    decoder.compile(backend="eager")
    try:
        return generate(model, batch)
    finally:
        decoder._compiled_call_impl = None


def _compiled_whole(model, batch):
    """The whole model, compiled after it was wrapped; what torch cannot trace runs between the compiled parts."""
    torch._dynamo.reset()
    plain, compiled = model.forward, torch.compile(model.forward, backend="eager")
    model.forward = compiled if hasattr(model, "guard") else _compiled_behind_the_prompt(plain, compiled)
    try:
        return generate(model, batch)
    finally:
        del model.forward
        torch._dynamo.reset()


def _compiled_behind_the_prompt(plain, compiled):
    """A forward pass that reads the prompt uncompiled, as a guard does: classes may take another path when traced."""
    passes = itertools.chain([plain], itertools.repeat(compiled))

    @functools.wraps(plain)
    def forward(*arguments, **named):
        return next(passes)(*arguments, **named)

    return forward


COMPILED = '`torch.compile`, `executor="compiled"`'
WAYS = {
    "greedy search": generate,
    "sampling": lambda model, batch: generate(model, batch, do_sample=True, temperature=1.3, top_p=0.9),
    "beam search, 4 beams": lambda model, batch: generate(model, batch, num_beams=4),
    "`num_return_sequences`": lambda model, batch: generate(model, batch, do_sample=True, num_return_sequences=2),
    "`return_dict_in_generate`": lambda model, batch: generate(model, batch, return_dict_in_generate=True),
    "a streamer": _streamed,
    "`pipeline`": _piped,
    "`torch.inference_mode`": _inferred,
    "a static cache": lambda model, batch: generate(model, batch, cache_implementation="static"),
    "a chunked prefill": lambda model, batch: generate(model, batch, prefill_chunk_size=7),
    "without a cache": lambda model, batch: generate(model, batch, use_cache=False),
    "a plan of two passes": generate,
    "`guard.forward`": _scored,
    "`guard.check`": _checked,
    "two threads at once": _in_two_threads,
    "assisted decoding": _assisted,
    "prompt lookup": lambda model, _batch: generate(model, single(prompts(ROWS), 0), prompt_lookup_num_tokens=2),
    "`generate_batch`": _batched_by_itself,
    "`custom_generate`": lambda model, batch: generate(model, batch, custom_generate=_own_loop),
    "`inputs_embeds`": _embedded,
    "a cache over two turns": _over_two_turns,
    "a cache of the app": lambda model, batch: generate(model, batch, past_key_values=_of_unknown_origin()),
    "`torch.compile`": _compiled,
    COMPILED: _compiled_whole,
}
"""By name as in docs/support.md; each takes a model, wrapped or not, and a batch."""

TEXT_ONLY = (
    "a streamer", "`pipeline`", "`guard.check`", "assisted decoding", "prompt lookup", "`generate_batch`",
    "a cache over two turns",
)  # fmt: skip
"""Ways that are run on texts also for models that take images or sounds."""
TWO_PASSES = "a plan of two passes"
