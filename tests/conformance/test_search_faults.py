"""Whatever fails while a search runs: nothing unguided leaves, nothing stays behind, the audit log says so."""

from __future__ import annotations

import gc
import json

import pytest
import torch
from tests.guarded_models import TEMPLATE, blocks_of, fresh_model, memory_log, prompts, registry_for, state_of
from tests.search_checks import Ramp, Seen, counted, forward_columns, passed_through
from tests.searched_models import sampled, search_policy, searched, text_of, with_judge
from transformers import DynamicCache, LogitsProcessorList
from transformers.cache_utils import DynamicLayer

from steerguard.testing import MemorySink
from steerguard.testing.model_state import state_difference

EVERY = "method: inference_guard, candidates: 4, block_tokens: 3, keep: 2, retries: 1"
TIMES = {"at once": 0, "within the search": 3}


class _Failing:
    """A cost model that does something else once it was asked a few times."""

    def __init__(self, blocks, act, *, after):
        self.blocks, self._act, self._left = blocks, act, after

    def cost(self, inputs):
        self._left -= 1
        usual = Ramp(self.blocks, free=100).cost(inputs)
        return usual if self._left >= 0 else self._act(usual)


def _raise(_usual):
    raise RuntimeError("broken")


def _events(sink):
    return [json.loads(line) for line in sink.lines]


def _blocks(wrapped):
    return wrapped.guard.engine.program.searches[0].cost.blocks


def _alive():
    """Every cache and layer of one that something holds on to, by identity."""
    gc.collect()
    return {id(found) for found in gc.get_objects() if type(found) in {DynamicCache, DynamicLayer}}


def _is_refusal(tokens, batch):
    said = text_of(tokens[0, batch["input_ids"].shape[1] :]).strip()
    return bool(said) and TEMPLATE.startswith(said)


@pytest.mark.parametrize("start", ["always", "lazy"])
@pytest.mark.parametrize("after", TIMES.values(), ids=TIMES)
@pytest.mark.parametrize(
    ("act", "cause", "outcome"),
    [
        (_raise, "critic_failed", "critic_failed"),
        (lambda usual: usual * torch.nan, "non_finite", "non_finite"),
        (lambda usual: usual + torch.inf, "non_finite", "non_finite"),
        (lambda usual: usual - torch.inf, "non_finite", "non_finite"),
    ],
    ids=["raises", "nan", "inf", "minus inf"],
)
def test_a_cost_model_that_fails_refuses_the_row(start, after, act, cause, outcome):
    model = fresh_model()
    registry_for(model)
    before, sink, batch, alive = state_of(model), MemorySink(), prompts(1), _alive()
    document = search_policy(EVERY, start=start, cost_budget=-200.0 if start == "lazy" and after else 0.0)
    with searched(model, document, audit=memory_log(sink)) as (wrapped, found):
        guarded_state = state_of(model)
        with_judge(wrapped, _Failing(_blocks(wrapped), act, after=after))
        tokens = sampled(wrapped, batch)
        assert state_difference(guarded_state, state_of(model)) is None
        assert _is_refusal(tokens, batch)
        report = found[0]
        assert (report.applied, report.cause, report.search.outcome, report.search.cost) == (
            "refuse", cause, outcome, None,
        )  # fmt: skip
        with_judge(wrapped, Ramp(_blocks(wrapped), free=300))
        sampled(wrapped, batch)
        assert found[1].applied == "guide"
    assert _alive() <= alive
    assert state_difference(before, state_of(model)) is None
    assert [event["cause"] for event in _events(sink) if "cause" in event] == [cause, "rule"]


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf])
def test_one_candidate_that_cannot_be_judged_is_left_out(spoilt):
    model = fresh_model()
    registry_for(model)
    asked = []

    def act(usual):
        found = usual.clone()
        # Without it, the first candidate would be the best one.
        found[:], found[0] = torch.arange(len(usual)).float() - 50.0, spoilt
        asked.append(len(usual))
        return found

    whole = "method: best_of_n, candidates: 4"
    with searched(model, search_policy(whole, start="always")) as (wrapped, found):
        with_judge(wrapped, _Failing(_blocks(wrapped), act, after=0))
        sampled(wrapped, prompts(1))
    assert asked == [4]
    assert (found[0].search.outcome, found[0].search.cost) == ("found", -49.0)


def test_a_row_whose_judge_fails_leaves_its_neighbours_alone():
    model = fresh_model()
    registry_for(model)
    count = []

    def act(usual):
        count.append(1)
        if len(count) == 2:
            raise RuntimeError
        return usual

    with searched(model, search_policy()) as (wrapped, found):
        with_judge(wrapped, _Failing(_blocks(wrapped), act, after=0))
        sampled(wrapped, prompts(3))
    assert [report.cause for report in found] == ["rule", "critic_failed", "rule"]


