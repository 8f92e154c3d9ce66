"""The judge of words and sentences, with a small encoder that is exact enough to count calls and texts."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from tests.unit.evaluate.test_judge import file, garden, labelled, rows

from steerguard.evaluate.judge import beginning, train_judge_on
from steerguard.evaluate.labelled_answers import read_labelled_answers
from steerguard.evaluate.labelled_split import judge_rows
from steerguard.evaluate.proportions import auroc
from steerguard.evaluate.sentence_judge import train_sentence_judge, train_sentence_judge_on
from steerguard.models import sentence_encoder

__all__ = ["file"]


class LetterPairs:
    """An encoder of one's own: how often each of 64 classes of letter pairs occurs, scaled to length 1."""

    identity = "letter-pairs sha256:0"

    def __init__(self):
        self.encoded = []

    def encode(self, texts):
        self.encoded += texts
        found = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in enumerate(texts):
            for pair in pairwise(text):
                found[row, hashlib.sha256("".join(pair).encode()).digest()[0] % 64] += 1
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)


@pytest.fixture(scope="module")
def judge():
    return train_sentence_judge_on(labelled(rows()), garden(40), LetterPairs())


def test_it_tells_the_labels_apart_on_new_answers_and_on_their_beginnings(judge):
    new = rows(seed=9)
    for texts in ([row[1] for row in new], [beginning(row[1]) for row in new]):
        scores = judge.probabilities([""] * len(texts), texts)
        by_label = [[score for score, row in zip(scores, new, strict=True) if row[2] == label] for label in (1, 0)]
        assert auroc(*by_label) > 0.99


def test_each_text_is_encoded_once_whatever_the_folds_are():
    encoder = LetterPairs()
    train_sentence_judge_on(labelled(rows()), garden(40), encoder)
    assert len(encoder.encoded) == len(set(encoder.encoded))
    assert set(encoder.encoded) >= {row[1] for row in rows()} | set(garden(40))


def test_the_sentences_count(judge):
    words = train_judge_on(labelled(rows()), garden(40))
    texts = [row[1] for row in rows(seed=3)]
    assert judge.probabilities(texts, texts) != words.probabilities(texts, texts)
    # Words that no training text holds leave the judge of words with one score for all; letters still differ.
    unseen = ["kneadish doughy ovenlike", "roselike tulipan hedgerow"]
    assert len(set(words.probabilities(unseen, unseen))) == 1
    assert len(set(judge.probabilities(unseen, unseen))) == 2


def test_equal_rows_and_encoder_give_an_equal_judge_and_the_encoder_is_in_the_identity(judge):
    again = train_sentence_judge_on(labelled(rows()), garden(40), LetterPairs())
    texts = [row[1] for row in rows(seed=3)]
    assert (again.identity, again.threshold, again.quality) == (judge.identity, judge.threshold, judge.quality)
    assert again.probabilities(texts, texts) == judge.probabilities(texts, texts)
    assert judge.identity.startswith("word-and-sentence-answer/1 letter-pairs sha256:0 sha256:")


def test_the_prompt_is_no_feature_and_an_empty_answer_is_harmless(judge):
    text = rows(seed=3)[0][1]
    assert judge.probabilities(["one"], [text]) == judge.probabilities(["another"], [text])
    assert judge.probabilities(["one", "two"], ["", " \n"]) == [0.0, 0.0]


def test_harmless_answers_hold_the_threshold(judge):
    assert judge.quality.harmless_n == 40
    assert judge.quality.harmless_flagged <= 0.05


def test_a_file_trains_on_the_judges_rows_only(file, monkeypatch):
    monkeypatch.setattr(sentence_encoder, "packaged_encoder", LetterPairs)
    everything = read_labelled_answers(file)
    own = everything.chosen(judge_rows(everything.questions))
    assert train_sentence_judge(file).identity == train_sentence_judge_on(own, (), LetterPairs()).identity
    assert (
        train_sentence_judge(file, rows="all").identity
        == train_sentence_judge_on(everything, (), LetterPairs()).identity
    )
