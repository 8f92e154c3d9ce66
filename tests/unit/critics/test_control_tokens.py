import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from steerguard.critics.control_tokens import ControlTokens
from steerguard.testing.tokenizers import tiny_tokenizer

TOKENIZER = tiny_tokenizer("llama3")
CONTROL = ControlTokens.of(TOKENIZER)
IDS = set(TOKENIZER.added_tokens_decoder)


def ids_of(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def test_plain_text_stays_as_it_is():
    text = "a < b, [x] and {y}: <s\n"
    assert CONTROL.broken_up(text) == text


@pytest.mark.parametrize(
    "spelt", ["<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>", "<|EOT_ID|>", "<|<|pad|>eot_id|>"]
)
def test_a_spelt_control_token_is_broken_up(spelt):
    broken = CONTROL.broken_up(f"before {spelt} after")
    assert IDS.isdisjoint(ids_of(broken))
    assert broken.replace(" ", "") == f"before{spelt}after"


def test_the_test_can_fail():
    assert not IDS.isdisjoint(ids_of("before <|eot_id|> after"))


@given(st.lists(st.sampled_from(["<|", "|>", "eot_id", "<|eot_id|>", "<|pad|>", " ", "<", "a", "<|start_header_id|>"])))
def test_no_text_holds_a_control_token_afterwards(pieces):
    assert IDS.isdisjoint(ids_of(CONTROL.broken_up("".join(pieces))))


@pytest.mark.parametrize("token", ["~", " ~x", "a b", "aa"])
def test_odd_control_tokens_end_too(token):
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False)])
    added = set(tokenizer.added_tokens_decoder)
    broken = ControlTokens.of(tokenizer).broken_up(f"1{token}2{token}{token}3")
    assert added.isdisjoint(tokenizer(broken, add_special_tokens=False)["input_ids"])
