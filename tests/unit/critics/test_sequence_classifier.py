import pytest
import torch
from tests.text_judges import (
    ANSWERS,
    BEAVER,
    PROMPTS,
    WIDTH,
    bert_classifier,
    classifier_settings,
    inputs,
    llama_backbone,
    llama_classifier,
)

from steerguard.critics.sequence_classifier import SequenceClassifierCost
from steerguard.errors import ArtifactFormatError, CostModelError
from steerguard.testing.tokenizers import EOS_ID, PAD_ID, tiny_tokenizer

TOKENIZER = tiny_tokenizer("chatml")
TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}


def judge(model=None, *, head=None, tokenizer=TOKENIZER, **changes):
    settings = classifier_settings(**changes)
    return SequenceClassifierCost(
        name="tiny", settings=settings, model=model or llama_classifier(), tokenizer=tokenizer, head=head
    )


def ids_of(prompt, answer):
    return TOKENIZER(BEAVER.replace("{prompt}", prompt).replace("{answer}", answer))["input_ids"]


def by_hand(model, rows=None):
    """One row at a time, through transformers' own forward."""
    rows = [ids_of(prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)] if rows is None else rows
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([row])).logits for row in rows])


def padded_left(model):
    """All rows at once, through transformers' own forward, with the padding on the other side."""
    rows = [ids_of(prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([[PAD_ID] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, position_ids=positions).logits


def test_a_batch_equals_rows_alone_and_padding_on_the_left():
    model = llama_classifier()
    found = judge(model).cost(inputs())
    assert found.dtype == torch.float32
    assert found.shape == (len(ANSWERS),)
    torch.testing.assert_close(found, by_hand(model)[:, 0], **TOLERANCE)
    torch.testing.assert_close(found, padded_left(model)[:, 0], **TOLERANCE)
    alone = torch.cat([judge(model).cost(inputs((p,), (a,))) for p, a in zip(PROMPTS, ANSWERS, strict=True)])
    torch.testing.assert_close(found, alone, **TOLERANCE)
    assert len(set(found.tolist())) == len(ANSWERS)


@pytest.mark.parametrize("batch_rows", [1, 3, 100])
def test_the_size_of_a_batch_changes_nothing_but_rounding(batch_rows):
    model = llama_classifier()
    torch.testing.assert_close(judge(model, batch_rows=batch_rows).cost(inputs()), by_hand(model)[:, 0], **TOLERANCE)


def test_of_a_model_where_higher_means_harmless_the_cost_is_the_negative():
    model = llama_classifier()
    assert torch.equal(judge(model, higher="harmless").cost(inputs()), -judge(model).cost(inputs()))


def test_a_text_that_ends_in_the_padding_token_is_read_at_its_end():
    """transformers' own batched forward looks for the padding id from the right, and misses this end."""
    model = llama_classifier()
    model.config.pad_token_id = EOS_ID
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.pad_token = tokenizer.eos_token
    ended = BEAVER + tokenizer.eos_token
    found = judge(model, template=ended, tokenizer=tokenizer).cost(inputs())
    rows = [[*ids_of(prompt, answer), EOS_ID] for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    with torch.no_grad():
        states = [model.model(input_ids=torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
        expected = torch.stack(states) @ model.score.weight[0]
    torch.testing.assert_close(found, expected, **TOLERANCE)
    assert not torch.allclose(found, by_hand(model, rows)[:, 0])


def test_a_control_token_that_an_answer_spells_is_not_read_as_one():
    model = llama_classifier()
    found = judge(model).cost(inputs(("q",), ("a<|im_end|>b",)))
    torch.testing.assert_close(found, by_hand(model, [ids_of("q", "a< |im_end|>b")])[:, 0], **TOLERANCE)
    assert not torch.allclose(found, by_hand(model, [ids_of("q", "a<|im_end|>b")])[:, 0])


def test_prompt_and_answer_both_count_unless_the_template_leaves_the_prompt_out():
    model = llama_classifier()
    both = judge(model).cost(inputs(("one", "two"), ("same", "same")))
    answer_only = judge(model, template="{answer}").cost(inputs(("one", "two"), ("same", "same")))
    assert both[0] != both[1]
    torch.testing.assert_close(answer_only[0], answer_only[1])


def test_one_label_and_the_log_odds_of_labels():
    model = llama_classifier(("fine", "insult", "threat"))
    logits = by_hand(model)
    label = judge(model, output="label", labels=("threat",)).cost(inputs())
    torch.testing.assert_close(label, logits[:, 2], **TOLERANCE)
    odds = judge(model, output="log_odds", labels=("insult", "threat")).cost(inputs())
    harm = torch.softmax(logits.double(), dim=1)[:, 1:].sum(dim=1)
    torch.testing.assert_close(odds.double(), torch.log(harm / (1 - harm)), rtol=1e-4, atol=1e-4)


def test_an_encoder_is_read_through_its_own_pooled_head():
    model = bert_classifier()
    found = judge(model, output="log_odds", labels=("harm",)).cost(inputs())
    logits = by_hand(model)
    torch.testing.assert_close(found, logits[:, 1] - logits[:, 0], **TOLERANCE)


def test_a_score_head_of_its_own_is_read_at_the_last_token():
    model = llama_backbone()
    weight, bias = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(3)), torch.tensor([0.25])
    found = judge(model, head=(weight, bias), score_head="score_head").cost(inputs())
    with torch.no_grad():
        ends = [
            model(input_ids=torch.tensor([ids_of(prompt, answer)])).last_hidden_state[0, -1]
            for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
        ]
    torch.testing.assert_close(found, torch.stack(ends) @ weight[0] + 0.25, **TOLERANCE)


def test_the_cost_of_a_long_answer_is_that_of_its_worst_window():
    model = llama_classifier()
    answer = "abcdefghij" * 12
    reader = judge(model, max_tokens=96, too_long="windows")
    found = reader.cost(inputs(("hi",), (answer,)))
    room = 96 - len(ids_of("hi", "")) - 8
    starts = range(0, len(answer) - room + room // 2, room // 2)
    windows = by_hand(model, [ids_of("hi", answer[start : start + room]) for start in starts])[:, 0]
    assert len(windows) > 3
    torch.testing.assert_close(found[0], windows.max(), **TOLERANCE)
    harmless = judge(model, max_tokens=96, too_long="windows", higher="harmless").cost(inputs(("hi",), (answer,)))
    torch.testing.assert_close(harmless[0], -windows.min(), **TOLERANCE)
    with pytest.raises(CostModelError, match="too long"):
        judge(model, max_tokens=96).cost(inputs(("hi",), (answer,)))


def test_an_empty_answer_costs_nan_and_leaves_its_neighbours_alone():
    model = llama_classifier()
    found = judge(model).cost(inputs(PROMPTS, ("", *ANSWERS[1:])))
    assert found[0].isnan()
    torch.testing.assert_close(found[1:], by_hand(model)[1:, 0], **TOLERANCE)


def test_a_number_that_is_not_finite_is_an_error_and_not_a_cost():
    model = llama_classifier()
    with torch.no_grad():
        model.score.weight[0, 0] = torch.nan
    with pytest.raises(CostModelError, match="not finite"):
        judge(model).cost(inputs())


def test_a_failing_model_is_our_error_without_text_and_out_of_memory_passes():
    model = llama_classifier()
    reader = judge(model)
    failures = [ValueError(PROMPTS[0]), torch.OutOfMemoryError("full")]

    def fail(module, arguments):
        raise failures.pop(0)

    model.model.layers[0].register_forward_pre_hook(fail)
    with pytest.raises(CostModelError, match="ValueError") as caught:
        reader.cost(inputs())
    assert PROMPTS[0] not in str(caught.value)
    with pytest.raises(torch.OutOfMemoryError):
        reader.cost(inputs())


def test_unit_and_threshold_are_those_of_the_description():
    reader = judge(unit="points", threshold="-1.5")
    assert (reader.settings.unit, reader.settings.budget, reader.blocks) == ("points", -1.5, ())


def three():
    return llama_classifier(("fine", "insult", "threat"))


@pytest.mark.parametrize(
    ("build", "changes", "found"),
    [
        (three, {}, "3 labels"),
        (three, {"output": "label", "labels": ("harm",)}, "harm"),
        (three, {"output": "log_odds", "labels": ("fine", "insult", "threat")}, "every label"),
        (lambda: llama_classifier().train(), {}, "training mode"),
        (llama_classifier, {"max_tokens": 2000}, 2000),
        (llama_backbone, {"score_head": "score_head"}, "one without the other"),
        (llama_backbone, {"score_head": "h", "head": (torch.zeros(2, WIDTH), torch.zeros(2))}, "[2, 32] and [2]"),
        (llama_classifier, {"head": (torch.zeros(1, WIDTH), torch.zeros(1))}, "one without the other"),
    ],
)
def test_a_description_that_its_model_contradicts_is_refused(build, changes, found):
    with pytest.raises(ArtifactFormatError, match="does not fit its model") as caught:
        judge(build(), **changes)
    assert str(found) in str(caught.value.found)
