"""Ranking answers to the same prompt."""

from __future__ import annotations

import math

import pytest

from steerguard.build.critic_measures import difference_interval, ranked_pairs


def test_only_pairs_of_one_prompt_count_and_ties_count_half():
    # Prompt 0: one unsafe above both safe ones; prompt 1: one tie, one loss; prompt 2: all safe.
    scores = [3.0, 1.0, 2.0, 0.5, 0.5, 0.9, 100.0]
    unsafe = [True, False, False, True, False, False, False]
    pairs = ranked_pairs(scores, unsafe, [0, 0, 0, 1, 1, 1, 2], 3)
    assert pairs.won.tolist() == [2.0, 0.5, 0.0]
    assert pairs.pairs.tolist() == [2.0, 2.0, 0.0]
    assert (pairs.auroc, pairs.prompts) == (2.5 / 4, 2)


def test_a_score_of_the_prompt_alone_is_worth_nothing_within_prompts():
    of = [0, 0, 0, 1, 1, 1]
    unsafe = [True, True, False, True, False, False]
    assert ranked_pairs([float(one) for one in of], unsafe, of, 2).auroc == 0.5


def test_without_a_pair_there_is_no_area():
    assert math.isnan(ranked_pairs([1.0, 2.0], [True, False], [0, 1], 2).auroc)


def test_the_interval_of_a_difference_holds_it_and_a_score_does_not_differ_from_itself():
    of = [prompt for prompt in range(30) for _ in range(4)]
    unsafe = [True, False, True, False] * 30
    good = ranked_pairs([float(bad) for bad in unsafe], unsafe, of, 30)
    # Right for two prompts of three.
    some = ranked_pairs([float(bad == (one % 3 != 0)) for bad, one in zip(unsafe, of, strict=True)], unsafe, of, 30)
    low, high = difference_interval(good, some, seed=0)
    assert 0 < low < good.auroc - some.auroc < high < 1
    assert difference_interval(good, good, seed=0) == (0.0, 0.0)


def test_scores_of_other_answers_are_not_compared():
    first = ranked_pairs([1.0, 0.0], [True, False], [0, 0], 1)
    with pytest.raises(ValueError, match="same answers"):
        difference_interval(first, ranked_pairs([1.0, 0.0, 0.0], [True, False, False], [0, 0, 0], 1), seed=0)
    empty = ranked_pairs([1.0], [True], [0], 1)
    with pytest.raises(ValueError, match="no prompt"):
        difference_interval(empty, empty, seed=0)
