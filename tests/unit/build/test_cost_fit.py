"""Fitting the head of a cost model: labels, weights, folds by question, threshold, figures by length."""

from __future__ import annotations

import math

import pytest
import torch

from steerguard.build.cost_fit import HeadSettings, fit_head, out_of_fold_costs, reading_shares, recall_threshold
from steerguard.build.cost_inputs import CostClass
from steerguard.build.cost_lengths import area_by_length, area_of, costs_at
from steerguard.build.cost_states import PrefixStates
from steerguard.critics.response_states import apply_head
from steerguard.errors import BuildError

BLOCKS = (2, 6)
LINEAR = HeadSettings(blocks=BLOCKS, inverse_penalty=1.0)
DEEP = HeadSettings(blocks=BLOCKS, inverse_penalty=10.0, hidden=8)


def made(name="labelled", questions=10, seed=0, shift=4.0, offset=100.0, label=None):
    """Answers to questions, two each, whose label moves the first feature; longer ones have a second reading."""
    draw = torch.Generator().manual_seed(seed)
    harmful, groups, means, tokens, counts = [], [], [], [], []
    for question in range(questions):
        for bad in (False, True) if label is None else (label, label):
            readings = 1 + (question % 2)
            own = torch.randn(readings, 2, 3, generator=draw)
            own[:, 0, 0] += shift * bad
            own[:, 1, 1] = own[:, 1, 1] * 50 + offset
            means.append(own)
            tokens += [8, 20][:readings] if readings == 2 else [5]
            counts.append(readings)
            harmful.append(bad)
            groups.append(f"{name} {question}")
    states = PrefixStates(
        blocks=BLOCKS, means=torch.cat(means), tokens=torch.tensor(tokens), counts=tuple(counts), identity=name
    )
    return CostClass(name=name, states=states, harmful=tuple(harmful), groups=tuple(groups))


@pytest.mark.parametrize("settings", [LINEAR, DEEP])
def test_a_head_tells_the_labels_apart_and_reads_states_as_they_are(settings):
    one = made()
    head = fit_head([one], settings, seed=0)
    assert len(head) == (1 if settings.hidden is None else 2)
    assert all(tensor.dtype == torch.float32 for layer in head for tensor in layer)
    costs = apply_head(head, one.states.features(BLOCKS))
    assert area_by_length([one], [costs], None).pooled > 0.97
    bad = torch.tensor(one.harmful)[one.states.answers]
    assert costs[bad].median() > 0 > costs[~bad].median()


def test_two_fits_of_one_seed_are_equal():
    for settings in (LINEAR, DEEP):
        first, second = (fit_head([made()], settings, seed=3) for _ in range(2))
        assert all(
            torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
        )


def test_labels_count_alike_however_many_answers_have_them():
    """The bias of a fit on noise is about zero although nine of ten answers are harmless."""
    head = fit_head(
        [made(shift=0.0, questions=20), made("own benign", 80, seed=1, shift=0.0, label=False)], LINEAR, seed=0
    )
    costs = apply_head(head, made(shift=0.0, questions=40, seed=7).states.features(BLOCKS))
    assert abs(costs.mean()) < 0.5


def test_readings_of_an_answer_share_its_weight():
    states = PrefixStates(
        blocks=(2,), means=torch.zeros(6, 1, 1), tokens=torch.tensor([8, 16, 20, 5, 8, 16]), counts=(3, 1, 2)
    )
    assert reading_shares(states, 0.5).tolist() == [0.25, 0.25, 0.5, 1.0, 0.5, 0.5]
    assert reading_shares(states, 0.75).tolist() == [0.125, 0.125, 0.75, 1.0, 0.25, 0.75]


def test_costs_out_of_fold_come_from_heads_that_saw_no_answer_to_the_question():
    """Each question has a feature of its own that gives the label away: seen, it would separate them perfectly."""
    one = made(shift=0.0, questions=40, offset=0.0)
    features = torch.zeros(len(one.states.tokens), 1, 40)
    sign = torch.tensor([1.0 if bad else -1.0 for bad in one.harmful])[one.states.answers]
    question = torch.tensor([int(group.split()[1]) for group in one.groups])[one.states.answers]
    features[torch.arange(len(features)), 0, question] = sign
    told = CostClass(
        name="labelled",
        states=PrefixStates(blocks=(2,), means=features, tokens=one.states.tokens, counts=one.states.counts),
        harmful=one.harmful,
        groups=one.groups,
    )
    settings = HeadSettings(blocks=(2,), inverse_penalty=1.0)
    seen = apply_head(fit_head([told], settings, seed=0), told.states.features((2,)))
    assert area_by_length([told], [seen], None).pooled == 1.0
    (unseen,) = out_of_fold_costs([told], settings, folds=5, seed=0)
    assert area_by_length([told], [unseen], None).pooled == pytest.approx(0.5, abs=0.1)


def test_errors_name_what_is_missing():
    with pytest.raises(BuildError, match="Too few questions"):
        out_of_fold_costs([made(questions=3)], LINEAR, folds=5, seed=0)
    with pytest.raises(BuildError, match="both labels"):
        fit_head([made(label=False)], LINEAR, seed=0)


@pytest.mark.parametrize("recall", ["0.9", "0.5", "0.95"])
def test_the_threshold_is_the_highest_that_keeps_the_recall(recall):
    costs = torch.randn(137, generator=torch.Generator().manual_seed(0)).tolist()
    threshold = recall_threshold(costs, recall)
    assert sum(cost >= threshold for cost in costs) >= float(recall) * len(costs)
    above = math.nextafter(threshold, math.inf)
    assert sum(cost >= above for cost in costs) < float(recall) * len(costs)


def test_areas_are_pooled_and_within_questions():
    """Each question's answers are ordered rightly, but questions lie far apart and the last has one label only."""
    questions = ["a", "a", "b", "b", "c"]
    area = area_of(questions, [True, False, True, False, False], [1.0, 0.0, 11.0, 10.0, 5.0])
    assert (area.within, area.questions) == (1.0, 2)
    assert area.pooled == pytest.approx(4 / 6)
    assert (area.harmful, area.harmless) == (2, 3)
    alone = area_of(["a", "b"], [True, False], [0.0, 1.0])
    assert alone.questions == 0
    assert math.isnan(alone.within)


def test_only_labelled_answers_enter_the_areas_and_short_ones_are_read_at_their_end():
    labelled, own = made(questions=4), made("own benign", 4, label=False)
    costs = torch.arange(len(labelled.states.tokens), dtype=torch.float32)
    noise = torch.full((len(own.states.tokens),), 1e6)
    assert area_by_length([labelled, own], [costs, noise], 8) == area_by_length([labelled], [costs], 8)
    assert costs_at(labelled, costs, 8)[:4] == [0.0, 1.0, 2.0, 4.0]
    assert costs_at(labelled, costs, None)[:4] == [0.0, 1.0, 3.0, 5.0]
