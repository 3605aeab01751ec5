"""Scores over a run's steps, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..training.evaluate.evaluate_run import Scores, best

SIZE = (720, 400)
MARGINS = (56, 24, 176, 40)
"""Pixels left, above, right (for the names) and below."""
INK, FAINT, PAPER = "#222222", "#dddddd", "#ffffff"
COLOURS = {
    "overall": "#111111",
    "subject": "#d1495b",
    "prompt": "#00798c",
    "class kept": "#edae49",
    "diversity": "#6a4c93",
}


def draw_score_plot(scores: Sequence[Scores]) -> np.ndarray:
    """Draw the measures of each checkpoint, uint8 [400,720,3]; the figures are the best one's.

    "class kept" is 1 - drift, so that up is better everywhere; what lies outside 0..1 is cut off.
    """
    picture = Image.new("RGB", SIZE, PAPER)
    pen = ImageDraw.Draw(picture)
    font = cast("ImageFont.FreeTypeFont", ImageFont.load_default(14))
    left, top, right, bottom = MARGINS
    width, height = SIZE[0] - left - right, SIZE[1] - top - bottom
    first, last = scores[0].step, scores[-1].step

    def place(step: int, value: float) -> tuple[float, float]:
        along = (step - first) / (last - first) if last > first else 0.5
        return left + along * width, top + (1 - min(1.0, max(0.0, value))) * height

    for tenth in range(0, 11, 2):
        (x0, y), (x1, _) = (left, place(first, tenth / 10)[1]), (left + width, 0)
        pen.line((x0, y, x1, y), fill=FAINT)
        pen.text((left - 8, y), f"{tenth / 10:.1f}", INK, font, anchor="rm")
    chosen = best(scores).step
    x = place(chosen, 0)[0]
    pen.line((x, top, x, top + height), fill=INK)
    pen.text((x, top - 4), f"best: {chosen}", INK, font, anchor="mb")
    for step in sorted({first, last, chosen}):
        pen.text((place(step, 0)[0], top + height + 8), str(step), INK, font, anchor="mt")
    for k, (name, colour) in enumerate(COLOURS.items()):
        dots = [place(one.step, _measures(one)[name]) for one in scores]
        pen.line(dots, fill=colour, width=3 if name == "overall" else 2)
        for x, y in dots:
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
        y = top + 12 + 24 * k
        pen.rectangle((left + width + 16, y - 6, left + width + 28, y + 6), fill=colour)
        label = f"{name}  {_measures(best(scores))[name]:.2f}"
        pen.text((left + width + 36, y), label, INK, font, anchor="lm")
    return np.asarray(picture)


def _measures(scores: Scores) -> dict[str, float]:
    return {
        "overall": scores.overall,
        "subject": scores.subject,
        "prompt": scores.prompt,
        "class kept": 1 - scores.drift,
        "diversity": scores.diversity,
    }
