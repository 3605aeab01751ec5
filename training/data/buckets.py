"""Sizes that pictures of different shapes are trained at: about as many pixels, in few shapes.

NovelAI 2022, "Improvements on Stable Diffusion": aspect ratio bucketing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Size:
    """Sides of a training picture in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def sizes(resolution: int, step: int) -> list[Size]:
    """Return all sizes whose sides are multiples of `step`.

    Each is the largest of its width that has no more pixels than a square of `resolution`; sides
    are from half to twice that. With `step` 0 it is that square alone.
    """
    if not step:
        return [Size(resolution, resolution)]
    pixels = resolution * resolution
    found = set()
    for side in range(step, 2 * resolution + 1, step):
        other = pixels // side // step * step
        if 2 * min(side, other) >= resolution and max(side, other) <= 2 * resolution:
            found |= {Size(side, other), Size(other, side)}
    return sorted(found)


def size_for(shape: tuple[int, int], among: list[Size]) -> Size:
    """Return the size whose aspect ratio is nearest to that of a picture of a shape [H,W]."""
    height, width = shape
    ratio = math.log(width / height)
    return min(
        among,
        key=lambda size: (
            abs(math.log(size.width / size.height) - ratio),
            -size.width * size.height,
        ),
    )
