"""What a cost model reads of answers: means over their first tokens."""

from __future__ import annotations

import pytest
import torch

from steerguard.build.cost_answers import sampled_answers
from steerguard.build.cost_states import GivenAnswers, PrefixStates, prefix_lengths, read_prefixes
from steerguard.errors import NonFiniteHiddenStateError
from steerguard.models.chat import encode_prompts
from steerguard.testing import tiny_model

CHATS = tuple(({"role": "user", "content": text},) for text in ("paint the door", "break the lock of number 7", "no"))


def test_an_answer_is_read_at_shorter_prefixes_and_at_its_end():
    assert prefix_lengths(20, (8, 16, 32)) == (8, 16, 20)
    assert prefix_lengths(16, (8, 16, 32)) == (8, 16)
    assert prefix_lengths(3, (8, 16)) == (3,)


def _alone(model, ids, blocks):
    """Residuals behind blocks of one row without padding, `[blocks, tokens, width]`; not of the last block."""
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    return torch.stack([states[block + 1][0] for block in blocks])


def test_means_are_those_of_each_answer_by_itself_without_prompt_and_beginning(chatml_tokenizer):
    model = tiny_model("llama").eval()
    given = GivenAnswers(
        conversations=CHATS, begins=(None, "Sure, here is", None), answers=((5, 6, 7, 8, 9), (9, 8, 7), (4,))
    )
    found = read_prefixes(model, chatml_tokenizer, given, (1, 2), (2, 4), batch_size=2, progress=lambda _done: None)
    expected = []
    for chat, begin, answer in zip(given.conversations, given.begins, given.answers, strict=True):
        prompt = encode_prompts(chatml_tokenizer, [chat], [begin])[0].ids
        states = _alone(model, (*prompt, *answer), (1, 2))
        expected += [
            states[:, len(prompt) : len(prompt) + length].mean(dim=1) for length in prefix_lengths(len(answer), (2, 4))
        ]
    assert found.shape == (6, 2, model.config.hidden_size)
    assert torch.allclose(found, torch.stack(expected), atol=1e-5)


def test_states_that_are_not_finite_are_refused(chatml_tokenizer):
    model = tiny_model("llama").eval()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    given = GivenAnswers(conversations=CHATS[:1], begins=(None,), answers=((5,),))
    with pytest.raises(NonFiniteHiddenStateError):
        read_prefixes(model, chatml_tokenizer, given, (1,), (8,), batch_size=1, progress=lambda _done: None)


def test_readings_are_found_by_length():
    states = PrefixStates(
        blocks=(3, 5),
        means=torch.arange(12.0).reshape(6, 2, 1),
        tokens=torch.tensor([8, 16, 20, 5, 8, 16]),
        counts=(3, 1, 2),
    )
    assert states.answers.tolist() == [0, 0, 0, 1, 2, 2]
    assert states.ends.tolist() == [2, 3, 5]
    # A shorter answer is read at its end.
    assert states.at(8).tolist() == [0, 3, 4]
    assert states.at(16).tolist() == [1, 3, 5]
    assert states.features((5,)).tolist() == [[1.0], [3.0], [5.0], [7.0], [9.0], [11.0]]
    assert states.features((5, 3))[0].tolist() == [1.0, 0.0]


def test_answers_are_drawn_by_seed_and_torch_draws_as_before(chatml_tokenizer):
    model = tiny_model("llama").eval()

    def drawn(seed, temperature=1.0, batch_size=2):
        return sampled_answers(
            model,
            chatml_tokenizer,
            CHATS,
            (None, "Sure", None),
            tokens=6,
            temperature=temperature,
            seed=seed,
            batch_size=batch_size,
            progress=lambda _done: None,
        )

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = drawn(0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.shape == (3, 6)
    assert torch.equal(first, drawn(0))
    assert not torch.equal(first, drawn(1))
    assert torch.equal(drawn(0, temperature=0.0), drawn(1, temperature=0.0, batch_size=3))
