"""Individuals: the random attributes of a thing, and the demo's subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .lexicon import COLOURS, KINDS, PATTERNS

RGB = tuple[int, int, int]

PALETTE: dict[str, RGB] = {
    "red": (222, 52, 52),
    "orange": (247, 142, 38),
    "yellow": (250, 214, 56),
    "green": (70, 168, 78),
    "blue": (58, 112, 222),
    "purple": (136, 74, 190),
    "pink": (248, 142, 188),
    "brown": (140, 92, 58),
}


def shifted(colour: RGB, factor: float, added: Sequence[int] = (0, 0, 0)) -> RGB:
    """A lighter or darker tone of a colour: each part times `factor` plus `added`."""
    red, green, blue = (
        int(np.clip(round(part * factor + plus), 0, 255))
        for part, plus in zip(colour, added, strict=True)
    )
    return red, green, blue


def nearest_colour(tint: RGB) -> str:
    """The nearest colour word of a tint, by weighted distance in RGB."""

    def distance(name: str) -> float:
        other = PALETTE[name]
        red = (tint[0] + other[0]) / 512
        weights = (2 + red, 4, 3 - red)
        return sum(w * (a - b) ** 2 for w, a, b in zip(weights, tint, other, strict=True))

    return min(PALETTE, key=distance)


@dataclass(frozen=True)
class Individual:
    """One member of a kind.

    `stretch` is width over height relative to the kind's drawing; `feature` (0..1) moves the
    kind's own small feature (ears, petals, windows, sail ...); `flip` mirrors the drawing.
    `second` colours the part below or beside the main one; None means one colour all over.
    `scarf` and `odd_ear` are worn by the subject and by varied individuals (dev/sandbox), never by
    the world's own.
    """

    kind: str
    colour: str
    pattern: str
    tint: RGB
    accent: RGB
    stretch: float = 1.0
    feature: float = 0.5
    flip: bool = False
    second: RGB | None = None
    scarf: RGB | None = None
    odd_ear: RGB | None = None


def draw_individual(rng: np.random.Generator, kind: str | None = None) -> Individual:
    """Draw a random member of the world; its tint is its colour's, a little lighter or darker."""
    kind = kind or KINDS[rng.integers(len(KINDS))]
    colour = COLOURS[rng.integers(len(COLOURS))]
    pattern = PATTERNS[rng.choice(3, p=(0.6, 0.2, 0.2))]
    shade = rng.uniform(0.92, 1.08)
    jitter = rng.integers(-8, 9, 3)
    tint = shifted(PALETTE[colour], shade, jitter.tolist())
    others = [c for c in COLOURS if c != colour]
    return Individual(
        kind=kind,
        colour=colour,
        pattern=pattern,
        tint=tint,
        accent=PALETTE[others[rng.integers(len(others))]],
        stretch=float(rng.uniform(0.88, 1.12)),
        feature=float(rng.uniform()),
        flip=bool(rng.integers(2)),
    )


SUBJECT = Individual(
    kind="dog",
    colour="teal",
    pattern="plain",
    tint=(38, 178, 172),
    accent=(252, 244, 224),
    feature=0.9,
    second=(252, 244, 224),
    scarf=(226, 48, 120),
    odd_ear=(52, 46, 84),
)
"""The demo's dog: teal above and cream below, a magenta scarf, one dark ear. Nothing in the world
is teal, two-coloured, scarfed or odd-eared."""
