"""One drawing function per kind, with a `Pen` in the unit square."""

from __future__ import annotations

import math
from collections.abc import Callable

from .individual import RGB, Individual, shifted
from .pen import INK, Pen

WHITE: RGB = (252, 250, 244)
GLASS: RGB = (186, 226, 244)
BARK: RGB = (122, 84, 56)
LEAF: RGB = (88, 164, 84)


def _eyes(pen: Pen, left: float, right: float, y: float, size: float = 0.05) -> None:
    for x in (left, right):
        pen.mark(x - size, y - size * 1.15, x + size, y + size * 1.15, INK)
        glint = size * 0.42
        pen.mark(
            x - glint * 0.2, y - size * 0.8, x + glint * 1.8, y - size * 0.8 + 2 * glint, WHITE
        )


def _draw_pattern(pen: Pen, individual: Individual) -> None:
    """The pattern and, on a subject, the second colour of the main shapes."""
    if individual.second:
        pen.fill_main("below", individual.second)
    if individual.pattern != "plain":
        pen.fill_main(individual.pattern, shifted(individual.tint, 0.62))


def cat(pen: Pen, individual: Individual) -> None:
    """Sits upright: pointed ears, whiskers, a tail that curls up beside the body."""
    tip = 0.52 + 0.12 * individual.feature
    pen.polygon(
        [(0.66, 0.98), (0.94, 0.92), (1.0, tip), (0.9, tip - 0.03), (0.84, 0.8)], individual.tint
    )
    pen.ellipse(0.2, 0.5, 0.8, 1.0, individual.tint, main=True)
    pen.polygon([(0.1, 0.38), (0.12, 0.0), (0.42, 0.18)], individual.tint)
    pen.polygon([(0.9, 0.38), (0.88, 0.0), (0.58, 0.18)], individual.tint)
    pen.ellipse(0.08, 0.12, 0.92, 0.66, individual.tint, main=True)
    pen.draw_pending()
    _draw_pattern(pen, individual)
    inner = shifted(individual.tint, 1, (60, 60, 60))
    pen.patch([(0.17, 0.24), (0.17, 0.09), (0.29, 0.17)], inner)
    pen.patch([(0.83, 0.24), (0.83, 0.09), (0.71, 0.17)], inner)
    _eyes(pen, 0.33, 0.67, 0.38, 0.058)
    pen.patch([(0.46, 0.47), (0.54, 0.47), (0.5, 0.525)], (240, 120, 140))
    for side in (-1, 1):
        for rise in (-0.035, 0.035):
            pen.line([(0.5 + side * 0.16, 0.51), (0.5 + side * 0.40, 0.51 + rise)], 0.014, INK)


def dog(pen: Pen, individual: Individual) -> None:
    """Sits upright: long hanging ears, a pale muzzle with a big nose, tongue out."""
    ear = individual.odd_ear or shifted(individual.tint, 0.68)
    drop = 0.46 + 0.16 * individual.feature
    pen.polygon([(0.74, 0.9), (0.97, 0.66), (1.0, 0.74), (0.84, 0.97)], individual.tint)
    pen.ellipse(0.2, 0.5, 0.8, 1.0, individual.tint, main=True)
    pen.ellipse(0.16, 0.06, 0.84, 0.66, individual.tint, main=True)
    pen.draw_pending()
    _draw_pattern(pen, individual)
    if individual.scarf:
        pen.polygon([(0.24, 0.6), (0.76, 0.6), (0.8, 0.72), (0.2, 0.72)], individual.scarf)
        pen.polygon([(0.56, 0.7), (0.72, 0.7), (0.76, 0.94), (0.6, 0.94)], individual.scarf)
    dark = shifted(individual.tint, 0.68)
    pen.polygon([(0.3, 0.08), (0.1, 0.1), (0.0, drop), (0.14, drop + 0.06), (0.26, 0.3)], ear)
    pen.polygon([(0.7, 0.08), (0.9, 0.1), (1.0, drop), (0.86, drop + 0.06), (0.74, 0.3)], dark)
    pen.draw_pending()
    pen.mark(0.3, 0.36, 0.7, 0.65, WHITE)
    _eyes(pen, 0.36, 0.64, 0.29, 0.055)
    pen.mark(0.41, 0.37, 0.59, 0.49, INK)
    pen.patch([(0.45, 0.56), (0.55, 0.56), (0.54, 0.67), (0.46, 0.67)], (240, 96, 120))


def bird(pen: Pen, individual: Individual) -> None:
    """In profile: round body, short beak, wing, tail feathers, thin legs."""
    pen.polygon(
        [(0.2, 0.52), (0.0, 0.4 - 0.1 * individual.feature), (0.02, 0.64), (0.2, 0.7)],
        individual.accent,
    )
    pen.polygon([(0.84, 0.26), (1.0, 0.34), (0.84, 0.42)], (248, 166, 40))
    pen.ellipse(0.1, 0.3, 0.8, 0.88, individual.tint, main=True)
    pen.ellipse(0.48, 0.06, 0.92, 0.54, individual.tint, main=True)
    for x in (0.4, 0.56):
        pen.polygon([(x, 0.84), (x + 0.05, 0.84), (x + 0.07, 1.0), (x - 0.02, 1.0)], (248, 166, 40))
    pen.draw_pending()
    _draw_pattern(pen, individual)
    pen.ellipse(0.18, 0.44, 0.56, 0.74, individual.accent)
    pen.draw_pending()
    _eyes(pen, 0.72, 0.72, 0.26, 0.055)


