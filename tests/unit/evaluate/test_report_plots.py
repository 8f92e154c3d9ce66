from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerguard.evaluate.plots import IntervalMark, ScoreSample, draw_intervals, draw_roc, draw_scores, roc_curve
from steerguard.evaluate.proportions import auroc
from steerguard.evaluate.report_tables import per_cent

scores = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=40)
WORDS = {"name": "p", "title": "A title", "description": "What is seen"}


@given(positive=scores, negative=scores)
def test_the_area_under_the_drawn_curve_is_the_auroc(positive, negative):
    curve = roc_curve(positive, negative)
    points = list(zip(curve.false_positive, curve.true_positive, strict=True))
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in itertools.pairwise(points))
    assert area == pytest.approx(auroc(positive, negative))
    assert points[0] == (0, 0)
    assert points[-1] == (1, 1)


@pytest.mark.parametrize("text", ["$x$ & <b>", "\u65e5\u672c", "\u202ex", "@1@", "n" * 500])
def test_labels_are_text_that_matplotlib_never_sees(text):
    drawn = draw_intervals([IntervalMark(group=text, label=text, value=0.5, low=0.4, high=None, series=9)], **WORDS)
    texts = ["".join(element.itertext()) for element in ET.fromstring(drawn).iter("text")]  # noqa: S314 - our own drawing
    expected = text.replace("\u202e", "[U+202E]")
    assert any(shown in {expected, "n" * 59 + "…"} for shown in texts)


def test_a_drawing_has_a_name_a_description_and_only_prefixed_ids():
    drawn = draw_roc([roc_curve([1.0, 2.0], [0.0, 1.0], series=series) for series in range(8)], **WORDS)
    root = ET.fromstring(drawn)  # noqa: S314 - our own drawing
    assert root.get("aria-labelledby") == "p-title p-description"
    assert [element.text for element in root.iter("desc")] == ["What is seen"]
    assert all(element.get("id", "p-").startswith("p-") for element in root.iter())
    assert not [element for element in root.iter() if element.get("style")]
    assert "xmlns" not in drawn


@pytest.mark.parametrize("values", [(0.0,), (1e9, 1e9), (-1e-12, 1e-12), tuple(map(float, range(100)))])
def test_scores_of_any_spread_are_drawn(values):
    samples = [ScoreSample(label="a", harmful=True, scores=values), ScoreSample(label="b", harmful=False, scores=())]
    drawn = draw_scores(samples, [0.0, 0.0, 1e6], **WORDS)
    assert all(mark in drawn for mark in (">T1<", ">T2<", ">T3<"))
    assert "nan" not in drawn


def test_percentages_are_exact_decimals():
    assert [per_cent(share) for share in ("0", "1.0000", "0.9125", "0.0005", "0.12355")] == [
        "0.0", "100.0", "91.2", "0.0", "12.4",
    ]  # fmt: skip
