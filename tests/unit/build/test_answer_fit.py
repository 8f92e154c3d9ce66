"""Fits over reads of answers: answers and classes count alike, folds keep an answer together, scores are runs of reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from steerguard.build.answer_fit import (
    answer_scores,
    fit_answer_probe,
    highest_run,
    out_of_fold_answers,
    read_weights,
)
from steerguard.build.answer_reads import AnswerReads, moments
from steerguard.build.recipe_answers import AnswerSettings
from steerguard.errors import BuildError
from steerguard.evaluate.proportions import auroc

PARTS = ((0, "prompt_mean"), (1, "end"))
SETTINGS = AnswerSettings(tokens=12, every=4, first=2)


def answers(counts, shift, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return AnswerReads(
        parts=PARTS,
        newest=torch.randn(sum(counts), 1, width, generator=generator) + shift,
        means=torch.randn(len(counts), 1, width, generator=generator) + shift,
        counts=tuple(counts),
    )


def test_an_answer_is_read_at_its_forced_beginning_and_from_first_on_until_nothing_follows():
    assert moments(30, SETTINGS, begun=True) == (0, 2, 6, 10)
    assert moments(11, SETTINGS, begun=False) == (2, 6, 10)
    assert moments(9, SETTINGS, begun=False) == (2, 6)
    assert moments(1, SETTINGS, begun=False) == ()
    assert moments(0, SETTINGS, begun=True) == (0,)
    # The last of twelve tokens is never fed back.
    assert moments(12, AnswerSettings(tokens=12, every=1, first=11), begun=False) == (11,)


def test_the_prompt_mean_stands_in_every_read_of_its_answer():
    reads = answers([2, 0, 3], 0.0)
    states = reads.states()
    assert states.shape == (5, 2, 6)
    assert torch.equal(states[:2, 0], reads.means[0].expand(2, 6))
    assert torch.equal(states[2:, 0], reads.means[2].expand(3, 6))
    assert torch.equal(states[:, 1], reads.newest[:, 0])
    kept = reads.chosen(torch.tensor([False, True, True]))
    assert kept.counts == (0, 3)
    assert torch.equal(kept.states(), states[2:])


def test_every_answer_and_every_class_counts_alike():
    weights = read_weights((1, 4, 0), (2, 2, 2))
    assert weights.sum() == pytest.approx(11)
    assert weights[0] == pytest.approx(weights[1:5].sum())
    assert weights[:5].sum() == pytest.approx(weights[5:].sum())
    assert weights[5:7].sum() == pytest.approx(weights[9:].sum())


def test_a_fit_is_a_weighted_logistic_regression_on_the_standardised_parts_side_by_side():
    harmful, benign = answers([3, 1, 5, 2] * 5, 1.0), answers([2, 4] * 12, 0.0, seed=1)
    probe = fit_answer_probe(harmful, benign, inverse_penalty=0.5)
    features = torch.cat([harmful.states(), benign.states()]).flatten(1).double().numpy()
    weights = read_weights(harmful.counts, benign.counts)
    mean = np.average(features, axis=0, weights=weights)
    scale = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weights))
    labels = np.r_[np.ones(sum(harmful.counts)), np.zeros(sum(benign.counts))]
    regression = LogisticRegression(C=0.5, max_iter=5000).fit((features - mean) / scale, labels, sample_weight=weights)
    expected = regression.decision_function((features - mean) / scale)
    found = probe.score(torch.cat([harmful.states(), benign.states()])).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert probe.parts == PARTS


def test_the_score_of_an_answer_is_what_a_guard_compares():
    scores = torch.tensor([1.0, 3.0, 2.0, 5.0])
    assert [highest_run(scores, count) for count in (1, 2, 3, 4)] == [5.0, 2.0, 2.0, 1.0]
    assert highest_run(scores, 5) == float("-inf")


def test_answers_are_scored_one_by_one_and_one_without_reads_has_none():
    reads = answers([2, 0, 3], 0.0)
    probe = fit_answer_probe(answers([3] * 8, 1.0), answers([3] * 8, 0.0, seed=1), inverse_penalty=1.0)
    single = probe.score(reads.states())
    expected = [float(single[:2].max()), float("-inf"), float(single[2:].max())]
    assert answer_scores(probe, reads, 1) == pytest.approx(expected)
    assert answer_scores(probe, answers([0, 0], 0.0), 1) == [float("-inf")] * 2


def test_out_of_fold_scores_of_noise_do_not_separate_although_answers_have_many_reads():
    # Reads of one answer share its prompt mean: a fold that split an answer would know half of it.
    harmful, benign = answers([6] * 30, 0.0, width=40), answers([6] * 30, 0.0, width=40, seed=1)
    fitted = fit_answer_probe(harmful, benign, inverse_penalty=100.0)
    assert auroc(answer_scores(fitted, harmful, 1), answer_scores(fitted, benign, 1)) > 0.95
    found = out_of_fold_answers(harmful, benign, in_a_row=1, inverse_penalty=100.0, folds=5, seed=0)
    assert 0.2 < auroc(*found) < 0.8
    apart = answers([6] * 30, 2.0, width=40), benign
    assert auroc(*out_of_fold_answers(*apart, in_a_row=2, inverse_penalty=1.0, folds=5, seed=0)) > 0.95


def test_too_few_answers_or_no_reads_are_refused():
    with pytest.raises(BuildError, match="Too few answers"):
        out_of_fold_answers(
            answers([1] * 3, 1.0), answers([1] * 9, 0.0), in_a_row=1, inverse_penalty=1.0, folds=4, seed=0
        )
    with pytest.raises(BuildError, match="no answers"):
        fit_answer_probe(answers([0, 0], 1.0), answers([1], 0.0), inverse_penalty=1.0)