def fish(pen: Pen, individual: Individual) -> None:
    """In profile: oval body, forked tail, a fin above, one round eye."""
    fork = 0.12 + 0.14 * individual.feature
    pen.polygon(
        [(0.26, 0.5), (0.0, fork + 0.04), (0.08, 0.5), (0.0, 0.96 - fork)], individual.accent
    )
    pen.polygon([(0.4, 0.24), (0.54, 0.04), (0.74, 0.24)], individual.accent)
    pen.ellipse(0.18, 0.18, 1.0, 0.84, individual.tint, main=True)
    pen.draw_pending()
    _draw_pattern(pen, individual)
    pen.patch([(0.46, 0.54), (0.62, 0.48), (0.56, 0.7)], individual.accent)
    pen.mark(0.72, 0.32, 0.88, 0.5, WHITE)
    pen.mark(0.77, 0.36, 0.86, 0.47, INK)
    pen.line([(0.86, 0.64), (0.96, 0.6)], 0.025, INK)


def house(pen: Pen, individual: Individual) -> None:
    """Walls, a pitched roof with a chimney, a door and a window."""
    pen.polygon([(0.7, 0.04), (0.84, 0.04), (0.84, 0.36), (0.7, 0.36)], (150, 110, 100))
    pen.polygon([(0.1, 0.42), (0.9, 0.42), (0.9, 1.0), (0.1, 1.0)], individual.tint, main=True)
    pen.polygon([(0.0, 0.45), (0.5, 0.0), (1.0, 0.45)], (116, 76, 84))
    pen.draw_pending()
    _draw_pattern(pen, individual)
    pen.patch([(0.22, 0.62), (0.44, 0.62), (0.44, 1.0), (0.22, 1.0)], (96, 62, 60))
    top = 0.54 + 0.06 * individual.feature
    pen.patch([(0.56, top), (0.8, top), (0.8, top + 0.24), (0.56, top + 0.24)], WHITE)
    pen.patch(
        [(0.59, top + 0.03), (0.77, top + 0.03), (0.77, top + 0.21), (0.59, top + 0.21)], GLASS
    )


def tree(pen: Pen, individual: Individual) -> None:
    """A straight trunk and a crown of three round clouds."""
    pen.polygon([(0.42, 0.6), (0.58, 0.6), (0.62, 1.0), (0.38, 1.0)], BARK)
    wide = 0.04 * individual.feature
    pen.ellipse(0.0 + wide, 0.3, 0.54, 0.76, individual.tint, main=True)
    pen.ellipse(0.46, 0.3, 1.0 - wide, 0.76, individual.tint, main=True)
    pen.ellipse(0.2, 0.0, 0.8, 0.62, individual.tint, main=True)
    pen.draw_pending()
    _draw_pattern(pen, individual)


def car(pen: Pen, individual: Individual) -> None:
    """From the side: low body, cabin with two windows, two wheels, a headlight."""
    roof = 0.22 + 0.06 * individual.feature
    pen.polygon([(0.2, 0.52), (0.32, roof), (0.68, roof), (0.82, 0.52)], individual.tint, main=True)
    pen.polygon(
        [(0.0, 0.54), (0.08, 0.48), (0.92, 0.48), (1.0, 0.6), (1.0, 0.8), (0.0, 0.8)],
        individual.tint,
        main=True,
    )
    for x in (0.12, 0.62):
        pen.ellipse(x, 0.66, x + 0.26, 0.92, (70, 66, 84))
    pen.draw_pending()
    _draw_pattern(pen, individual)
    pen.patch([(0.29, 0.5), (0.37, roof + 0.06), (0.48, roof + 0.06), (0.48, 0.5)], GLASS)
    pen.patch([(0.53, 0.5), (0.53, roof + 0.06), (0.65, roof + 0.06), (0.74, 0.5)], GLASS)
    for x in (0.12, 0.62):
        pen.ellipse(x, 0.66, x + 0.26, 0.92, (70, 66, 84))
    pen.draw_pending()
    for x in (0.2, 0.7):
        pen.mark(x, 0.74, x + 0.1, 0.84, (210, 210, 216))
    pen.mark(0.9, 0.56, 1.0, 0.68, (255, 240, 150))


