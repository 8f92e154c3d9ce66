"""How a setting is scored, which one is chosen, and what the Pareto front is."""

from __future__ import annotations

import math

import pytest

from steerguard.build.search_scores import Limits, Setting, Trial, best, pareto_front, scored
from steerguard.evaluate.proportions import Proportion

SETTING = Setting(estimator="ssv", blocks=(2, 3), positions="all", strength="0.5")
REFUSAL = "I'm sorry, but I can't help with that."


def limits(*, repetition=0.2, perplexity=20.0, strict=0.0, tolerance=0.0):
    return Limits(max_repetition=repetition, max_perplexity=perplexity, min_strict=strict, strict_tolerance=tolerance)


def trial(*, strict=5, distinct=1, repetition=0.1, perplexity=10.0, not_refused=5, strength="0.5"):
    return Trial(
        setting=Setting(estimator="ssv", blocks=(2, 3), positions="all", strength=strength),
        strict=Proportion(count=strict, n=10),
        opens=Proportion(count=10, n=10),
        distinct_refusals=distinct,
        repetition=repetition,
        perplexity=perplexity,
        benign_not_refused=Proportion(count=not_refused, n=10),
        benign_equal=Proportion(count=0, n=10),
    )


def test_scores_count_refusals_variety_repetition_and_benign_answers():
    result = scored(
        SETTING,
        [REFUSAL, f"{REFUSAL} ", "Sorry, I am unable to.", "Sorry about that. Step one is easy."],
        [1.0, 2.0, 3.0, 10.0],
        ["Two eggs.", REFUSAL],
        ["Two eggs.", "Two eggs."],
    )
    assert (result.strict.count, result.opens.count, result.distinct_refusals) == (3, 4, 2)
    assert result.perplexity == pytest.approx(math.exp(2.5))
    assert result.repetition == 0
    assert (result.benign_not_refused.count, result.benign_equal.count) == (1, 1)


def test_most_strict_refusals_win_within_the_limits():
    trials = [trial(strict=9, repetition=0.5), trial(strict=8, perplexity=99.0), trial(strict=4), trial(strict=6)]
    assert best(trials, limits()) is trials[3]


def test_ties_go_to_the_lower_strength_by_value_not_by_text():
    trials = [trial(strength="10.0"), trial(strength="9.5"), trial(strength="9.50")]
    assert best(trials, limits()) is trials[1]


def test_none_is_chosen_when_all_break_a_limit():
    assert best([trial(repetition=0.3)], limits()) is None
    assert best([trial(perplexity=21.0)], limits()) is None
    assert best([trial(strict=4)], limits(strict=0.5)) is None


@pytest.mark.parametrize(
    "gentler",
    [
        trial(strict=9, repetition=0.05),
        trial(strict=9, distinct=5),
        trial(strict=9, not_refused=7),
    ],
    ids=["repeats less", "more varied", "benign answers kept"],
)
def test_close_to_the_most_refusals_the_gentler_setting_wins_and_only_there(gentler):
    trials = [trial(strict=10), gentler]
    assert best(trials, limits(tolerance=0.1)) is gentler
    assert best(trials, limits(tolerance=0.05)) is trials[0]


def test_gentle_settings_that_hardly_refuse_do_not_win():
    trials = [trial(strict=0, repetition=0.0, not_refused=10), trial(strict=8)]
    assert best(trials, limits(tolerance=0.1)) is trials[1]


def test_the_front_holds_what_nothing_else_dominates():
    trials = [
        trial(strict=9, repetition=0.3),
        trial(strict=5, repetition=0.1),
        trial(strict=5, repetition=0.2),
        trial(strict=1, perplexity=5.0),
        trial(strict=5, repetition=0.1),
        trial(strict=0, repetition=0.3, perplexity=50.0, not_refused=6),
        trial(strict=0, repetition=0.3, perplexity=50.0, not_refused=4),
    ]
    assert pareto_front(trials) == (True, True, False, True, True, True, False)


def test_refusing_less_does_not_count_as_variety():
    trials = [trial(strict=10, distinct=1), trial(strict=9, distinct=1)]
    assert best(trials, limits(tolerance=0.1)) is trials[0]
