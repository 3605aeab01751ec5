"""Measure and plot how many generated images show the prompt's kinds, over guidance and steps.

The sandbox's judge classifies every image; an image is right when it shows exactly the kinds that
the prompt names. All settings use the same prompts and seeds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ...as_package import ROOT
from ...diffusion.load.model_source import load_diffusion
from ...diffusion.sample.sample_images import sample
from ...sandbox import DIFFUSION
from ...sandbox.judge import load_judge
from ...sandbox.world.scene import HELD_OUT
from ..command_line import parse_arguments
from ..scores.prompt_scores import kinds_match, scene_prompts
from ..scores.score_table import Figure
from .timing import environment

log = logging.getLogger(__name__)

PLOT = ROOT / "docs" / "guidance_and_steps.png"
GUIDANCES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
STEPS = (5, 10, 25, 50)
COLOURS = ("#e0a030", "#c05a2a", "#3f789e", "#1f3a4d")
# The plot's size and its margins (left, top, right, bottom), in pixels at half its resolution.
SIZE, MARGINS, SCALE = (720, 400), (64, 40, 120, 56), 2

Scores = Mapping[int, Mapping[float, Figure]]


def measure(count: int, guidances: Sequence[float], steps: Sequence[int]) -> Scores:
    """Generate `count` prompts with each pair of settings; steps -> guidance -> share right."""
    diffusion, judge = load_diffusion(DIFFUSION), load_judge()
    prompts, facts = scene_prompts(count)
    log.info("%s, %d prompts", environment(), count)
    scores: dict[int, dict[float, Figure]] = {}
    for number, guidance in product(steps, guidances):
        images = sample(diffusion, prompts, steps=number, guidance=guidance, seed=HELD_OUT)
        right = sum(kinds_match(judge.classify(images), facts))
        figure = Figure(f"{number} steps, guidance {guidance:g}", right, count)
        scores.setdefault(number, {})[guidance] = figure
        log.info(figure.row())
    return scores


def draw(scores: Scores, count: int) -> Image.Image:
    """Plot one line per number of steps: percent right over guidance, with the 95 % interval."""
    width, height = (side * SCALE for side in SIZE)
    left, top, right, bottom = (margin * SCALE for margin in MARGINS)
    plot = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(plot, "RGBA")
    font = ImageFont.load_default(13 * SCALE)
    guidances = [guidance for line in scores.values() for guidance in line]
    least, most = min(guidances), max(guidances)

    def place(guidance: float, share: float) -> tuple[float, float]:
        across = (guidance - least) / max(most - least, 1e-9)
        x = left + across * (width - left - right)
        return x, height - bottom - share * (height - top - bottom)

    for tenth in range(0, 11, 2):
        x, y = place(least, tenth / 10)
        pen.line([(x, y), (width - right, y)], fill="#dddddd", width=SCALE)
        pen.text((x - 8 * SCALE, y), f"{10 * tenth} %", fill="#444444", font=font, anchor="rm")
    for guidance in sorted(set(guidances)):
        x, y = place(guidance, 0)
        pen.text((x, y + 8 * SCALE), f"{guidance:g}", fill="#444444", font=font, anchor="mt")
    labels: list[float] = []
    for (steps, line), colour in zip(scores.items(), COLOURS, strict=False):
        low = [place(guidance, figure.interval[0]) for guidance, figure in line.items()]
        high = [place(guidance, figure.interval[1]) for guidance, figure in line.items()]
        points = [place(guidance, figure.share) for guidance, figure in line.items()]
        if len(points) > 1:
            pen.polygon([*low, *reversed(high)], fill=f"{colour}22")
            pen.line(points, fill=colour, width=3 * SCALE, joint="curve")
        x, y = points[-1]
        while any(abs(y - other) < 16 * SCALE for other in labels):
            y += 4 * SCALE
        labels.append(y)
        pen.text((x + 10 * SCALE, y), f"{steps} steps", fill=colour, font=font, anchor="lm")
    middle = left + (width - left - right) / 2
    pen.text((middle, height - 10 * SCALE), "guidance", fill="#444444", font=font, anchor="mb")
    title = f"Generated images with the right kinds, of {count}, by the sandbox's judge"
    pen.text((left, 12 * SCALE), title, fill="black", font=font, anchor="lt")
    return plot


def main() -> None:
    """Measure, and write the plot."""
    options = parse_arguments(
        __doc__,
        prompts=48,
        guidances={"type": float, "nargs": "+", "default": GUIDANCES},
        steps={"type": int, "nargs": "+", "default": STEPS},
        plot={"type": Path, "default": PLOT},
    )
    scores = measure(options.prompts, options.guidances, options.steps)
    draw(scores, options.prompts).save(options.plot, optimize=True)
