"""Plot scores over the steps of a training run."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, ImageDraw
from torch import Tensor

from ..shared.images import to_tensor
from .style import load_font

SIZE = (720, 400)
MARGINS = (56, 24, 176, 40)
"""Pixels left, above, right (for the names) and below."""
INK, FAINT, PAPER = "#222222", "#dddddd", "#ffffff"
COLOURS = ("#111111", "#d1495b", "#00798c", "#edae49", "#6a4c93")


def draw_score_plot(scores: Mapping[int, Mapping[str, float]], best_step: int) -> Tensor:
    """Return a plot, float32 [1,400,720,3] in 0..1, of the scores by name of each step.

    Steps ascend and have the same names, up to five; the first is drawn thicker. The legend has the
    values of `best_step`. Values are clamped to 0..1.
    """
    image = Image.new("RGB", SIZE, PAPER)
    pen = ImageDraw.Draw(image)
    font = load_font(14)
    left, top, right, bottom = MARGINS
    width, height = SIZE[0] - left - right, SIZE[1] - top - bottom
    first, last = min(scores), max(scores)

    def point(step: int, value: float) -> tuple[float, float]:
        share = (step - first) / (last - first) if last > first else 0.5
        return left + share * width, top + (1 - min(1.0, max(0.0, value))) * height

    for tenth in range(0, 11, 2):
        y = point(first, tenth / 10)[1]
        pen.line((left, y, left + width, y), fill=FAINT)
        pen.text((left - 8, y), f"{tenth / 10:.1f}", INK, font, anchor="rm")
    x = point(best_step, 0)[0]
    pen.line((x, top, x, top + height), fill=INK)
    pen.text((x, top - 4), f"best: {best_step}", INK, font, anchor="mb")
    for step in sorted({first, last, best_step}):
        pen.text((point(step, 0)[0], top + height + 8), str(step), INK, font, anchor="mt")
    legend = zip(scores[best_step].items(), COLOURS, strict=False)
    for k, ((name, best), colour) in enumerate(legend):
        points = [point(step, values[name]) for step, values in scores.items()]
        pen.line(points, fill=colour, width=2 if k else 3)
        for x, y in points:
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
        y = top + 12 + 24 * k
        pen.rectangle((left + width + 16, y - 6, left + width + 28, y + 6), fill=colour)
        pen.text((left + width + 36, y), f"{name}  {best:.2f}", INK, font, anchor="lm")
    return to_tensor(image)[None]
