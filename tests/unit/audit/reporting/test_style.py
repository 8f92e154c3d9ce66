"""The style sheet: text and drawings stand out in light and in dark, and nothing is loaded."""

from __future__ import annotations

import re
from importlib import resources

import pytest

SHEET = resources.files("steerguard.audit.reporting").joinpath("style.css").read_text(encoding="utf-8")
COLOURS = {name: (light, dark) for name, light, dark in re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", SHEET)}


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    """Contrast ratio of WCAG 2, 1 to 21."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("front", "back"),
    [
        *((front, back) for front in ("ink", "soft", "link") for back in ("paper", "panel")),
        ("bad", "badpaper"),
        ("good", "goodpaper"),
        ("note", "notepaper"),
        ("refuse", "paper"),
    ],
)
def test_text_has_the_contrast_of_wcag_aa(front, back, scheme):
    assert contrast(COLOURS[front][scheme], COLOURS[back][scheme]) >= 4.5


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("colour", ["allow", "annotate", "guide", "refuse"])
def test_bars_have_the_contrast_of_wcag_for_drawings(colour, scheme):
    assert contrast(COLOURS[colour][scheme], COLOURS["paper"][scheme]) >= 3.0


def test_every_colour_that_is_used_is_defined():
    assert set(re.findall(r"var\(--(\w+)\)", SHEET)) <= set(COLOURS)


def test_nothing_is_loaded():
    assert not re.search(r"@import|url\(|@font-face|https?:", SHEET)
