"""What a certificate may say: schema, arithmetic, canonical bytes. Bounds against published values and against scipy."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from tests.certificates import certificate

from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError, EvaluationError
from steerguard.evaluate.certificate_document import certificate_bytes, parse_certificate, upper_bound_text
from steerguard.evaluate.proportions import clopper_pearson_upper


def binomial_at_most(count, n, rate):
    return math.fsum(math.comb(n, seen) * rate**seen * (1 - rate) ** (n - seen) for seen in range(count + 1))


@pytest.mark.parametrize(
    ("count", "n", "confidence", "bound"),
    [
        (0, 10, 0.95, 1 - 0.05 ** (1 / 10)),
        (0, 299, 0.95, 1 - 0.05 ** (1 / 299)),
        (9, 10, 0.95, 0.95 ** (1 / 10)),
        # Upper ends of two-sided 95 % intervals are one-sided bounds of 97.5 %; the intervals are those of the tables.
        (1, 10, 0.975, 0.445016),
        (5, 10, 0.975, 0.812914),
        (2, 20, 0.975, 0.316983),
        (10, 100, 0.975, 0.176223),
    ],
)
def test_the_bound_is_the_one_of_the_tables(count, n, confidence, bound):
    assert clopper_pearson_upper(count, n, confidence) == pytest.approx(bound, abs=1e-6)


def test_the_bound_is_the_quantile_of_the_beta_distribution():
    for count, n, confidence in ((0, 1, 0.5), (3, 260, 0.95), (100, 260, 0.99), (259, 260, 0.95), (12, 5000, 0.999)):
        expected = beta.ppf(confidence, count + 1, n - count)
        assert clopper_pearson_upper(count, n, confidence) == pytest.approx(expected, abs=1e-9)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))), st.floats(0.5, 0.999))
def test_at_the_bound_so_few_outcomes_have_the_probability_that_is_left(counted, confidence):
    count, n = counted
    bound = clopper_pearson_upper(count, n, confidence)
    assert binomial_at_most(count, n, bound) == pytest.approx(1 - confidence, abs=1e-6)
    assert count / n < bound < 1


def test_when_everything_is_a_violation_nothing_is_promised():
    assert clopper_pearson_upper(7, 7, 0.95) == 1.0
    assert upper_bound_text(7, 7, "0.95") == "1.000000"


@pytest.mark.parametrize("numbers", [(-1, 5, 0.95), (6, 5, 0.95), (0, 0, 0.95), (1, 5, 0.0), (1, 5, 1.0)])
def test_numbers_that_are_no_count_are_refused(numbers):
    with pytest.raises(EvaluationError, match="cannot be bounded"):
        clopper_pearson_upper(*numbers)


def test_the_text_of_a_bound_is_rounded_up():
    for count, n in ((0, 260), (3, 260), (17, 400)):
        text, bound = upper_bound_text(count, n, "0.95"), clopper_pearson_upper(count, n, 0.95)
        assert bound <= float(text) <= bound + 1e-6


def test_bytes_and_document_are_inverse():
    content = certificate_bytes(certificate())
    assert parse_certificate(content, where="c.json") == certificate()
    assert certificate_bytes(parse_certificate(content, where="c.json")) == content


def lopsided(sets):
    """Sums are the same, but one set has more violations than prompts."""
    first, second = sets
    return [{**first, "n": 1, "refusals": 0}, {**second, "n": 39, "refusals": 5}]


def changed(path, value):
    data = json.loads(certificate_bytes(certificate()))
    node = data
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value(node[path[-1]]) if callable(value) else value
    return canonical_bytes(data)


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (("predicate", "violations"), 3, "predicate.violations"),
        (("predicate", "n"), 41, "predicate.n"),
        (("predicate", "refusals"), 6, "predicate.refusals"),
        (("predicate", "rate"), "0.000000", "predicate.rate"),
        (("predicate", "upper_bound"), "0.010000", "predicate.upper_bound"),
        (("predicate", "confidence"), "0.99", "predicate.upper_bound"),
        (("predicate", "confidence"), "0.4", "predicate.confidence"),
        (("predicate", "violations_among_refusals"), 3, "predicate.violations_among_refusals"),
        (("predicate", "sets", 1, "name"), "first", "predicate.sets"),
        (("predicate", "sets", 0, "violations"), 3, "predicate.violations"),
        (("predicate", "sets"), lopsided, "predicate.sets"),
    ],
)
def test_a_number_that_was_changed_is_found(path, value, where):
    with pytest.raises(ArtifactFormatError, match="contradict") as caught:
        parse_certificate(changed(path, value), where="c.json")
    assert caught.value.where == f"c.json: {where}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("subject", "policy", "mode"), "monitor"),
        (("predicateType",), "calibration"),
        (("predicate", "independence", "not_checked"), []),
        (("predicate", "sets"), []),
        (("predicate", "judge", "rows"), "cost_model"),
        (("signature",), "none"),
        (("created",), "today"),
    ],
)
def test_what_the_schema_does_not_allow_is_refused(path, value):
    with pytest.raises(ArtifactFormatError):
        parse_certificate(changed(path, value), where="c.json")


def test_other_spellings_of_the_same_document_are_refused():
    with pytest.raises(ArtifactFormatError, match="canonical"):
        parse_certificate(certificate_bytes(certificate()) + b"\n", where="c.json")