class _Stumbling:
    """Raises in one of the passes with so many rows, before or behind the cache of a block was written."""

    def __init__(self, model, error, *, more_than, at=0, block=2):
        self._error, self._more_than, self._left = error, more_than, at
        self.raised = []
        self._handle = blocks_of(model)[block].register_forward_hook(self._act)

    def _act(self, _module, _arguments, output):
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[0] > self._more_than and hidden.shape[1] == 1:
            self._left -= 1
            if self._left < 0:
                self.raised.append(hidden.shape[0])
                raise self._error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._handle.remove()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), RuntimeError("device")])
@pytest.mark.parametrize("start", ["always", "lazy"])
def test_what_breaks_off_a_candidates_pass_breaks_off_the_call(start, error):
    model = fresh_model()
    registry_for(model)
    sink, batch, alive = MemorySink(), prompts(2), _alive()
    with searched(model, search_policy(start=start, cost_budget=-100.0), audit=memory_log(sink)) as (wrapped, found):
        before = state_of(model)
        own = DynamicCache()
        with _Stumbling(model, error, more_than=3, at=2), pytest.raises(type(error)):
            sampled(wrapped, batch, past_key_values=own)
        assert not found
        assert own.get_seq_length() == 0
        assert wrapped.guard.hooked_blocks == ()
        assert state_difference(before, state_of(model)) is None
        sampled(wrapped, batch)
        assert len(found) == 2
        del own
    error.__traceback__ = error.__context__ = None
    assert _alive() <= alive
    failed = [event for event in _events(sink) if event.get("outcome") == "raise"]
    assert [event["code"] for event in failed] == [type(error).__name__]


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "qwen3_next"])
@pytest.mark.parametrize(("fits", "candidates", "halvings"), [(3, 2, 1), (1, 1, 2), (0, 1, 2)])
@pytest.mark.parametrize("at", [0, 4])
def test_out_of_memory_halves_the_candidates(architecture, fits, candidates, halvings, at):
    model = fresh_model(architecture)
    registry_for(model)
    keep_one = "method: inference_guard, candidates: 4, block_tokens: 3, keep: 1, retries: 1"
    document = search_policy(keep_one, start="always", final_check="none")
    with searched(model, document) as (wrapped, found), forward_columns(model) as passes:
        with_judge(wrapped, Ramp(_blocks(wrapped), free=100))
        with _Stumbling(model, torch.OutOfMemoryError(), more_than=fits, at=at) as stumbling:
            tokens = sampled(wrapped, prompts(1), min_new_tokens=12)
        assert stumbling.raised
        report = found[0].search
        assert (report.candidates, report.halvings) == (candidates, halvings)
        # What had passed of a draw that failed is counted; a pass that did not come to its end is not.
        assert counted(passes[1:]) - sum(stumbling.raised) == report.forward_tokens
        if fits:
            assert report.outcome == "found"
        else:
            assert (report.outcome, found[0].cause) == ("memory", "budget")
            assert _is_refusal(tokens, prompts(1))


@pytest.mark.parametrize("name", ["keys", "values"])
def test_out_of_memory_in_the_middle_of_a_fork_halves_the_candidates(name, monkeypatch):
    model = fresh_model()
    registry_for(model)
    usual, raised, seen = DynamicLayer.__setattr__, [], Seen()

    def assign(layer, attribute, value):
        # The third layer of the fork of the second block, and before anything of it was exchanged.
        if attribute == "keys" and value is not None and value.dim() == 4 and value.shape[0] == 4:
            raised.append(1)
            if len(raised) == (11 if name == "keys" else 3):
                raise torch.OutOfMemoryError
        usual(layer, attribute, value)

    monkeypatch.setattr(DynamicLayer, "__setattr__", assign)
    document = search_policy(EVERY, start="always", final_check="none")
    batch = prompts(1)
    with searched(model, document) as (wrapped, found):
        with_judge(wrapped, Ramp(_blocks(wrapped), free=100))
        sampled(wrapped, batch, min_new_tokens=12, logits_processor=LogitsProcessorList([seen]))
    assert (found[0].search.outcome, found[0].search.candidates, found[0].search.halvings) == ("found", 2, 1)
    monkeypatch.undo()
    for ids, scores in seen.rows:
        logits, _ = passed_through(model, ids, ())
        told = torch.isfinite(scores)
        assert torch.allclose(logits[-1][told], scores[told], atol=2e-4)


def test_out_of_memory_outside_of_candidates_fails_the_call():
    model = fresh_model()
    registry_for(model)
    with searched(model, search_policy(start="lazy", final_check="none")) as (wrapped, found):
        with_judge(wrapped, Ramp(_blocks(wrapped), free=5))
        # The last safe token runs again, alone.
        with _Stumbling(model, torch.OutOfMemoryError(), more_than=0, at=11), pytest.raises(torch.OutOfMemoryError):
            sampled(wrapped, prompts(1), min_new_tokens=12)
        assert not found
