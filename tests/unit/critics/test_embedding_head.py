import pytest
import torch
from tests.text_judges import ANSWERS, PROMPTS, WIDTH, bert_encoder, embedding_settings, inputs

from steerguard.critics.embedding_head import EmbeddingHeadCost
from steerguard.errors import ArtifactFormatError, CostModelError
from steerguard.testing.tokenizers import tiny_tokenizer

TOKENIZER = tiny_tokenizer("chatml")
WEIGHT = torch.randn(WIDTH, generator=torch.Generator().manual_seed(5))
BIAS = torch.tensor([-0.5])


def judge(model=None, *, weight=WEIGHT, bias=BIAS, **changes):
    settings = embedding_settings(**changes)
    return EmbeddingHeadCost(
        name="embedded", settings=settings, model=model or bert_encoder(), tokenizer=TOKENIZER, weight=weight, bias=bias
    )


def by_hand(prompt, answer, *, normalise):
    ids = torch.tensor([TOKENIZER(f"{prompt}\n{answer}")["input_ids"]])
    with torch.no_grad():
        mean = bert_encoder()(input_ids=ids).last_hidden_state[0].double().mean(dim=0)
    if normalise:
        mean = mean / mean.square().sum().sqrt()
    return (mean @ WEIGHT.double() - 0.5).float()


@pytest.mark.parametrize("normalise", [True, False])
def test_the_cost_is_a_head_on_the_mean_of_the_real_tokens(normalise):
    found = judge(normalise=normalise).cost(inputs())
    expected = [by_hand(p, a, normalise=normalise) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=2e-5)


def test_an_empty_answer_costs_nan():
    assert judge().cost(inputs(("a", "b"), ("x", ""))).isnan().tolist() == [False, True]


def test_long_answers_raise_or_are_read_in_windows():
    answer = "abcdefghij" * 12
    with pytest.raises(CostModelError, match="too long"):
        judge(max_tokens=64).cost(inputs(("hi",), (answer,)))
    room = 64 - len("hi\n") - 8
    starts = range(0, len(answer) - room + room // 2, room // 2)
    expected = max(by_hand("hi", answer[start : start + room], normalise=True) for start in starts)
    found = judge(max_tokens=64, too_long="windows").cost(inputs(("hi",), (answer,)))
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    "head", [{"weight": torch.zeros(1)}, {"weight": torch.zeros(1, WIDTH)}, {"bias": torch.zeros(())}]
)
def test_a_head_of_another_shape_is_refused(head):
    with pytest.raises(ArtifactFormatError, match="does not fit its model"):
        judge(**head)


def test_an_encoder_in_training_mode_is_refused():
    with pytest.raises(ArtifactFormatError, match="training mode"):
        judge(bert_encoder().train())
