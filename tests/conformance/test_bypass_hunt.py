"""Guarantee "never bypassed": every known way around the guard ends guided or is refused by name.

Under a policy that refuses every row there are two safe ends: the refusal template as the answer, with a decision per
row, or an error of this package. Anything else is a way around.

Out of scope, because Python cannot stop the owner of a process: code that edits private attributes (`_steerguard_guard`,
the instance dictionaries of modules and contexts), that assigns `model.__class__ = original`, which is an unwrap without
its record, or that builds another model out of the wrapped one's blocks or weights.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tests.guarded_models import (
    TEMPLATE,
    fresh_model,
    guarded,
    memory_log,
    policy,
    prompts,
    registry_for,
    shared_model,
    tokenizer,
)
from transformers import (
    ContinuousBatchingConfig,
    DynamicCache,
    GenerationConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    MaxLengthCriteria,
    StaticCache,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
    pipeline,
)
from transformers.generation import GenerationMixin, GenerationMode
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager

import steerguard
from steerguard.errors import SteerguardError, UnsupportedArchitectureError, UnsupportedGenerationError

REFUSE_ALL = policy(-1e6, "refuse")
BATCH = prompts(3)
IDS = BATCH["input_ids"]
WIDTH = IDS.shape[1]
GREEDY = {"max_new_tokens": 30, "do_sample": False}
CONFIG = GenerationConfig(**GREEDY, pad_token_id=0, eos_token_id=2)


@pytest.fixture(scope="module")
def wrapped():
    """A model whose every row is refused; a way around shows as another answer."""
    with guarded(shared_model(), REFUSE_ALL) as model:
        yield model


def is_safe(model, door, **named):
    """Walk through a door; return how it ended: `guided` or the name of our error."""
    with model.guard.collect() as reports:
        try:
            output = door(model, **named)
        except Exception as error:
            ours = [found for found in _chain(error) if isinstance(found, SteerguardError)]
            if not ours:
                raise
            assert model.guard.hooked_blocks == ()
            return type(ours[0]).__name__
    texts = _texts(output)
    assert texts, "a door without an answer and without an error"
    assert all(text.strip() == TEMPLATE for text in texts), texts
    # A collection gathers the decisions of its own thread.
    assert {report.applied for report in reports} <= {"refuse"}
    assert model.guard.hooked_blocks == ()
    return "guided"


def _chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _texts(output):
    if isinstance(output, list):
        return [text for part in output for text in _texts(part)]
    if isinstance(output, dict) and "generated_text" in output:
        return [output["generated_text"]]
    if isinstance(output, str):
        return [output]
    tokens = output if isinstance(output, torch.Tensor) else output.sequences
    return tokenizer().batch_decode(tokens[:, WIDTH:], skip_special_tokens=True)


def _loop_arguments():
    config = GenerationConfig(**GREEDY, max_length=WIDTH + 4, pad_token_id=0, eos_token_id=2, num_beams=1)
    config.num_return_sequences, config.use_cache, config.length_penalty, config.early_stopping = 1, True, 1.0, False
    LlamaForCausalLM._prepare_special_tokens(shared_model(), config, device="cpu")
    criteria = StoppingCriteriaList([MaxLengthCriteria(WIDTH + 4)])
    return {"logits_processor": LogitsProcessorList(), "stopping_criteria": criteria, "generation_config": config}


def _in_thread(model, call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(timeout=60)


def _in_copied_context(model):
    with model.guard.unguided("the main thread of a test"):
        context = contextvars.copy_context()
    return _in_thread(model, lambda: context.run(lambda: model.generate(**BATCH, **GREEDY)))


def _started_inside_unguided(model):
    async def main():
        with model.guard.unguided("the task of a test"):
            return await asyncio.to_thread(lambda: model.generate(**BATCH, **GREEDY))

    return asyncio.run(main())


def _streamed(model):
    streamer = TextIteratorStreamer(tokenizer(), skip_prompt=True, skip_special_tokens=True, timeout=30)
    one = {key: tensor[:1] for key, tensor in BATCH.items()}
    failed = []

    def work():
        try:
            model.generate(**one, **GREEDY, streamer=streamer)
        except SteerguardError as error:
            failed.append(error)
            streamer.end()

    thread = threading.Thread(target=work)
    thread.start()
    text = "".join(streamer)
    thread.join()
    if failed:
        assert not text
        raise failed[0]
    model.generate(**one, **GREEDY)
    return text


class _Odd(GenerationConfig):
    """A configuration that names another mode than its fields do."""

    mode = GenerationMode.BEAM_SEARCH

    def get_generation_mode(self, assistant_model=None):
        return self.mode


def _odd(mode):
    def door(model):
        config = _Odd(**GREEDY, pad_token_id=0, eos_token_id=2)
        config.mode = mode
        return model.generate(**BATCH, generation_config=config)

    return door


def _own_cache(model, kind=DynamicCache):
    """A cache that an unguided pass of the same model filled with all but the last prompt token."""
    with model.guard.unguided("filling a cache in a test"):
        cache = kind() if kind is DynamicCache else kind(config=model.config, max_cache_len=WIDTH + 40)
        mask = BATCH["attention_mask"]
        model(input_ids=IDS[:, :-1], attention_mask=mask[:, :-1], past_key_values=cache, use_cache=True)
    return cache


def _returned_cache(model):
    first = model.generate(**BATCH, **GREEDY, return_dict_in_generate=True)
    if first.past_key_values is None:
        return first.sequences
    mask = torch.ones_like(first.sequences)
    mask[:, :WIDTH] = BATCH["attention_mask"]
    return model.generate(
        first.sequences, attention_mask=mask, past_key_values=first.past_key_values, **GREEDY
    )[:, first.sequences.shape[1] - WIDTH :]  # fmt: skip


def _first_layer_emptied(cache):
    cache.layers[0].reset()
    return cache


def _beam_loop(model, name):
    return getattr(LlamaForCausalLM, name)(model, IDS, **_loop_arguments())


GENERATING = {
    "generate of the class": lambda model: type(model).generate(model, **BATCH, **GREEDY),
    "generate of the original class": lambda model: LlamaForCausalLM.generate(model, **BATCH, **GREEDY),
    "generate through super": lambda model: super(type(model), model).generate(**BATCH, **GREEDY),
    "a partial of generate": lambda model: functools.partial(model.generate, **GREEDY)(**BATCH),
    "what generate wraps": lambda model: type(model).generate.__wrapped__(model, **BATCH, **GREEDY),
    "the sampling loop": lambda model: model._sample(IDS, **_loop_arguments()),
    "the sampling loop of the class": lambda model: LlamaForCausalLM._sample(model, IDS, **_loop_arguments()),
    "the sampling loop of the library": lambda model: GenerationMixin._sample(model, IDS, **_loop_arguments()),
    "what the sampling loop wraps": lambda model: type(model)._sample.__wrapped__(model, IDS, **_loop_arguments()),
    "the beam loop of the class": lambda model: _beam_loop(model, "_beam_search"),
    "inputs by position": lambda model: model.generate(IDS, attention_mask=BATCH["attention_mask"], **GREEDY),
    "inputs by name": lambda model: model.generate(inputs=IDS, attention_mask=BATCH["attention_mask"], **GREEDY),
    "no mask": lambda model: model.generate(IDS[:1], **GREEDY),
    "embeddings": lambda model: model.generate(inputs_embeds=torch.zeros(3, WIDTH, 32), **GREEDY),
    "embeddings as inputs": lambda model: model.generate(torch.zeros(3, WIDTH, 32), **GREEDY),
    "embeddings beside ids": lambda model: model.generate(
        **BATCH, inputs_embeds=model.get_input_embeddings()(IDS), **GREEDY
    ),
    "beams": lambda model: model.generate(**BATCH, **GREEDY, num_beams=3),
    "several sequences": lambda model: model.generate(
        **BATCH, max_new_tokens=30, do_sample=True, num_return_sequences=2
    ),
    "a chunked prefill": lambda model: model.generate(**BATCH, **GREEDY, prefill_chunk_size=3),
    "a static cache": lambda model: model.generate(**BATCH, **GREEDY, cache_implementation="static"),
    "an assistant": lambda model: model.generate(IDS[:1], **GREEDY, assistant_model=shared_assistant()),
    "a prompt lookup": lambda model: model.generate(IDS[:1], **GREEDY, prompt_lookup_num_tokens=2),
    "a dictionary": lambda model: model.generate(**BATCH, **GREEDY, return_dict_in_generate=True),
    "a dictionary with scores": lambda model: model.generate(
        **BATCH, **GREEDY, return_dict_in_generate=True, output_scores=True
    ),
    "a printing streamer": lambda model: model.generate(IDS[:1], **GREEDY, streamer=TextStreamer(tokenizer())),
    "a streamer in a thread": _streamed,
    "another thread": lambda model: _in_thread(model, lambda: model.generate(**BATCH, **GREEDY)),
    "a copied context": _in_copied_context,
    "a thread of an unguided task": _started_inside_unguided,
    "temperature 0": lambda model: model.generate(**BATCH, max_new_tokens=30, do_sample=False, temperature=0.0),
    "temperature near 0": lambda model: model.generate(**BATCH, max_new_tokens=30, do_sample=True, temperature=1e-6),
    "a threshold of the caller": lambda model: model.generate(**BATCH, **GREEDY, threshold=1e9),
    "a mode of the caller": lambda model: model.generate(**BATCH, **GREEDY, mode="off"),
    "continuous batching": lambda model: model.generate_batch([[5, 6]], generation_config=CONFIG),
    "a paged cache": lambda model: model.generate(**BATCH, **GREEDY, cache_implementation="paged"),
    "a continuous batching manager": lambda model: model.init_continuous_batching(generation_config=CONFIG),
    "a custom loop": lambda model: model.generate(**BATCH, **GREEDY, custom_generate=GenerationMixin._sample),
    "beams by an odd configuration": _odd(GenerationMode.BEAM_SEARCH),
    "assistance by an odd configuration": _odd(GenerationMode.ASSISTED_GENERATION),
    "contrast by an odd configuration": _odd(GenerationMode.CONTRASTIVE_SEARCH),
    "an empty foreign cache": lambda model: model.generate(**BATCH, **GREEDY, past_key_values=DynamicCache()),
    "a foreign cache": lambda model: model.generate(**BATCH, **GREEDY, past_key_values=_own_cache(model)),
    "a foreign static cache": lambda model: model.generate(
        **BATCH, **GREEDY, past_key_values=_own_cache(model, StaticCache)
    ),
    "a foreign cache with an empty first layer": lambda model: model.generate(
        **BATCH, **GREEDY, past_key_values=_first_layer_emptied(_own_cache(model))
    ),
    "the cache of a refused answer": _returned_cache,
    "a compiled container": lambda model: torch.compile(model, backend="eager").generate(**BATCH, **GREEDY),
}  # fmt: skip


@functools.cache
def shared_assistant():
    return fresh_model(seed=9)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", GENERATING)
def test_a_way_to_generate_ends_guided_or_refused_by_name(name, wrapped):
    assert is_safe(wrapped, GENERATING[name])


FORWARD = {
    "a call": lambda model: model(**BATCH),
    "forward": lambda model: model.forward(**BATCH),
    "forward of the class": lambda model: type(model).forward(model, **BATCH),
    "a call of the class": lambda model: type(model).__call__(model, **BATCH),
    "a call through super": lambda model: super(type(model), model).__call__(**BATCH),
    "a call of torch": lambda model: torch.nn.Module.__call__(model, **BATCH),
    "a call behind the hooks": lambda model: model._call_impl(**BATCH),
    "a partial": lambda model: functools.partial(model, **BATCH)(),
    "a functional call": lambda model: torch.func.functional_call(model, dict(model.named_parameters()), (IDS,)),
    "a sequence": lambda model: torch.nn.Sequential(model)(IDS),
    "data parallel": lambda model: torch.nn.DataParallel(model)(IDS),
    "a checkpoint": lambda model: torch.utils.checkpoint.checkpoint(model, IDS, use_reentrant=False),
    "a trace": lambda model: torch.jit.trace(model, IDS),
    "an export": lambda model: torch.export.export(model, (IDS,)),
    "a compiled container": lambda model: torch.compile(model, backend="eager")(**BATCH),
    "a compiled forward": lambda model: torch.compile(model.forward, backend="eager")(**BATCH),
    "a compiled function": lambda model: torch.compile(lambda ids: model(ids).logits, backend="eager")(IDS),
    "a thread": lambda model: _in_thread(model, lambda: model(**BATCH)),
    "guidance without a classifier": lambda model: UnbatchedClassifierFreeGuidanceLogitsProcessor(2.0, model)(
        IDS, torch.zeros(3, 320)
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORWARD)
def test_a_direct_forward_pass_is_refused_by_name(name, wrapped):
    assert is_safe(wrapped, FORWARD[name]) == "UnguidedForwardError"


def test_a_batching_manager_of_the_app_answers_nothing():
    # It changes the attention of the model that it is given, so it gets one of its own.
    with guarded(fresh_model(), REFUSE_ALL, registry=registry_for(shared_model())) as wrapped:
        manager = ContinuousBatchingManager(
            model=wrapped, generation_config=CONFIG, continuous_batching_config=ContinuousBatchingConfig()
        )
        try:
            manager.start()
            request = manager.add_request(IDS[2].tolist(), max_new_tokens=4)
            result = manager.get_result(request_id=request, timeout=1)
        finally:
            manager.stop(block=True, timeout=2)
        assert result is None or not result.generated_tokens


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_was_bound_before_the_wrapping_is_refused_after_it():
    model = fresh_model()
    doors = [model.generate, model._sample, model.__call__, functools.partial(model)]
    generator = pipeline("text-generation", model=model, tokenizer=tokenizer())
    with guarded(model, REFUSE_ALL, registry=registry_for(shared_model())) as wrapped:
        for door in (doors[0], lambda **_: doors[1](IDS, **_loop_arguments()), doors[2], doors[3]):
            assert is_safe(wrapped, lambda _, door=door: door(**BATCH)).endswith("Error")
        chat = [{"role": "user", "content": "hello"}]
        asked = {"max_new_tokens": 30, "do_sample": False, "return_full_text": False}
        assert is_safe(wrapped, lambda _: generator(chat, **asked)) == "guided"


def test_permission_for_one_model_is_none_for_another(wrapped):
    other = fresh_model()
    with guarded(other, REFUSE_ALL, registry=registry_for(shared_model())) as second, wrapped.guard.unguided("a test"):
        assert is_safe(second, lambda model: model(**BATCH)) == "UnguidedForwardError"
        assert is_safe(second, lambda model: model.generate(**BATCH, **GREEDY)) == "guided"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_was_compiled_while_it_was_allowed_is_refused_afterwards(wrapped):
    compiled = torch.compile(wrapped, backend="eager")
    with wrapped.guard.unguided("warming up a compiled model in a test"):
        compiled(IDS)
    assert is_safe(wrapped, lambda _: compiled(IDS)) == "UnguidedForwardError"


def test_an_object_of_the_wrapped_class_without_a_guard_takes_no_weights(wrapped):
    bare = type(wrapped)(wrapped.config)
    for door in (lambda _: bare.load_state_dict(wrapped.state_dict()), lambda _: bare.generate(**BATCH)):
        assert is_safe(wrapped, door) == "NotWrappedError"


COMPILED = {
    "forward": lambda model: setattr(model, "forward", torch.compile(model.forward, backend="eager")),
    "the decoder": lambda model: model.get_decoder().compile(backend="eager"),
    "a block": lambda model: model.get_decoder().layers[1].compile(backend="eager"),
    "a part of a block": lambda model: model.get_decoder().layers[3].mlp.compile(backend="eager"),
    "the decoder in a container": lambda model: setattr(model, "model", torch.compile(model.model, backend="eager")),
    "a block in a container": lambda model: model.model.layers.__setitem__(
        1, torch.compile(model.model.layers[1], backend="eager")
    ),
}  # fmt: skip


@pytest.mark.parametrize("part", COMPILED)
def test_a_model_of_which_a_part_is_compiled_is_refused_by_name(part):
    model = fresh_model()
    COMPILED[part](model)
    with pytest.raises(UnsupportedArchitectureError, match="compiled"):
        steerguard.wrap(
            model, REFUSE_ALL, tokenizer=tokenizer(), registry=registry_for(shared_model()), audit=memory_log()
        )


@pytest.mark.parametrize("part", [part for part in COMPILED if "container" not in part])
def test_a_part_that_is_compiled_after_the_wrapping_is_refused_by_name(part):
    with guarded(fresh_model(), REFUSE_ALL, registry=registry_for(shared_model())) as wrapped:
        COMPILED[part](wrapped)
        with pytest.raises(UnsupportedGenerationError, match="compile"):
            wrapped.generate(**BATCH, **GREEDY)


def test_a_part_that_generates_by_itself_is_refused_by_name():
    model = fresh_model()
    model.draft = fresh_model(seed=5)
    with pytest.raises(UnsupportedArchitectureError, match=r"model\.draft"):
        steerguard.wrap(
            model, REFUSE_ALL, tokenizer=tokenizer(), registry=registry_for(shared_model()), audit=memory_log()
        )


def test_a_preparation_of_inputs_by_the_app_is_refused_by_name(wrapped):
    wrapped.prepare_inputs_for_generation = LlamaForCausalLM.prepare_inputs_for_generation.__get__(wrapped)
    try:
        assert is_safe(wrapped, lambda model: model.generate(**BATCH, **GREEDY)) == "UnsupportedGenerationError"
    finally:
        del wrapped.prepare_inputs_for_generation
