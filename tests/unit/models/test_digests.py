from __future__ import annotations

import hashlib
import time

from transformers import AutoTokenizer

from steerguard.models.digests import chat_template_sha256, tokenizer_sha256
from steerguard.testing import tiny_tokenizer


class SlowTokenizer:
    """The part of a tokenizer without a fast backend that a digest reads."""

    def __init__(self, vocab, special):
        self._vocab, self.all_special_ids = vocab, special

    def get_vocab(self):
        return self._vocab


def test_padding_and_truncation_settings_do_not_change_the_digest():
    tokenizer = tiny_tokenizer()
    before = tokenizer_sha256(tokenizer)
    tokenizer(["a", "longer text"], padding=True, truncation=True, max_length=8)
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer.backend_tokenizer.padding is not None
    assert tokenizer_sha256(tokenizer) == before


def test_padding_with_a_misleading_token_does_not_change_the_digest():
    tokenizer = tiny_tokenizer()
    before = tokenizer_sha256(tokenizer)
    tokenizer.backend_tokenizer.enable_padding(pad_token='"added_tokens":[')
    assert tokenizer_sha256(tokenizer) == before


def test_another_vocabulary_changes_the_digest():
    tokenizer = tiny_tokenizer()
    before = tokenizer_sha256(tokenizer)
    tokenizer.add_tokens(["steer"])
    assert tokenizer_sha256(tokenizer) != before
    assert tokenizer_sha256(tiny_tokenizer("llama3")) != before


def test_the_digest_survives_saving_and_loading(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer_sha256(loaded) == tokenizer_sha256(tokenizer)
    assert chat_template_sha256(loaded) == chat_template_sha256(tokenizer)


def test_a_slow_tokenizer_is_digested_by_vocabulary_and_special_ids():
    one = tokenizer_sha256(SlowTokenizer({"b": 1, "a": 0}, [1, 0]))
    assert one == tokenizer_sha256(SlowTokenizer({"a": 0, "b": 1}, [0, 1]))
    assert one != tokenizer_sha256(SlowTokenizer({"a": 1, "b": 0}, [0, 1]))
    assert one != tokenizer_sha256(SlowTokenizer({"a": 0, "b": 1}, [0]))


def test_the_template_digest_is_the_hash_of_its_text():
    tokenizer = tiny_tokenizer()
    assert chat_template_sha256(tokenizer) == hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()
    tokenizer.chat_template = None
    assert chat_template_sha256(tokenizer) is None


def test_several_named_templates_have_one_digest_that_ignores_their_order():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": "a", "tool_use": "b"}
    first = chat_template_sha256(tokenizer)
    tokenizer.chat_template = {"tool_use": "b", "default": "a"}
    assert chat_template_sha256(tokenizer) == first


def test_the_digest_of_a_real_tokenizer_is_fast(smollm2):
    _, tokenizer = smollm2
    times = []
    for _ in range(5):
        start = time.process_time()
        tokenizer_sha256(tokenizer)
        times.append(time.process_time() - start)
    assert min(times) < 0.08  # 0.021 s measured on one idle core; room for a busy machine
