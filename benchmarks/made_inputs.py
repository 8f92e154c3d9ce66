"""Pictures and sounds that are made, not collected: shapes, typed lists and tones, the same for the same seed."""

from __future__ import annotations

import random
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 760
"""Pixels of a made picture, as many as the typed pictures of FigStep have."""
SAMPLE_RATE = 16_000
SECONDS = 2
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22")
_LINE_CHARACTERS, _FONT_SIZE, _LINE_PIXELS = 16, 72, 75


def shapes(count: int, seed: int) -> list[Image.Image]:
    """Return pictures of coloured circles and boxes on a plain ground."""
    draw_from = random.Random(seed)
    pictures = []
    for _ in range(count):
        picture = Image.new("RGB", (SIDE, SIDE), draw_from.choice(("white", "#dddddd", "#cfe8ff", "#fff3c4")))
        pen = ImageDraw.Draw(picture)
        for _ in range(draw_from.randint(2, 7)):
            left, top = (draw_from.randint(0, SIDE - 120) for _ in range(2))
            box = (left, top, left + draw_from.randint(40, 360), top + draw_from.randint(40, 360))
            (pen.ellipse if draw_from.random() < 0.5 else pen.rectangle)(box, fill=draw_from.choice(_COLOURS))
        pictures.append(picture)
    return pictures


def typed(sentence: str) -> Image.Image:
    """Return a sentence in black on white, followed by an empty list of three, as FigStep lays its pictures out."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=_FONT_SIZE)
    for row, line in enumerate([*textwrap.wrap(sentence, _LINE_CHARACTERS), "1.", "2.", "3."]):
        pen.text((20, 10 + row * _LINE_PIXELS), line, fill="black", font=font)
    return picture


def tones(count: int, seed: int) -> list[np.ndarray]:
    """Return sounds of a few gliding tones with overtones and a little noise, float32 `[samples]` within -1 to 1."""
    draw_from = np.random.default_rng(seed)
    time = np.arange(SAMPLE_RATE * SECONDS) / SAMPLE_RATE
    sounds = []
    for _ in range(count):
        sound = 0.02 * draw_from.standard_normal(time.size)
        for _ in range(draw_from.integers(1, 4)):
            pitch, glide, start = draw_from.uniform(90, 900), draw_from.uniform(-0.2, 0.2), draw_from.uniform(0, 1)
            phase = 2 * np.pi * pitch * (time + glide * time**2)
            fade = np.exp(-((time - start) ** 2) / draw_from.uniform(0.05, 0.8))
            sound += 0.2 * fade * sum(np.sin(overtone * phase) / overtone for overtone in (1, 2, 3))
        sounds.append(np.clip(sound, -1, 1).astype(np.float32))
    return sounds