def boat(pen: Pen, individual: Individual) -> None:
    """A hull with a mast, two white sails and a pennant."""
    pen.polygon([(0.46, 0.06), (0.52, 0.06), (0.52, 0.7), (0.46, 0.7)], BARK)
    pen.polygon([(0.56, 0.1), (0.56, 0.62), (0.98 - 0.12 * individual.feature, 0.62)], WHITE)
    pen.polygon([(0.42, 0.18), (0.42, 0.62), (0.08 + 0.1 * individual.feature, 0.62)], WHITE)
    pen.polygon([(0.0, 0.66), (1.0, 0.66), (0.8, 1.0), (0.2, 1.0)], individual.tint, main=True)
    pen.polygon([(0.46, 0.0), (0.7, 0.05), (0.46, 0.1)], individual.accent)
    pen.draw_pending()
    _draw_pattern(pen, individual)


def rocket(pen: Pen, individual: Individual) -> None:
    """Upright: pointed nose, round window, two fins, a flame."""
    pen.polygon([(0.36, 0.8), (0.64, 0.8), (0.5, 1.0)], (252, 186, 50))
    pen.polygon([(0.3, 0.5), (0.06, 0.86), (0.34, 0.8)], individual.accent)
    pen.polygon([(0.7, 0.5), (0.94, 0.86), (0.66, 0.8)], individual.accent)
    curve = [
        (0.5 + side * 0.24 * math.sin(math.pi * (0.12 + 0.5 * t)), 0.02 + 0.82 * t)
        for side, ts in ((1, range(9)), (-1, reversed(range(9))))
        for t in (k / 8 for k in ts)
    ]
    pen.polygon([(0.5, 0.0), *curve], individual.tint, main=True)
    pen.draw_pending()
    _draw_pattern(pen, individual)
    size = 0.09 + 0.03 * individual.feature
    pen.mark(0.5 - size - 0.03, 0.38 - size - 0.03, 0.5 + size + 0.03, 0.38 + size + 0.03, INK)
    pen.mark(0.5 - size, 0.38 - size, 0.5 + size, 0.38 + size, GLASS)


def flower(pen: Pen, individual: Individual) -> None:
    """Five to seven petals round a bright heart, on a stem with two leaves."""
    pen.polygon([(0.47, 0.5), (0.53, 0.5), (0.53, 1.0), (0.47, 1.0)], LEAF)
    pen.polygon([(0.5, 0.9), (0.2, 0.72), (0.24, 0.86)], LEAF)
    pen.polygon([(0.5, 0.9), (0.8, 0.72), (0.76, 0.86)], LEAF)
    petals = 5 + round(2 * individual.feature)
    for k in range(petals):
        angle = 2 * math.pi * k / petals - math.pi / 2
        x, y = 0.5 + 0.22 * math.cos(angle), 0.33 + 0.2 * math.sin(angle)
        pen.ellipse(x - 0.15, y - 0.13, x + 0.15, y + 0.13, individual.tint, main=True)
    pen.draw_pending()
    _draw_pattern(pen, individual)
    heart = (255, 236, 120) if individual.colour != "yellow" else (190, 110, 50)
    pen.mark(0.36, 0.2, 0.64, 0.46, heart)


def star(pen: Pen, individual: Individual) -> None:
    """Five points and a smile."""
    waist = 0.46 + 0.08 * individual.feature
    points = [
        (
            0.5 + (0.5 if k % 2 == 0 else 0.5 * waist) * math.sin(math.pi * k / 5),
            0.53 - (0.53 if k % 2 == 0 else 0.53 * waist) * math.cos(math.pi * k / 5),
        )
        for k in range(10)
    ]
    pen.polygon(points, individual.tint, main=True)
    pen.draw_pending()
    _draw_pattern(pen, individual)
    _eyes(pen, 0.41, 0.59, 0.5, 0.04)
    pen.line([(0.43, 0.61), (0.5, 0.65), (0.57, 0.61)], 0.025, INK)


def cup(pen: Pen, individual: Individual) -> None:
    """A mug with a handle, seen from the front, with a drink in it."""
    handle = 0.9 + 0.1 * individual.feature
    pen.polygon([(0.7, 0.36), (handle, 0.36), (handle, 0.76), (0.7, 0.76)], individual.accent)
    pen.polygon([(0.06, 0.18), (0.78, 0.18), (0.7, 1.0), (0.14, 1.0)], individual.tint, main=True)
    pen.ellipse(0.06, 0.06, 0.78, 0.3, WHITE)
    pen.draw_pending()
    _draw_pattern(pen, individual)
    pen.mark(0.13, 0.1, 0.71, 0.26, (110, 70, 50))
    pen.patch([(0.8, 0.47), (handle - 0.07, 0.47), (handle - 0.07, 0.65), (0.78, 0.65)], INK)


DRAW: dict[str, Callable[[Pen, Individual], None]] = {
    shape.__name__: shape
    for shape in (cat, dog, bird, fish, house, tree, car, boat, rocket, flower, star, cup)
}
ASPECT = {
    "cat": 0.9,
    "dog": 0.88,
    "bird": 1.05,
    "fish": 1.4,
    "house": 1.0,
    "tree": 0.85,
    "car": 1.6,
    "boat": 1.05,
    "rocket": 0.72,
    "flower": 0.8,
    "star": 1.0,
    "cup": 1.05,
}
"""Width over height of each kind's drawing."""
