"""Scenes: things at positions on a background, rendered to an image with true boxes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from .backdrop import draw_backdrop
from .individual import Individual, draw_individual
from .lexicon import BACKGROUNDS
from .pen import Pen
from .shapes import ASPECT, DRAW

SUPERSAMPLE = 4
HELD_OUT = 1_000_000_000
"""Seeds from here on are used for scores only, never for training."""
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Thing:
    """An individual and where it stands: centre and height, in 0..1 of the image."""

    individual: Individual
    x: float
    y: float
    height: float


@dataclass(frozen=True)
class Scene:
    """Things before a background. `seed` determines the background's small variations."""

    things: tuple[Thing, ...]
    background: str
    seed: int
    horizon: float = 0.62


def _places(count: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Centre x, centre y and height of each thing; neighbours overlap a little at most."""
    if count == 1:
        height = rng.uniform(0.56, 0.78)
        return [(rng.uniform(0.42, 0.58), rng.uniform(0.5, 0.58), height)]
    if count == 2:
        return [
            (c + rng.uniform(-0.03, 0.03), rng.uniform(0.46, 0.62), rng.uniform(0.42, 0.52))
            for c in (0.26, 0.74)
        ]
    return [
        (c + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.03, 0.03), rng.uniform(0.34, 0.4))
        for c, y in ((0.2, 0.66), (0.5, 0.3), (0.8, 0.66))
    ]


def place(
    individuals: list[Individual], background: str, seed: int, rng: np.random.Generator
) -> Scene:
    """Put one to three individuals into a scene; the wide ones are made lower to fit."""
    widest = {1: 0.86, 2: 0.48, 3: 0.38}[len(individuals)]
    things = []
    for individual, (x, y, height) in zip(individuals, _places(len(individuals), rng), strict=True):
        height = min(height, widest / (ASPECT[individual.kind] * individual.stretch))
        things.append(Thing(individual, x, y, height))
    return Scene(tuple(things), background, seed, float(rng.uniform(0.56, 0.68)))


def draw_scene(seed: int, count: int | None = None) -> Scene:
    """The scene of a seed; `count` things, or one to three."""
    rng = np.random.default_rng(seed)
    count = count or int(rng.choice((1, 2, 3), p=(0.45, 0.4, 0.15)))
    individuals = [draw_individual(rng) for _ in range(count)]
    if count > 1 and rng.uniform() < 0.08:
        individuals[1] = replace(individuals[0], flip=not individuals[0].flip)
    names = tuple(BACKGROUNDS)
    return place(individuals, names[rng.integers(len(names))], seed, rng)


def render(scene: Scene, size: int) -> tuple[Image.Image, list[Box]]:
    """Draw a scene.

    Returns an RGB image of `size` x `size` pixels and one box per thing, xyxy in 0..1 of
    the image, tight round what is visible of the whole thing (outline included).
    """
    full = size * SUPERSAMPLE
    image = draw_backdrop(
        scene.background, full, full, scene.horizon, np.random.default_rng(scene.seed)
    )
    boxes: list[Box] = []
    for thing in scene.things:
        height = thing.height * full
        width = height * ASPECT[thing.individual.kind] * thing.individual.stretch
        pen = Pen(round(width), round(height), 0.011 * full, thing.individual.flip)
        DRAW[thing.individual.kind](pen, thing.individual)
        left = round(thing.x * full - width / 2)
        top = round(thing.y * full - height / 2)
        image.paste(pen.layer, (left, top), pen.layer)
        x0, y0, x1, y1 = pen.layer.getbbox() or (0, 0, 0, 0)
        corners = np.array((left + x0, top + y0, left + x1, top + y1)) / full
        x0, y0, x1, y1 = corners.clip(0, 1).tolist()
        boxes.append((x0, y0, x1, y1))
    return image.resize((size, size), Image.Resampling.BOX), boxes
