"""Aspect ratio buckets (NovelAI 2022, "Improvements on Stable Diffusion").

Images of different shapes are trained at a few sizes with about the same number of pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Size:
    """Width and height of a training image in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def bucket_sizes(resolution: int, step: int) -> list[Size]:
    """Return all sizes whose sides are multiples of `step`, sorted.

    For each width or height, the other side is the largest that keeps the area within
    `resolution` squared; sides lie between half and twice `resolution`. `step` 0 allows only the
    square.
    """
    if not step:
        return [Size(resolution, resolution)]
    pixels = resolution * resolution
    sizes = set()
    for side in range(step, 2 * resolution + 1, step):
        other = pixels // side // step * step
        if 2 * min(side, other) >= resolution and max(side, other) <= 2 * resolution:
            sizes |= {Size(side, other), Size(other, side)}
    return sorted(sizes)


def nearest_size(shape: tuple[int, int], sizes: list[Size]) -> Size:
    """Return the size whose aspect ratio is nearest to that of an image [H,W]."""
    height, width = shape
    ratio = math.log(width / height)
    return min(
        sizes,
        key=lambda size: (
            abs(math.log(size.width / size.height) - ratio),
            -size.width * size.height,
        ),
    )
