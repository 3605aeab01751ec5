"""Cut boxes out of a picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .grounding import Box

Window = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""


def window(box: Box, width: int, height: int, aspect: float | None = None) -> Window:
    """Return the pixels that a box covers, at least one, in a picture of `width` x `height`.

    With `aspect` (width over height) the window grows round its centre until it has that aspect; it
    is moved to stay inside the picture, and where the picture is too small, it ends at its edge.
    """
    left, right = _grown(box.x0 * width, box.x1 * width, width)
    top, bottom = _grown(box.y0 * height, box.y1 * height, height)
    if aspect is not None:
        wide, high = right - left, bottom - top
        if wide < high * aspect:
            left, right = _grown(left, right, width, round(high * aspect))
        else:
            top, bottom = _grown(top, bottom, height, round(wide / aspect))
    return left, top, right, bottom


def _grown(low: float, high: float, limit: int, length: int = 1) -> tuple[int, int]:
    """Return whole pixels from `low` to `high`, outwards, at least `length` of them if they fit."""
    first, last = max(math.floor(low), 0), min(math.ceil(high), limit)
    length = min(max(length, last - first), limit)
    first -= (length - (last - first)) // 2
    first = min(max(first, 0), limit - length)
    return first, first + length


def cut(image: Tensor, pixels: Window, longest: int = 0) -> Tensor:
    """Return a piece of a picture [H,W,C], as [1,H',W',C].

    With `longest` above 0 it is scaled, aspect kept, until its longer side has so many pixels:
    bicubic, smoothed when it becomes smaller, values cut off to 0..1.
    """
    left, top, right, bottom = pixels
    piece = image[None, top:bottom, left:right]
    height, width = piece.shape[1:3]
    if longest == 0 or max(height, width) == longest:
        return piece.clone()
    scale = longest / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    scaled = interpolate(piece.movedim(-1, 1).float(), size=size, mode="bicubic", antialias=True)
    return torch.clamp(scaled.movedim(1, -1), 0, 1)
