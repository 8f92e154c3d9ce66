import pytest
import torch
import transformers
from tests.text_judges import classifier_settings, llama_classifier

from steerguard.critics.text_limits import check_limits
from steerguard.errors import ArtifactFormatError
from steerguard.testing.tokenizers import VOCAB_SIZE, tiny_tokenizer

TOKENIZER = tiny_tokenizer("chatml")
SIZES = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def refused(model, **changes):
    with pytest.raises(ArtifactFormatError, match="does not fit its model") as caught:
        check_limits(model, TOKENIZER, classifier_settings(**changes), name="judge")
    return caught.value


def test_positions_of_the_configuration_bound_what_is_read():
    model = llama_classifier()
    check_limits(model, TOKENIZER, classifier_settings(max_tokens=1024), name="judge")
    assert refused(model, max_tokens=1025).found == 1025


def test_positions_that_begin_behind_the_padding_index_are_fewer():
    config = transformers.RobertaConfig(**SIZES, intermediate_size=32, max_position_embeddings=66, pad_token_id=1)
    model = transformers.RobertaForSequenceClassification(config).eval()
    check_limits(model, TOKENIZER, classifier_settings(max_tokens=64), name="judge")
    assert "65" not in str(refused(model, max_tokens=65).expected)
    assert model(input_ids=torch.full((1, 64), 5)).logits.isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, 65), 5))


def test_an_encoder_decoder_is_refused():
    config = transformers.BartConfig(
        vocab_size=VOCAB_SIZE,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_position_embeddings=64,
    )
    model = transformers.BartForSequenceClassification(config).eval()
    assert refused(model, max_tokens=32).found == "an encoder-decoder"
