"""Drawing continuations of a prefilled row: counts, rewinding, greedy copies, penalties, numbers that are not finite."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from tests.guarded_models import fresh_model, prompts, registry_for
from tests.search_checks import passed_through, unpadded
from tests.searched_models import sampled, search_policy, searched

from steerguard.engine import searching
from steerguard.guidance.search.search_guidance import SearchGuidance
from steerguard.testing.tokenizers import EOS_ID

LIMIT = 12


@contextmanager
def _proposing(monkeypatch, act, **settings):
    """Call a function with the proposer of one search, in the place of the search itself."""
    model = fresh_model()
    registry_for(model)
    usual, called = searching.search, []

    def instead(proposer, guidance, ledger, **named):
        assert isinstance(guidance, SearchGuidance)
        called.append(True)
        act(proposer, model)
        return usual(proposer, guidance, ledger, **named)

    monkeypatch.setattr(searching, "search", instead)
    with searched(model, search_policy(start="always", final_check="none")) as (wrapped, found):
        sampled(wrapped, prompts(1), max_new_tokens=LIMIT, **settings)
    assert called
    yield found


def test_without_keep_the_same_prefixes_are_drawn_from_again(monkeypatch):
    def act(proposer, _model):
        torch.manual_seed(3)
        one = proposer.propose([3], 4, draw="sample")
        torch.manual_seed(3)
        other = proposer.propose([3], 4, draw="sample")
        assert one.tokens == other.tokens
        assert torch.equal(one.means, other.means)
        assert one.forward_tokens == other.forward_tokens == 12
        assert one.read.tolist() == [4, 4, 4]

    with _proposing(monkeypatch, act, min_new_tokens=LIMIT):
        pass


def test_prefixes_get_as_many_candidates_as_they_are_given(monkeypatch):
    def act(proposer, model):
        first = proposer.propose([3], 2, draw="sample")
        proposer.keep([2, 0])
        second = proposer.propose([1, 3], 2, draw="sample")
        assert second.parents == (0, 1, 1, 1)
        assert second.read.tolist() == [4] * 4
        prompt = unpadded(prompts(1))[0]
        for parent, tokens, log_prob, means in zip(
            second.parents, second.tokens, second.log_probs, second.means, strict=True
        ):
            answer = [*first.tokens[(2, 0)[parent]], *tokens]
            with model.guard.unguided("a pass from scratch"):
                logits, states = passed_through(model, prompt, answer, blocks=(0, 1))
            told = logits[len(prompt) + 1 : len(prompt) + 3]
            told[:, EOS_ID] = -torch.inf
            found = torch.log_softmax(told, dim=-1).gather(1, torch.tensor(tokens)[:, None]).sum()
            assert log_prob == pytest.approx(float(found), abs=1e-3)
            own = torch.stack([states[block][len(prompt) :].mean(dim=0) for block in (0, 1)])
            assert torch.allclose(means, own, atol=1e-4)
        proposer.keep([0])
        with pytest.raises(ValueError, match="nothing was proposed"):
            proposer.keep([0])

    with _proposing(monkeypatch, act, min_new_tokens=LIMIT):
        pass


def test_a_greedy_call_takes_the_most_likely_token_in_the_first_copy(monkeypatch):
    def act(proposer, model):
        prompt = unpadded(prompts(1))[0]
        with model.guard.unguided("a pass from scratch"):
            logits, _ = passed_through(model, prompt, ())
        found = proposer.propose([4], 1, draw="sample")
        assert found.tokens[0][0] == int(logits[-1].argmax())
        top = proposer.propose([4], 1, draw="top")
        assert [tokens[0] for tokens in top.tokens] == logits[-1].topk(4).indices.tolist()
        avoided = proposer.propose([1], 1, draw="sample", avoid={found.tokens[0][0]: 1e4})
        assert avoided.tokens[0] != found.tokens[0]
        # The penalty says nothing about how likely a token is.
        chosen = torch.log_softmax(logits[-1], dim=-1)[avoided.tokens[0][0]]
        assert avoided.log_probs[0] > -1e3
        assert chosen > -1e3

    with _proposing(monkeypatch, act, do_sample=False, top_k=None):
        pass


def test_a_row_that_ended_is_padded_and_reads_no_further(monkeypatch):
    def act(proposer, _model):
        found = proposer.propose([64], LIMIT - 1, draw="sample")
        lengths = [len(tokens) for tokens in found.tokens]
        assert any(found.ended)
        for ended, tokens, length, read in zip(found.ended, found.tokens, lengths, found.read.tolist(), strict=True):
            assert (EOS_ID in tokens) == ended
            assert read == length - ended
        assert found.forward_tokens == 64 * (LIMIT - 1)

    with _proposing(monkeypatch, act):
        pass
