"""Crop boxes out of an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .box_conversion import Window


def expand_to_aspect(pixels: Window, width: int, height: int, aspect: float) -> Window:
    """Return a window expanded around its centre to an aspect ratio (width over height).

    It is moved to stay inside the image of `width` x `height`; in a smaller image it ends at the
    edge.
    """
    left, top, right, bottom = pixels
    window_width, window_height = right - left, bottom - top
    if window_width < window_height * aspect:
        left, right = _expand(left, right, width, round(window_height * aspect))
    else:
        top, bottom = _expand(top, bottom, height, round(window_width / aspect))
    return left, top, right, bottom


def _expand(first: int, last: int, limit: int, length: int) -> tuple[int, int]:
    length = min(max(length, last - first), limit)
    first -= (length - (last - first)) // 2
    first = min(max(first, 0), limit - length)
    return first, first + length


def crop(image: Tensor, pixels: Window, longest: int = 0) -> Tensor:
    """Return a window of an image [H,W,C], as [1,H',W',C].

    With `longest` above 0 the longer side is resized to this many pixels, keeping the aspect ratio:
    bicubic, with antialiasing, values clamped to 0..1.
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
