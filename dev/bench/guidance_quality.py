"""How many prompts are painted with the right kinds, over guidance and steps, on the sandbox.

The sandbox's judge looks at every picture; a picture is right when it sees exactly the kinds that
the prompt asked for. All settings paint the same prompts with the same seeds.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from ...as_package import ROOT
from ...diffusion.load.model_source import load_diffusion
from ...diffusion.sample.images import sample
from ...sandbox import DIFFUSION
from ...sandbox.judge import load_judge
from ...sandbox.world.scene import HELD_OUT
from ..scores.prompt_scores import prompts
from ..scores.score_table import Figure, count_true
from .timing import environment

log = logging.getLogger(__name__)

PLOT = ROOT / "docs" / "guidance_and_steps.png"
GUIDANCES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
STEPS = (5, 10, 25, 50)
COLOURS = ("#e0a030", "#c05a2a", "#3f789e", "#1f3a4d")
# The plot's size and its margins (left, top, right, bottom), in pixels at half its resolution.
SIZE, MARGINS, SCALE = (720, 400), (64, 40, 120, 56), 2

Scores = Mapping[int, Mapping[float, Figure]]


def measure(count: int, guidances: tuple[float, ...], steps: tuple[int, ...]) -> Scores:
    """Paint `count` prompts with each pair of settings; steps -> guidance -> the share right."""
    diffusion, judge = load_diffusion(DIFFUSION), load_judge()
    asked = prompts(count)
    log.info("%s, %d prompts", environment(torch.device("cpu")), count)
    scores: dict[int, dict[float, Figure]] = {}
    for number in steps:
        for guidance in guidances:
            pictures = sample(
                diffusion,
                [text for text, _ in asked],
                steps=number,
                guidance=guidance,
                seed=HELD_OUT,
            )
            seen = judge.look(pictures)
            right = count_true(
                frozenset(looked.things) == facts.kinds
                for looked, (_, facts) in zip(seen, asked, strict=True)
            )
            figure = Figure(f"{number} steps, guidance {guidance:g}", right, count)
            scores.setdefault(number, {})[guidance] = figure
            log.info(figure.row())
    return scores


def draw(scores: Scores, count: int) -> Image.Image:
    """A line for each number of steps: percent right over guidance, with the 95 % interval."""
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
        low = [place(guidance, figure.spread[0]) for guidance, figure in line.items()]
        high = [place(guidance, figure.spread[1]) for guidance, figure in line.items()]
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
    title = f"Prompts painted with the right kinds, of {count}, by the sandbox's judge"
    pen.text((left, 12 * SCALE), title, fill="black", font=font, anchor="lt")
    return plot


def main() -> None:
    """Read the command line, measure, and write the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--guidances", type=float, nargs="+", default=GUIDANCES)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--plot", type=Path, default=PLOT)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    scores = measure(options.prompts, tuple(options.guidances), tuple(options.steps))
    draw(scores, options.prompts).save(options.plot, optimize=True)
