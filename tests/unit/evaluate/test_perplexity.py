import math

import pytest
import torch

from steerguard.errors import SteerguardError
from steerguard.evaluate.perplexity import answer_perplexity
from steerguard.models.chat import encode_prompts
from steerguard.testing import tiny_model, tiny_tokenizer

CHATS = [
    [{"role": "user", "content": "Name a colour."}],
    [{"role": "user", "content": "Tell me, in a few words, how rain comes about and where it goes."}],
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Count to three."}],
]
PREFILLS = [None, "Rain", None, "One, "]
ANSWERS = [[40, 41], [50, 51, 52, 53, 54, 55, 56], [60], [70, 71, 72]]


def by_hand(model, tokenizer, chats, prefills, answers):
    """One row at a time, all logits, no padding, double precision."""
    found = []
    for prompt, answer in zip(encode_prompts(tokenizer, chats, prefills), answers, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt.ids, *answer]])).logits[0].double()
        logs = torch.log_softmax(logits, dim=-1)
        losses = [-logs[len(prompt.ids) + step - 1, token].item() for step, token in enumerate(answer)]
        found.append(math.exp(sum(losses) / len(losses)))
    return found


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.mark.parametrize("architecture", ["llama", "gemma", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_batch_gives_what_a_plain_loop_over_rows_gives(tokenizer, architecture, side, batch_size):
    model = tiny_model(architecture)
    found = answer_perplexity(model, tokenizer, CHATS, PREFILLS, ANSWERS, batch_size=batch_size, padding_side=side)
    assert found == pytest.approx(by_hand(model, tokenizer, CHATS, PREFILLS, ANSWERS), rel=1e-4)


def test_a_bfloat16_model_is_summed_in_float32(tokenizer):
    model = tiny_model(dtype=torch.bfloat16)
    found = answer_perplexity(model, tokenizer, CHATS, None, ANSWERS, batch_size=1)
    assert found == pytest.approx(by_hand(model, tokenizer, CHATS, None, ANSWERS), rel=1e-3)


def test_the_prefill_conditions_the_answer_and_is_not_counted(tokenizer):
    model = tiny_model()
    without, with_prefill = (
        answer_perplexity(model, tokenizer, CHATS[:1], [prefill], ANSWERS[:1], batch_size=1)
        for prefill in (None, "The sky is")
    )
    assert without != with_prefill
    assert with_prefill == pytest.approx(by_hand(model, tokenizer, CHATS[:1], ["The sky is"], ANSWERS[:1]), rel=1e-4)


def test_logits_are_computed_at_answer_positions_only(tokenizer):
    model = tiny_model()
    widths = []
    head = model.lm_head.register_forward_hook(lambda _m, _a, output: widths.append(output.shape[1]))
    answer_perplexity(model, tokenizer, CHATS[:1], None, ANSWERS[:1], batch_size=1)
    head.remove()
    assert widths == [len(ANSWERS[0])]


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(tokenizer):
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = answer_perplexity(model, tokenizer, CHATS, PREFILLS, ANSWERS, batch_size=4)
    assert found == pytest.approx([model.config.vocab_size] * 4, rel=1e-4)


def test_an_empty_answer_is_an_error_that_names_its_position(tokenizer):
    with pytest.raises(SteerguardError, match="answer 1"):
        answer_perplexity(tiny_model(), tokenizer, CHATS[:2], None, [[40], []], batch_size=2)


def test_lists_of_different_lengths_are_refused(tokenizer):
    with pytest.raises(ValueError, match="2 conversations but 1 answers"):
        answer_perplexity(tiny_model(), tokenizer, CHATS[:2], None, [[40]], batch_size=2)


def test_no_answers_have_no_perplexities(tokenizer):
    assert answer_perplexity(tiny_model(), tokenizer, [], None, [], batch_size=2) == []


def test_the_mode_of_the_model_is_left_as_it_was(tokenizer):
    model = tiny_model().train()
    answer_perplexity(model, tokenizer, CHATS[:1], None, ANSWERS[:1], batch_size=1)
    assert model.training
