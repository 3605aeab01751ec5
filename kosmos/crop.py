"""Cut boxes out of a picture."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .box_conversion import Window


def shaped(pixels: Window, width: int, height: int, aspect: float) -> Window:
    """Return a window that has grown round its centre until it has an aspect (width over height).

    It is moved to stay inside the picture of `width` x `height`, and where the picture is too small
    it ends at the edge.
    """
    left, top, right, bottom = pixels
    wide, high = right - left, bottom - top
    if wide < high * aspect:
        left, right = _grown(left, right, width, round(high * aspect))
    else:
        top, bottom = _grown(top, bottom, height, round(wide / aspect))
    return left, top, right, bottom


def _grown(first: int, last: int, limit: int, length: int) -> tuple[int, int]:
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
