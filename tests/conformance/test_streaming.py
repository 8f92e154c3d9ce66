"""Streamed answers: nothing leaves before it may, everything that may leave does, and no consumer waits for ever."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
import torch
from tests.guarded_models import (
    ARCHITECTURES,
    TEMPLATE,
    FailingSink,
    blocks_of,
    fresh_model,
    guarded,
    memory_log,
    policy,
    prompts,
    registry_for,
    run,
    shared_model,
    split_of,
    tokenizer,
)
from transformers import (
    AsyncTextIteratorStreamer,
    LogitsProcessor,
    LogitsProcessorList,
    TextIteratorStreamer,
    TextStreamer,
    pipeline,
)

from steerguard.errors import (
    AuditSinkError,
    GuidanceDidNotFireError,
    NonFiniteHiddenStateError,
    UnguidedForwardError,
    UnsupportedGenerationError,
)
from steerguard.testing import MemorySink

STRATEGIES = ("buffer", "window", "unsafe_passthrough")
RELEASING = ("window", "unsafe_passthrough")
SETTINGS = {"max_new_tokens": 30, "do_sample": False}


def _policy(threshold, strategy, action="guide", **named):
    return policy(threshold, action, more=f"streaming: {{strategy: {strategy}}}", **named)


class Keeper:
    """A streamer that keeps what it gets, and may look around or fail at the n-th put."""

    def __init__(self, act=None):
        self.values = []
        self.ends = 0
        self._act = act

    def put(self, value):
        if self._act is not None:
            self._act(len(self.values))
        self.values.append(value.clone())

    def end(self):
        self.ends += 1

    @property
    def tokens(self):
        return [value.tolist() for value in self.values[1:]]


def _stream(model, document, batch, keeper=None, **settings):
    """Generate with a streamer; return what it got, the tokens behind the prompts, and the reports."""
    keeper = keeper or Keeper()
    with guarded(model, document, registry=registry_for(shared_model())) as wrapped, wrapped.guard.collect() as reports:
        tokens = wrapped.generate(**batch, streamer=keeper, **{**SETTINGS, **settings})
    return keeper, tokens[:, batch["input_ids"].shape[1] :], reports


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("action", ["allow", "guide", "refuse"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stream_is_the_prompt_the_returned_tokens_one_by_one_and_an_end(architecture, action, strategy):
    model = shared_model(architecture)
    keeper = Keeper()
    document = _policy(1e6 if action == "allow" else -1e6, strategy, "refuse" if action == "refuse" else "guide")
    with guarded(model, document) as wrapped, wrapped.guard.collect() as reports:
        tokens = wrapped.generate(**prompts(1), streamer=keeper, **SETTINGS)
    width = prompts(1)["input_ids"].shape[1]
    assert [report.applied for report in reports] == [action]
    assert torch.equal(keeper.values[0], prompts(1)["input_ids"])
    assert keeper.tokens == [[token] for token in tokens[0, width:].tolist()]
    assert keeper.ends == 1
    if action == "allow":
        plain = Keeper()
        wrapped.generate(**prompts(1), streamer=plain, **SETTINGS)
        assert plain.tokens == keeper.tokens


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_batch_for_a_streamer_that_takes_one_streams_the_returned_columns(strategy):
    model = shared_model()
    for action in ("guide", "refuse"):
        document = _policy(split_of(model, 6), strategy, action)
        keeper, tokens, reports = _stream(model, document, prompts(6))
        assert {report.applied for report in reports} == {"allow", action}
        assert keeper.tokens == tokens.t().tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_template_longer_than_every_answer_is_streamed_to_its_end(strategy):
    document = _policy(split_of(shared_model(), 6), strategy, "refuse")
    keeper, tokens, _ = _stream(
        shared_model(), document, prompts(6), stop_strings=[" ", "a", "e", "o"], tokenizer=tokenizer()
    )
    assert keeper.tokens == tokens.t().tolist()
    assert TEMPLATE in tokenizer().batch_decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("limit", [1, 3, 9])
def test_a_template_that_does_not_fit_is_streamed_as_it_is_returned(limit, strategy):
    keeper, tokens, reports = _stream(
        shared_model(), _policy(-1e6, strategy, "refuse"), prompts(1), max_new_tokens=limit
    )
    assert reports[0].template_cut
    assert keeper.tokens == tokens.t().tolist()
    assert keeper.ends == 1


def test_buffer_releases_nothing_but_the_prompt_before_the_decision_is_recorded():
    sink = MemorySink()
    seen = []

    def act(_count):
        seen.append(sum(json.loads(line)["type"] == "guard.decision" for line in sink.lines))

    with guarded(shared_model(), _policy(-1e6, "buffer"), audit=memory_log(sink)) as wrapped:
        wrapped.generate(**prompts(1), streamer=Keeper(act), **SETTINGS)
    assert seen[0] == 0
    assert len(seen) > 3
    assert set(seen[1:]) == {1}


def test_window_releases_tokens_while_they_are_generated_once_the_verdict_is_recorded():
    sink = MemorySink()
    seen, steps = [], []

    class Steps(LogitsProcessor):
        def __call__(self, _input_ids, scores):
            steps.append(None)
            return scores

    def act(_count):
        records = [json.loads(line) for line in sink.lines]
        seen.append((len(steps), [record for record in records if record["type"] == "guard.decision"]))

    with guarded(shared_model(), _policy(-1e6, "window"), audit=memory_log(sink)) as wrapped:
        with wrapped.guard.collect() as reports:
            wrapped.generate(
                **prompts(1), streamer=Keeper(act), logits_processor=LogitsProcessorList([Steps()]), **SETTINGS
            )
        records = [json.loads(line) for line in sink.lines]
    assert [count for count, _ in seen] == list(range(len(seen)))
    assert seen[0][1] == []
    (first,) = seen[1][1]
    assert (first["applied"], first["content"]["out_tokens"], first["doses"]) == ("guide", None, [])
    complete = [record for record in records if record["type"] == "guard.decision"][-1]
    assert (complete["req"], complete["row"]) == (first["req"], first["row"]) == (reports[0].request, 0)
    assert complete["content"]["out_tokens"] == reports[0].usage.generated_tokens
    assert complete["readings"] == first["readings"]
    assert len(reports) == 1


@pytest.mark.parametrize("strategy", ["buffer", "window"])
def test_without_a_record_nothing_but_the_prompt_leaves(strategy):
    sink = FailingSink(AuditSinkError("The disk is full."))
    keeper = Keeper()
    with guarded(shared_model(), _policy(-1e6, strategy), audit=memory_log(sink)) as wrapped:
        sink.at = 0
        with pytest.raises(AuditSinkError):
            wrapped.generate(**prompts(1), streamer=keeper, **SETTINGS)
        assert wrapped.guard.hooked_blocks == ()
    assert len(keeper.values) == 1
    assert keeper.ends == 1


def _poisoned(from_pass):
    model = fresh_model()
    count = []

    def poison(_module, _inputs, output):
        count.append(None)
        return torch.full_like(output, float("nan")) if len(count) > from_pass else None

    return model, lambda: blocks_of(model)[3].register_forward_hook(poison)


@pytest.mark.parametrize("settings", [{}, {"do_sample": True}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("from_pass", [0, 1, 4])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_state_that_stops_being_finite_refuses_a_buffered_answer_and_ends_a_released_one(
    strategy, from_pass, settings
):
    model, arm = _poisoned(from_pass)
    keeper = Keeper()
    sink = MemorySink()
    settings = {**SETTINGS, "min_new_tokens": 10, "max_new_tokens": 40, **settings}
    registry = registry_for(shared_model())
    with guarded(model, _policy(-1e6, strategy), registry=registry, audit=memory_log(sink)) as wrapped:
        arm()
        with wrapped.guard.collect() as reports:
            if strategy == "buffer":
                wrapped.generate(**prompts(1), streamer=keeper, **settings)
                assert [report.cause for report in reports] == ["non_finite"]
                text = tokenizer().decode([token for (token,) in keeper.tokens], skip_special_tokens=True)
                assert text == TEMPLATE
            else:
                with pytest.raises(NonFiniteHiddenStateError):
                    wrapped.generate(**prompts(1), streamer=keeper, **settings)
                assert reports == []
        assert wrapped.guard.hooked_blocks == ()
        kinds = [json.loads(line) for line in sink.lines]
    assert keeper.ends == 1
    if strategy == "window":
        assert len(keeper.tokens) == from_pass
    if strategy != "buffer":
        assert [record["code"] for record in kinds if record["type"] == "guard.error"] == ["NonFiniteHiddenStateError"]
        assert all(record["applied"] != "refuse" for record in kinds if record["type"] == "guard.decision")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_guidance_that_did_not_fire_raises_and_ends_the_stream(strategy):
    keeper = Keeper()

    class Sabotage(LogitsProcessor):
        def __call__(self, input_ids, scores):
            if input_ids.shape[1] > prompts(1)["input_ids"].shape[1]:
                for block in blocks_of(wrapped):
                    block._forward_hooks.clear()
            return scores

    with guarded(shared_model(), _policy(-1e6, strategy)) as wrapped, pytest.raises(GuidanceDidNotFireError):
        wrapped.generate(
            **prompts(1),
            streamer=keeper,
            logits_processor=LogitsProcessorList([Sabotage()]),
            min_new_tokens=6,
            **SETTINGS,
        )
    assert keeper.ends == 1
    assert strategy != "buffer" or len(keeper.values) == 1


@pytest.mark.parametrize(
    "call",
    [
        {"guidance_scale": 2.0},
        {"max_new_tokens": -1},
        {"no_such_argument": 1},
        {"policy": "no-such-policy"},
    ],
    ids=lambda call: next(iter(call)),
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_call_that_fails_before_the_first_token_ends_the_stream_too(strategy, call):
    keeper = Keeper()
    with guarded(shared_model(), _policy(1e6, strategy)) as wrapped, pytest.raises(Exception):  # noqa: B017, PT011
        wrapped.generate(**prompts(1), streamer=keeper, **{"max_new_tokens": 4, **call})
    assert keeper.ends == 1
    assert keeper.tokens == []


@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_streamer_that_raises_is_ended_and_leaves_no_trace(strategy, at):
    def act(count):
        if count == at:
            raise LookupError("user code")

    keeper = Keeper(act)
    with guarded(shared_model(), _policy(-1e6, strategy)) as wrapped:
        with pytest.raises(LookupError):
            wrapped.generate(**prompts(1), streamer=keeper, **SETTINGS)
        assert wrapped.guard.hooked_blocks == ()
        run(wrapped, prompts(1))
    assert (len(keeper.values), keeper.ends) == (at, 1)


def test_a_streamer_whose_end_raises_does_not_hide_the_first_error():
    class Broken(Keeper):
        def end(self):
            raise OSError("closed")

    with guarded(shared_model(), policy(1e6)) as wrapped, pytest.raises(UnsupportedGenerationError) as caught:
        wrapped.generate(**prompts(1), streamer=Broken(), guidance_scale=2.0)
    assert caught.value.__notes__ == ["The streamer could not be ended: OSError."]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_streamer_of_the_app_cannot_run_the_model(strategy):
    def act(_count):
        wrapped(**prompts(1))

    with guarded(shared_model(), _policy(1e6, strategy)) as wrapped, pytest.raises(UnguidedForwardError):
        wrapped.generate(**prompts(1), streamer=Keeper(act), **SETTINGS)


@pytest.mark.parametrize("streamer", ["text", 3, object()])
def test_what_is_not_a_streamer_raises_by_name(streamer):
    with guarded(shared_model(), policy(1e6)) as wrapped, pytest.raises(UnsupportedGenerationError, match="streamer"):
        wrapped.generate(**prompts(1), streamer=streamer, max_new_tokens=2)


def test_a_batch_for_a_text_streamer_raises_as_without_a_guard():
    with guarded(shared_model(), policy(1e6)) as wrapped, pytest.raises(ValueError, match="batch size 1"):
        wrapped.generate(**prompts(2), streamer=TextStreamer(tokenizer()), max_new_tokens=2)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("action", ["guide", "refuse"])
def test_a_text_streamer_prints_the_answer(action, strategy, capsys):
    with guarded(shared_model(), _policy(-1e6, strategy, action)) as wrapped:
        streamer = TextStreamer(tokenizer(), skip_prompt=True, skip_special_tokens=True)
        tokens = wrapped.generate(**prompts(1), streamer=streamer, **SETTINGS)
    answer = tokenizer().decode(tokens[0, prompts(1)["input_ids"].shape[1] :], skip_special_tokens=True)
    assert capsys.readouterr().out == answer + "\n"
    assert (answer == TEMPLATE) == (action == "refuse")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("fails", [False, True], ids=["works", "fails"])
def test_an_iterator_in_another_thread_gets_the_answer_and_always_ends(fails, strategy):
    streamer = TextIteratorStreamer(tokenizer(), skip_prompt=True, timeout=60, skip_special_tokens=True)
    raised = []
    settings = {**SETTINGS, **({"guidance_scale": 2.0} if fails else {})}

    def work():
        try:
            wrapped.generate(**prompts(1), streamer=streamer, **settings)
        except UnsupportedGenerationError as error:
            raised.append(error)

    with guarded(shared_model(), _policy(-1e6, strategy, "refuse")) as wrapped:
        thread = threading.Thread(target=work)
        thread.start()
        text = "".join(streamer)
        thread.join()
    assert text == ("" if fails else TEMPLATE)
    assert len(raised) == int(fails)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("fails", [False, True], ids=["works", "fails"])
def test_an_asynchronous_iterator_gets_the_answer_and_always_ends(fails, strategy):
    async def main(wrapped):
        streamer = AsyncTextIteratorStreamer(tokenizer(), skip_prompt=True, timeout=60, skip_special_tokens=True)
        settings = {**SETTINGS, **({"guidance_scale": 2.0} if fails else {})}
        work = asyncio.create_task(asyncio.to_thread(wrapped.generate, **prompts(1), streamer=streamer, **settings))
        text = "".join([part async for part in streamer])
        (error,) = await asyncio.gather(work, return_exceptions=True)
        return text, error

    with guarded(shared_model(), _policy(-1e6, strategy, "refuse")) as wrapped:
        text, error = asyncio.run(main(wrapped))
    assert text == ("" if fails else TEMPLATE)
    assert isinstance(error, UnsupportedGenerationError) == fails


def test_a_pipeline_streams(capsys):
    with guarded(shared_model(), _policy(-1e6, "window", "refuse")) as wrapped:
        generator = pipeline("text-generation", model=wrapped, tokenizer=tokenizer())
        capsys.readouterr()
        streamer = TextStreamer(tokenizer(), skip_prompt=True, skip_special_tokens=True)
        generator([{"role": "user", "content": "hello"}], streamer=streamer, max_new_tokens=30)
    assert capsys.readouterr().out == TEMPLATE + "\n"


def test_monitor_mode_streams_what_the_model_says_once_the_verdict_is_recorded():
    plain = Keeper()
    shared_model().generate(**prompts(1), streamer=plain, **SETTINGS)
    with guarded(shared_model(), _policy(-1e6, "window", "refuse"), mode="monitor") as wrapped:
        watched = Keeper()
        wrapped.generate(**prompts(1), streamer=watched, **SETTINGS)
    assert watched.tokens == plain.tokens


def test_without_guidance_a_streamer_is_left_as_it_is():
    plain, off, passed = Keeper(), Keeper(), Keeper()
    shared_model().generate(**prompts(1), streamer=plain, **SETTINGS)
    with guarded(shared_model(), policy(-1e6, "refuse"), mode="off") as wrapped:
        wrapped.generate(**prompts(1), streamer=off, **SETTINGS)
    with guarded(shared_model(), policy(-1e6, "refuse")) as wrapped, wrapped.guard.unguided("a test"):
        wrapped.generate(**prompts(1), streamer=passed, **SETTINGS)
    assert off.tokens == passed.tokens == plain.tokens
    assert (off.ends, passed.ends) == (1, 1)
